"""Tasks from random weights on labelled files of one's own: tokenizers learn from inputs, never labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exnihilo.codec import train as train_codec
from exnihilo.config_layers import load
from exnihilo.errors import ConfigError
from exnihilo.interop.load import load as load_run
from exnihilo.measure import prepare_for
from exnihilo.objective import registry
from exnihilo.plan import make as make_plan
from exnihilo.plan import vocabulary
from exnihilo.tokens import train_tokenizer
from exnihilo.train import facts, run
from exnihilo.train.progress import shown

WORDS = ["grey", "stone", "river", "lamp", "cloud", "table", "north", "paper"]
SMALL = [
    "model.preset=bert-tiny", "model.width=32", "model.heads=2", "model.context=32", "codec.vocab_size=300",
    "steps=2", "batch.tokens=256", "batch.micro_tokens=256", "threads=1", "dtype=fp32", "compile=off",
    "eval.every=9", "eval.samples=0",
]  # fmt: skip


def text_of(i: int) -> str:
    return " ".join(WORDS[(i * 7 + k * k) % 8] + "abcdefgh"[(i + k) % 8] for k in range(5))


def classes(path: Path) -> Path:
    rows = [f"{text_of(i)},{'ZX' if i % 3 else 'QX'}" for i in range(80)]
    path.write_text("\n".join(["sentence,label", *rows]) + "\n")
    return path


def tagged(path: Path) -> Path:
    rows = [{"words": text_of(i).split(), "tags": ["O", "B-QX", "I-QX", "O", "B-ZX"]} for i in range(80)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def squad(path: Path) -> Path:
    paragraphs = []
    for i in range(80):
        context, word = text_of(i), text_of(i).split()[2]
        answers = [{"text": word, "answer_start": context.index(word)}]
        qas = [{"id": f"QX{i}", "question": f"jumps {i % 4}", "answers": answers}]
        paragraphs.append({"context": context, "qas": qas})
    data = [{"title": f"ZX{i}", "paragraphs": paragraphs[i::40]} for i in range(40)]
    path.write_text(json.dumps({"version": "1.1", "data": data}))
    return path


MADE = {
    "sentence_classification": (classes, "rows.csv"),
    "token_tagging": (tagged, "rows.jsonl"),
    "span_qa": (squad, "train.json"),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", sorted(MADE))
def test_from_a_file_of_ones_own(name: str, tmp_path: Path) -> None:
    made, file = MADE[name]
    data = made(tmp_path / file)
    config, origins = load(name, [*SMALL, f"data={data}", f"run={tmp_path / 'r'}"])
    texts = list(facts.texts(config, registry.find(name)))
    assert len(texts) > 50 and not any("X" in text or "B-" in text for text in texts)
    assert run(config, origins=origins, progress=False).step == 2
    codec = load_run(tmp_path / "r").codec
    letters = {piece.removeprefix("##") for piece in codec.tokenizer.get_vocab(with_added_tokens=False)}
    assert not letters & {"x", "q", "z"}  # they stand in labels, ids and titles alone
    assert {"a", "g", "v"} <= letters and ("j" in letters) == (name == "span_qa")  # as questions say
    sentence = text_of(3)
    assert codec.decode(codec.encode(sentence)).replace(" ", "") == sentence.replace(" ", "")


def test_every_way_to_a_tokenizer_reads_the_same(tmp_path: Path) -> None:
    data = classes(tmp_path / "rows.csv")
    config, _ = load("sentence_classification", [*SMALL, f"data={data}"])
    made = train_tokenizer(config, tmp_path / "codec")
    with shown(False) as display:
        prepared, splits = prepare_for(config, display)
    assert made.hash == prepared.hash and splits.train.documents > 50
    chars = config.model_copy(
        update={"codec": config.codec.model_copy(update={"kind": "chars", "lowercase": False})}
    )
    count, note = vocabulary(chars)
    texts = list(facts.texts(config, registry.find("sentence_classification")))
    assert note == "counted in the data" and count == train_codec(chars.codec, texts).vocab_size


def test_a_tokenizer_does_not_see_the_validation_data(tmp_path: Path) -> None:
    data, val = classes(tmp_path / "rows.csv"), tmp_path / "val.csv"
    val.write_text("sentence,label\n" + "zyx zyx,ZX\n" * 5)
    config, _ = load("sentence_classification", [*SMALL, f"data={data}", f"val={val}"])
    texts = list(facts.texts(config, registry.find("sentence_classification")))
    assert len(texts) == 80 and not any("zyx" in text for text in texts)


@pytest.mark.parametrize("objective", ["sentence_classification", "masked_lm"])
def test_a_decoder_with_an_encoders_heads_is_refused_at_the_start(objective: str, tmp_path: Path) -> None:
    data = classes(tmp_path / "rows.csv")
    words = [*SMALL, "model.family=qwen3", f"data={data}"]
    recipe = "modernbert" if objective == "masked_lm" else objective
    config, origins = load(recipe, [*words, f"run={tmp_path / 'r'}"])
    for act in (
        lambda: run(config, origins=origins, progress=False),
        lambda: make_plan(config, measure=False),
    ):
        with pytest.raises(ConfigError, match="qwen3 is a decoder") as caught:
            act()
        assert "bert" in str(caught.value.expected) and caught.value.next == "model.family=bert"
    assert not (tmp_path / "r" / "tokenizer.json").exists()
