"""Suites: figures against a brute-force count, records of all known shapes, and what cannot be used."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.codec.base import Codec
from exnihilo.codec.chat import Chat
from exnihilo.config import DataConfig, ModelConfig
from exnihilo.errors import ConfigError, DataError, UsageError
from exnihilo.eval.likelihood import encode_pair, likelihoods
from exnihilo.eval.suites import Asked, create, names, parse
from exnihilo.eval.suites._shapes import Passage, Question, code, last_word, passage, problem, question
from exnihilo.eval.suites.base import ratio
from exnihilo.infer import generate
from exnihilo.model import Model, build

PASSAGES = [
    f"The old fox lives in a small den by the {word}" for word in ("river", "ball", "river", "den", "fox")
]
QUESTIONS: list[dict[str, Any]] = [
    {"question": "What is 3 + 4?", "choices": ["7", "three", "the old fox"], "answer": 0},
    {"question": "Who had the ball?", "choices": ["Mia", "Tom"], "answer": "B"},
    {
        "question": "Where?",
        "choices": ["in a den", "by the river", "in the end", "ball"],
        "answer": "in the end",
    },
]
PROBLEMS = [
    {"question": f"What is {n} + 4?", "answer": f"{n} + 4 = {n + 4}\n#### {n + 4}"} for n in (1, 2, 2, 3)
]


def written(path: Path, records: list[Any]) -> DataConfig:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return DataConfig.model_validate({"sources": str(path)})


def test_lambada_counts_what_greedy_decoding_writes(
    little: Model, little_codec: Codec, tmp_path: Path
) -> None:
    data = written(tmp_path / "p.jsonl", [{"text": text} for text in PASSAGES])
    figures, items, _ = vars(create("lambada").run(Asked(little, little_codec, data))).values()
    right, nats = [], []
    for text in PASSAGES:
        context, _, word = text.rpartition(" ")
        before, after = encode_pair(little_codec, context, f" {word}")
        [written_] = generate(little, None, [before], temperature=0, max_new_tokens=len(after), eos=())
        right.append(written_.ids == after)
        nats.append(-likelihoods(little, [(before, after)])[0].logprob)
    assert figures["accuracy"] == np.mean(right) and [i["right"] for i in items] == right
    assert figures["perplexity"] == pytest.approx(math.exp(np.mean(nats)))
    assert figures["perplexity_low"] <= figures["perplexity"] <= figures["perplexity_high"]
    assert figures["majority_accuracy"] == 2 / 5 and figures["examples"] == 5 and figures["dropped"] == 0
    plain = tmp_path / "p.txt"
    plain.write_text("\n<|endoftext|>\n".join([*PASSAGES, "alone"]))
    asked = Asked(little, little_codec, DataConfig.model_validate({"sources": str(plain)}))
    again = create("lambada").run(asked).figures
    assert again == {**figures, "dropped": 1.0} and "fewer than two words" in asked.drops.summary()


def test_multiple_choice_takes_the_likeliest(little: Model, little_codec: Codec, tmp_path: Path) -> None:
    data = written(tmp_path / "q.jsonl", QUESTIONS)
    result = create("multiple_choice").run(Asked(little, little_codec, data))
    for record, item in zip(QUESTIONS, result.items, strict=True):
        prompt = f"Question: {record['question']}\nAnswer:"
        rows = [encode_pair(little_codec, prompt, f" {c}") for c in record["choices"]]
        logps = [likelihoods(little, [row])[0].logprob for row in rows]
        assert item["logprobs"] == pytest.approx(logps, abs=1e-4)
        assert item["right"] == (int(np.argmax(logps)) == item["answer"])
        normed = [logp / len(c) for logp, c in zip(logps, record["choices"], strict=True)]
        assert item["right_norm"] == (int(np.argmax(normed)) == item["answer"])
    assert result.figures["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 4) / 3)
    assert [i["answer"] for i in result.items] == [0, 1, 2]


def test_shots_stand_before_the_question_and_are_not_asked(
    little: Model, little_codec: Codec, tmp_path: Path
) -> None:
    data = written(tmp_path / "q.jsonl", QUESTIONS)
    first = create("multiple_choice").run(Asked(little, little_codec, data, shots=1))
    assert first.figures["examples"] == 2 and first.items[0]["prompt"] == "Who had the ball?"
    prompt = "Question: What is 3 + 4?\nAnswer: 7\n\nQuestion: Who had the ball?\nAnswer:"
    rows = [encode_pair(little_codec, prompt, f" {c}") for c in ("Mia", "Tom")]
    assert first.items[0]["logprobs"] == pytest.approx(
        [x.logprob for x in likelihoods(little, rows)], abs=1e-4
    )
    other = create("multiple_choice").run(Asked(little, little_codec, data, shots=1, shots_from=data))
    assert other.figures["examples"] == 3
    with pytest.raises(DataError, match="shots=9"):
        create("multiple_choice").run(Asked(little, little_codec, data, shots=9))


def test_a_gap_is_scored_by_what_is_behind_it(little: Model, little_codec: Codec, tmp_path: Path) -> None:
    record = {
        "sentence": "Mia gave the ball to _ in the end.",
        "option1": "Tom",
        "option2": "the fox",
        "answer": "2",
    }
    data = written(tmp_path / "w.jsonl", [record])
    [item] = create("multiple_choice").run(Asked(little, little_codec, data)).items
    rows = [
        encode_pair(little_codec, f"Mia gave the ball to {x}", " in the end.") for x in ("Tom", "the fox")
    ]
    assert item["answer"] == 1
    assert item["logprobs"] == pytest.approx([x.logprob for x in likelihoods(little, rows)], abs=1e-4)


def test_gsm8k_grades_what_stands_before_the_next_question(
    little: Model, little_codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = written(tmp_path / "g.jsonl", PROBLEMS)
    asked = Asked(little, little_codec, data, max_new_tokens=8, samples=4, seed=1)
    result = create("gsm8k").run(asked)
    prompts = [
        [little_codec.bos_id, *little_codec.encode(f"Question: {p['question']}\nAnswer:")] for p in PROBLEMS
    ]
    drawn = generate(
        little,
        little_codec,
        [p for p in prompts for _ in range(4)],
        max_new_tokens=8,
        seed=1,
        stop=["Question:"],
    )
    assert [i["reply"] for i in result.items] == [g.text for g in drawn]
    assert {"pass@1", "pass@2", "pass@4", "pass@4_low", "stop_rate", "length"} <= set(result.figures)
    assert result.figures["majority_pass@1"] == 2 / 4 and result.figures["examples"] == 4
    assert create("gsm8k").run(asked).figures == result.figures  # the same seed, the same figures


def test_answers_that_are_right_count(
    little: Model, little_codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is put words into its mouth: every other reply is right."""
    from exnihilo.eval.suites import _replies
    from exnihilo.infer import Generation

    def said(model: Any, codec: Any, prompts: list[list[int]], **options: Any) -> list[Generation]:
        texts = [f" It is {n + 5 if n % 2 else 99}." for n in range(len(prompts))]
        return [
            Generation(t, [1, 2], [0.0, 0.0], [0.0, 0.0], "stop", p)
            for t, p in zip(texts, prompts, strict=True)
        ]

    monkeypatch.setattr(_replies, "generate", said)
    data = written(tmp_path / "g.jsonl", [{"question": "?", "answer": f"#### {n + 5}"} for n in range(6)])
    figures = create("gsm8k").run(Asked(little, little_codec, data)).figures
    assert figures["pass@1"] == 0.5 and figures["pass@1_low"] < 0.5 < figures["pass@1_high"]
    assert figures["stop_rate"] == 1 and figures["no_room"] == 0


def test_prompts_without_room_count_as_wrong(little: Model, little_codec: Codec, tmp_path: Path) -> None:
    long = {"question": "x" * 400, "answer": "1"}
    data = written(tmp_path / "g.jsonl", [PROBLEMS[0], long])
    figures = create("gsm8k").run(Asked(little, little_codec, data, max_new_tokens=2)).figures
    assert figures["no_room"] == 1 and figures["prompts"] == 1 and figures["examples"] == 2
    with pytest.raises(DataError, match="none of 1 prompts"):
        create("gsm8k").run(Asked(little, little_codec, written(tmp_path / "l.jsonl", [long])))


def test_a_model_that_answers_is_asked_in_turns(little: Model, little_codec: Codec, tmp_path: Path) -> None:
    chat = Chat(little_codec)
    data = written(tmp_path / "q.jsonl", QUESTIONS[:2])
    asked = Asked(little, little_codec, data, chat=chat, shots=1)
    [item] = create("multiple_choice").run(asked).items
    turns = [
        {"role": "user", "content": "What is 3 + 4?"}, {"role": "assistant", "content": "7"},
        {"role": "user", "content": "Who had the ball?"},
    ]  # fmt: skip
    rows = [(chat.prompt(turns), chat.completion(c)) for c in ("Mia", "Tom")]
    assert item["logprobs"] == pytest.approx([x.logprob for x in likelihoods(little, rows)], abs=1e-4)


def test_bits_per_byte_is_the_sum_over_all_texts(little: Model, little_codec: Codec, tmp_path: Path) -> None:
    texts = ["The old fox lives in a small den. " * 9, "Mia had the ball.", "é" * 30]
    data = written(tmp_path / "t.jsonl", [{"text": text} for text in texts])
    result = create("bits_per_byte").run(Asked(little, little_codec, data))
    rows = [([little_codec.bos_id], little_codec.encode(text)) for text in texts]
    nats = -math.fsum(one.logprob for one in likelihoods(little, rows))
    size = sum(len(text.encode()) for text in texts)
    f = result.figures
    assert f["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)
    assert f["loss"] == pytest.approx(nats / sum(len(ids) for _, ids in rows)) and f["bytes"] == size
    assert (
        f["bits_per_byte_low"] <= f["bits_per_byte"] <= f["bits_per_byte_high"] and f["resampled_windows"] > 3
    )
    squeezed = len(zlib.compress("".join(text + "\n" for text in texts).encode(), 9))
    assert f["zlib_bits_per_byte"] == pytest.approx(8 * squeezed / size, rel=0.05)
    nearer = create("bits_per_byte").run(Asked(little, little_codec, data, stride=8)).figures
    rows = [([little_codec.bos_id], little_codec.encode(text)) for text in texts]
    again = -math.fsum(one.logprob for one in likelihoods(little, rows, stride=8))
    assert nearer["bits_per_byte"] == pytest.approx(again / math.log(2) / size)


def test_code_runs_in_the_sandbox(
    little: Model, little_codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exnihilo.eval.suites import _replies
    from exnihilo.infer import Generation

    replies = iter(["    return a + b\n", "    return a\n", "def double(x):\n    return 2 * x\n"])

    def said(model: Any, codec: Any, prompts: list[list[int]], **options: Any) -> list[Generation]:
        return [Generation(next(replies), [1], [0.0], [0.0], "stop", p) for p in prompts]

    monkeypatch.setattr(_replies, "generate", said)
    humaneval = {
        "prompt": 'def add(a, b):\n    """a + b"""\n', "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
    }  # fmt: skip
    mbpp = {"text": "Double it.", "test_list": ["assert double(4) == 8"], "code": "..."}
    big = ModelConfig(depth=1, width=32, heads=2, vocab_size=little_codec.vocab_size, context=256)
    asked = Asked(
        build(big, seed=0), little_codec, written(tmp_path / "c.jsonl", [humaneval, humaneval, mbpp])
    )
    result = create("code").run(asked)
    assert [i["right"] for i in result.items] == [True, False, True], result.items
    assert result.figures["pass@1"] == pytest.approx(2 / 3)


def test_the_world_has_items_for_every_suite_that_needs_no_data(little_codec: Codec) -> None:
    shape = ModelConfig(depth=1, width=32, heads=2, vocab_size=little_codec.vocab_size, context=512)
    model = build(shape, seed=0)
    world = DataConfig.model_validate({"sources": "world:4"})
    for name in names():
        if not create(name).needs_data:
            asked = Asked(model, little_codec, world, max_new_tokens=2)
            cells = 5 * 4 * 8 if name == "retrieval" else 4  # depths, lengths, texts of each
            assert create(name).run(asked).figures["examples"] == cells, name
    with pytest.raises(ConfigError, match="world or world:N"):
        create("lambada").run(Asked(model, little_codec, DataConfig.model_validate({"sources": "world:qa"})))


def test_shapes_of_well_known_sets() -> None:
    arc = {
        "question": "Why?",
        "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    }
    assert question(arc) == Question("Why?", ("a", "b", "c"), 1, True)
    rows = {**arc, "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}], "answerKey": "B"}
    assert question(rows) == Question("Why?", ("a", "b"), 1, True)
    mmlu = {"question": "Why?", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "D"}
    assert question(mmlu) == Question("Why?", ("a", "b", "c", "d"), 3, True)
    assert question({"ctx": "He ran", "endings": ["off", "up"], "label": "1"}) == Question(
        "He ran", ("off", "up"), 1, False
    )
    assert question({"goal": "Cook", "sol1": "x", "sol2": "y", "label": 0}) == Question(
        "Cook", ("x", "y"), 0, True
    )
    both = {"passage": "It rained.", "question": "Wet?", "choices": ["yes", "no"], "answer": "yes"}
    assert question(both) == Question("It rained.\n\nWet?", ("yes", "no"), 0, True)
    svamp = {"Body": "He has 3", "Question": "How many?", "Answer": 51.0}
    assert (one := problem(svamp)) and not isinstance(one, str)
    assert one.question == "He has 3. How many?" and one.answer == "51"
    assert passage({"context": "He ran ", "target": "off"}) == Passage("He ran", " off")


def test_records_that_cannot_be_used_are_counted(little: Model, little_codec: Codec, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    bad: list[Any] = [
        {"question": "no choices", "answer": 1}, {"question": "?", "choices": ["a"], "answer": 0},
        {"question": "?", "choices": ["a", "b"]}, {"question": "?", "choices": ["a", "b"], "answer": 7},
        {"choices": ["a", "b"], "answer": 0},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(r) + "\n" for r in [QUESTIONS[0], *bad]) + "{broken\n")
    asked = Asked(little, little_codec, DataConfig.model_validate({"sources": str(path)}))
    figures = create("multiple_choice").run(asked).figures
    assert figures["examples"] == 1 and figures["dropped"] == 6
    said = asked.drops.summary()
    for reason in (
        "without choices",
        "fewer than two",
        "without an answer",
        "none of the choices",
        "broken JSON",
    ):
        assert reason in said
    assert "line 3" in said and "line 7" in said
    path.write_text("".join(json.dumps(r) + "\n" for r in bad))
    with pytest.raises(DataError, match="nothing to evaluate on: .*skipped"):
        create("multiple_choice").run(Asked(little, little_codec, asked.data))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    ["question", "choices", "answer", "label", "text", "ctx", "endings", "goal", "sol1", "sol2", "sentence"]
    + ["option1", "option2", "A", "B", "Body", "prompt", "test", "target", "context", "answerKey"]
)


@given(st.dictionaries(_KEYS, _JSON, max_size=6))
def test_any_record_is_read_or_refused_in_words(record: dict[str, Any]) -> None:
    for read in (passage, question, problem, code):
        found = read(record)
        if isinstance(found, Question):
            assert 0 <= found.answer < len(found.choices) >= 2 and all(found.choices)
        if isinstance(found, str):
            assert found.startswith(("with", "whose", "of fewer"))


@given(st.text(max_size=40))
def test_the_last_word_and_what_is_before_it_are_the_text(text: str) -> None:
    found = last_word(text)
    if isinstance(found, Passage):
        whole = text.strip()
        assert (
            whole.startswith(found.context)
            and whole.endswith(found.target[1:])
            and " " not in found.target[1:]
        )


def test_ratio_covers_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        under = rng.integers(5, 50, 60).astype(float)
        top = under * 2 + rng.normal(0, 10, 60)
        _, low, high = ratio(top.tolist(), under.tolist(), seed=trial, draws=300)
        inside += low <= 2 <= high
    assert 170 <= inside <= 199  # 95% of 200, and room for a bootstrap of 60


def test_names_and_options(little: Model, little_codec: Codec) -> None:
    of_texts = {"bits_per_byte", "positions", "retrieval"}
    assert set(names()) == {"lambada", "multiple_choice", "gsm8k", "code", *of_texts}
    assert parse("a=x.jsonl, multiple-choice") == [("a", "x.jsonl"), ("multiple_choice", None)]
    for wrong in ("", "a,,b", "a=", ["a", "a"]):
        with pytest.raises(UsageError):
            parse(wrong)
    with pytest.raises(UsageError, match="lambda.*\n.*lambada"):
        create("lambda")
    refused: list[dict[str, Any]] = [{"shots": -1}, {"samples": 0}, {"max_examples": 0}, {"stride": 1.5}]
    for bad in [*refused, {"shots_from": DataConfig()}]:
        with pytest.raises(UsageError):
            Asked(little, little_codec, **bad)
    shape = ModelConfig(depth=1, width=32, heads=2, vocab_size=little_codec.vocab_size, context=16)
    encoder = build(shape.model_copy(update={"family": "bert", "outputs": ("mlm",)}), seed=0)
    with pytest.raises(UsageError, match="encoder"):
        Asked(encoder, little_codec)
