"""Questions about pictures and sounds: what a row holds, what is learnt of it, and how answers are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo.codec import train as train_codec
from exnihilo.codec.picture.read import Unreadable, pixels
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate
from exnihilo.data.base import Noted
from exnihilo.errors import ConfigError, DataError
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.objective._continue import continuations, documents
from exnihilo.objective.base import Item
from exnihilo.objective.media_qa import PLACE, MediaQA, places, plain
from exnihilo.objective.pieces import IGNORE
from exnihilo.world.pictures import render
from exnihilo.world.sounds import render as play

CODEC = train_codec(CodecConfig(kind="chars"), ["What colour is it? red blue the drum at the top"])
OPTIONS = {"size": 16, "patch": 8, "rate": 4000, "stack": 2}
BOTH = {
    "question": "What is it?", "answer": "red drum", "picture": "world:red-drum@1:3",
    "sound": "world:drum:1:0.2",
}  # fmt: skip
SEEN = {"question": "What colour?", "answer": "blue", "picture": "world:blue-kite@2:3"}
HEARD = {"question": "What is it?", "answer": "the drum", "sound": "world:drum:4:0.3"}
ASKED = {"question": "Who?", "answer": "me"}
ALL = (BOTH, SEEN, HEARD, ASKED)


def objective(length: int | None = 128, **options: Any) -> MediaQA:
    return MediaQA(MediaQA.Config.model_validate({**OPTIONS, **options}), length=length)


def item_of(example: dict[str, Any], made: MediaQA | None = None) -> Item:
    [[item]] = (made or objective()).encode_many([example], CODEC)
    return item


def model_of(made: MediaQA, seed: int = 0, depth: int = 2) -> Model:
    config = ModelConfig(
        family="qwen3", depth=depth, width=32, heads=2, context=128, vocab_size=CODEC.vocab_size,
        inputs=made.model_settings["inputs"],
    )  # fmt: skip
    return build(config, heads=("tokens",), seed=seed).eval()


def batch_of(items: list[Item], row: int = 160) -> dict[str, Tensor]:
    pieces = [[(i, 0, len(np.asarray(item["tokens"]))) for i, item in enumerate(items)]]
    columns = collate.of_items(pieces, items, row=row, pad_id=CODEC.pad_id)
    return {name: torch.from_numpy(value) for name, value in columns.items()}


# rows -------------------------------------------------------------------------------------------------------


def test_a_row_holds_picture_then_sound_then_words():
    made, item = objective(), item_of(BOTH)
    S, N = 4, 10  # 16 × 16 pixels in squares of 8; 0.2 s in positions of 20 ms
    asked, said = CODEC.encode(BOTH["question"]), CODEC.encode(BOTH["answer"])
    words = [CODEC.bos_id, *asked, CODEC.bos_id, *said, CODEC.eos_id]
    assert np.asarray(item["kind"]).tolist() == [2] * S + [1] * N + [0] * len(words)
    assert np.asarray(item["tokens"])[S + N :].tolist() == words
    image = render(BOTH["picture"], 16)
    squares = image.reshape(2, 8, 2, 8, 3).transpose(0, 2, 1, 3, 4).reshape(4, -1)
    assert (np.asarray(item["pixels"])[:S] == squares).all() and not np.asarray(item["pixels"])[S:].any()
    wave = np.asarray(item["wave"])[S : S + N].reshape(-1) / 32768
    assert np.abs(wave[: item["samples"]] - play(BOTH["sound"], 4000)).max() < 1e-4
    drawn = made._media({k: np.asarray(v) for k, v in batch_of([item]).items()}, None)
    assert np.allclose(drawn["patch"][0, :S, : 8 * 8 * 3], squares / 127.5 - 1, atol=1e-6)
    assert (drawn["patch"][0, :S, -PLACE:] == places((2, 2))).all() and not drawn["patch"][0, S:].any()
    assert drawn["sound"][0, S : S + N].any(1).all() and not drawn["sound"][0, :S].any()


def test_only_the_answer_and_its_end_are_learnt():
    for example in ALL:
        item = item_of(example)
        tokens, targets = np.asarray(item["tokens"]), np.asarray(item["targets"])
        held = np.flatnonzero(targets != IGNORE)
        assert targets[held].tolist() == [*CODEC.encode(example["answer"]), CODEC.eos_id]
        assert (targets[held[:-1]] == tokens[held[:-1] + 1]).all() and tokens[held[0]] == CODEC.bos_id


def test_an_answer_is_not_seen_by_what_predicts_it():
    """Another answer of the same length changes no state before the answer's own tokens."""
    made = objective()
    model = model_of(made)
    a, b = item_of(BOTH, made), item_of({**BOTH, "answer": "top blue"}, made)
    first = int(np.flatnonzero(np.asarray(a["targets"]) != IGNORE)[0])
    with torch.no_grad():
        one, two = (made.hidden(model, batch_of([item])) for item in (a, b))
        needed = made.reads(batch_of([a]))
    assert needed is not None and bool(needed[0, first])
    assert torch.equal(one[0, : first + 1], two[0, : first + 1])
    assert not torch.equal(one[0, first + 1], two[0, first + 1])


@pytest.mark.parametrize("swap", ["picture", "sound"])
def test_what_is_seen_and_heard_reaches_the_answer(swap: str):
    made = objective()
    model = model_of(made)
    other = {"picture": "world:black-frog@4:9", "sound": "world:siren:9:0.2"}
    with torch.no_grad():
        loss = [
            float(made.sums(model, batch_of([item_of(e, made)]))["nll"])
            for e in (BOTH, {**BOTH, swap: other[swap]})
        ]
    assert abs(loss[0] - loss[1]) > 1e-4


# reading ----------------------------------------------------------------------------------------------------


def slow(model: Model, made: MediaQA, example: dict[str, Any], most: int) -> tuple[list[int], float]:
    """Greedy, one example, the whole row anew for each token."""
    ids: list[int] = []
    total = 0.0
    query = made.query(example, CODEC)
    assert isinstance(query, dict)
    start = len(np.asarray(query["tokens"]))
    for _ in range(most):
        grown = {
            name: np.concatenate(
                (np.asarray(v), np.zeros((len(ids), *np.asarray(v).shape[1:]), np.asarray(v).dtype))
            )
            if np.asarray(v).ndim
            else v
            for name, v in query.items()
        }
        np.asarray(grown["tokens"])[start:] = ids
        raw = made.inputs(batch_of([grown]))
        with torch.no_grad():
            hidden = model(raw, made.attention)
            logp = model.heads["tokens"].logits(hidden[:, start - 1 + len(ids)]).log_softmax(-1)[0]
        best = int(logp.argmax())
        total += float(logp[best])
        if best == CODEC.eos_id:
            break
        ids.append(best)
    return ids, total


def test_answers_are_those_of_the_slow_way_alone_and_together():
    made = objective(max_new_tokens=6)
    for seed in range(3):
        model = model_of(made, seed)
        with torch.no_grad():  # so that marks of the end occur
            model.heads["tokens"].weight[CODEC.eos_id] *= 3  # type: ignore[index, operator]
        predictor = Predictor(model, CODEC, made)
        together = predictor.predict([*ALL, *ALL[::-1]])
        for example, said in zip([*ALL, *ALL[::-1]], together, strict=True):
            ids, total = slow(model, made, example, 6)
            assert said["answer"] == " ".join(CODEC.decode(ids).split())
            assert said["probability"] == pytest.approx(np.exp(total), rel=1e-4)
            assert predictor.predict([example])[0]["answer"] == said["answer"]


def test_the_answer_is_not_read_by_a_prediction():
    made = objective(max_new_tokens=4)
    predictor = Predictor(model_of(made), CODEC, made)
    assert predictor.predict([BOTH]) == predictor.predict([{**BOTH, "answer": "something else"}])
    assert predictor.predict([BOTH]) == predictor.predict([{k: v for k, v in BOTH.items() if k != "answer"}])


def test_a_continuation_ends_where_the_model_has_no_position_left():
    made = objective(max_new_tokens=64)
    model = model_of(made)
    raw = {"tokens": torch.full((2, 120), 7)}
    ids, _ = continuations(model, raw, CODEC, most=64)
    assert int((ids >= 0).sum(1).max()) <= 9


def test_documents_of_rows():
    doc = torch.tensor([[0, 0, 1, 1, 1, -1], [0, 1, 2, 2, -1, -1]])
    found = documents({"tokens": torch.zeros(2, 6), "doc": doc})
    assert found == [(0, 0, 2), (0, 2, 5), (1, 0, 1), (1, 1, 2), (1, 2, 4)]


# data -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_counted_by_its_reason(tmp_path: Any):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(Unreadable) as caught:
        pixels(tmp_path / "a.png")
    wrong = [
        ({**SEEN, "picture": str(tmp_path / "a.png")}, caught.value.reason),
        ({**HEARD, "sound": str(tmp_path / "a.wav")}, "empty"),
        ({**HEARD, "sound": "world:drum:4:9"}, "longer than the model's positions"),
        ({**ASKED, "question": "long " * 60}, "longer than the model's positions"),
        ({**ASKED, "answer": "  "}, "without an answer"), ({"answer": "me"}, "without a question"),
        ({**ASKED, "answer": ["a", "b"]}, "without an answer"),
    ]  # fmt: skip
    made = objective().encode_many([e for e, _ in wrong], CODEC)
    assert [m.note for m in made if isinstance(m, Noted)] == [note for _, note in wrong]
    with pytest.raises(DataError, match=r"a\.png"):
        objective(bad="stop").encode_many([wrong[0][0]], CODEC)


def test_numbers_and_truth_are_words_too():
    assert item_of({**ASKED, "answer": 3})["tokens"][-2] == CODEC.encode("3")[0]  # type: ignore[index]
    yes = np.asarray(item_of({**ASKED, "answer": True})["tokens"])
    assert CODEC.decode(yes[-4:-1].tolist()) == "yes"


def test_a_prediction_of_a_bad_file_names_it(tmp_path: Any):
    (tmp_path / "a.png").write_bytes(b"no picture")
    made = objective(max_new_tokens=2)
    good, bad, long = Predictor(model_of(made), CODEC, made).predict(
        [SEEN, {**SEEN, "picture": str(tmp_path / "a.png")}, {**HEARD, "sound": "world:drum:4:9"}]
    )
    assert "answer" in good and "a.png" in bad["error"] and bad["row"] == 2
    assert "9.0 s" in long["error"]


def test_texts_of_a_command_line():
    made = objective()
    assert made.of_texts(["a.PNG", "What?"]) == {"picture": "a.PNG", "question": "What?"}
    assert made.of_texts(["Who?", "b.wav", "a.jpg"]) == {
        "question": "Who?",
        "sound": "b.wav",
        "picture": "a.jpg",
    }
    assert made.of_texts(["What?", "Who?"]) is None


@pytest.mark.parametrize(
    "options", [{"size": 20, "patch": 8}, {"augment": {"mixup": 0.5}}, {"patch": 0}, {"colour": 1}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]):
    with pytest.raises(ValueError):
        objective(**options)


def test_a_model_too_short_for_a_picture_is_refused():
    with pytest.raises(ConfigError, match="a picture alone takes 64"):
        MediaQA(MediaQA.Config(), length=64)


# scores -----------------------------------------------------------------------------------------------------


def test_scores_by_kind_and_the_best_guess_of_each_question():
    train = [*([{**SEEN, "answer": "red"}] * 3), SEEN, HEARD, ASKED]
    facts = objective().survey(train)
    made = MediaQA(MediaQA.Config.model_validate(OPTIONS), length=128, facts=facts)
    said = [{"answer": a} for a in ("Red  drum.", "green", "drum", "me")]
    found = made.score(said, ALL)
    assert found["accuracy"] == 0.5
    assert {k: v for k, v in found.items() if k.startswith("accuracy_")} == {
        "accuracy_both": 1.0, "accuracy_picture": 0.0, "accuracy_sound": 0.0, "accuracy_text": 1.0,
    }  # fmt: skip
    assert found["f1"] == pytest.approx((1 + 0 + 1 + 1) / 4)  # articles do not count in F1
    guessed = made.majority(
        [{**SEEN, "answer": "red"}, SEEN, HEARD, {**ASKED, "question": "new", "answer": "red"}]
    )
    assert guessed["accuracy"] == 0.75  # red, red, the drum, and red of a question never asked
    with pytest.raises(DataError, match="no example has an answer"):
        objective().survey([{"question": "Who?"}])


def test_answers_are_compared_without_case_and_end():
    assert plain(" The  Drum!") == plain("the drum") != plain("a drum")


# learning ---------------------------------------------------------------------------------------------------


def test_a_small_model_learns_to_see_and_to_hear():
    """Colour of one thing, kind of one sound, by heart: six examples that differ in the media alone."""
    colours, kinds = ("red", "blue", "black"), ("bell", "drum", "rain")
    examples = [{**SEEN, "picture": f"world:{c}-ball@0:3", "answer": c} for c in colours]
    examples += [{**HEARD, "sound": f"world:{k}:4:0.2", "answer": k} for k in kinds]
    made = objective(max_new_tokens=8)
    model = model_of(made).train()
    batch = batch_of([item_of(e, made) for e in examples], row=320)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    count = made.counts(batch)["nll"]
    for _ in range(120):
        loss = made.sums(model, batch)["nll"] / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = made.score(Predictor(model.eval(), CODEC, made).predict(examples), examples)
    assert found["accuracy"] == 1.0
    blinded = [{**e, "picture": examples[0]["picture"]} for e in examples[:3]]
    blinded += [{**e, "sound": examples[3]["sound"]} for e in examples[3:]]
    found = made.score(Predictor(model, CODEC, made).predict(blinded), examples)
    assert found["accuracy"] == pytest.approx(1 / 3)
