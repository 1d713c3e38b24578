"""Replies drawn and graded: figures against brute force, nothing that fails counts as right."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.codec.chat import Chat
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import DataError, UsageError
from exnihilo.eval.graders import Graded, create, grade_many
from exnihilo.eval.graders.reward_model import RewardModel
from exnihilo.eval.replies import Prompts, Reply, errors, evaluate_replies, figures
from exnihilo.infer import generate
from exnihilo.infer.predict import Predictor
from exnihilo.model import Model, build
from exnihilo.objective import registry


@pytest.fixture(scope="module")
def codec() -> Codec:
    return codecs.train(CodecConfig(kind="bytes"), ["text"])


def made(codec: Codec, *outputs: str, context: int = 64) -> Model:
    shape = ModelConfig(depth=1, width=32, heads=2, vocab_size=codec.vocab_size, context=context)
    return build(shape.model_copy(update={"outputs": outputs or ("tokens",)}), seed=0)


@pytest.fixture(scope="module")
def model(codec: Codec) -> Model:
    return made(codec)


EXAMPLES = [{"prompt": [{"role": "user", "content": f"{i}+1?"}], "answer": str(i + 1)} for i in range(6)]


def _odd(example: Mapping[str, Any], completion: str) -> float | None:
    del example
    return None if len(completion) % 3 == 0 else float(len(completion) % 3 == 1)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, data: Any) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    replies = [Reply(0, "", [], True, Graded(float(i < c))) for i in range(n)]
    found = figures(replies, n)
    if f"pass@{k}" in found:
        assert found[f"pass@{k}"] == pytest.approx(sum(any(s) for s in subsets) / len(subsets))
    assert found["pass@1"] == pytest.approx(c / n)


def test_figures_are_means_over_prompts() -> None:
    scores = [[1.0, 0.0, None, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    replies = [
        Reply(i, "x", [1] * (i + 1), i > 0, Graded(s, None if s is not None else "why", failed=s is None))
        for i, row in enumerate(scores)
        for s in row
    ]
    found = figures(replies, 4)
    assert found["pass@1"] == pytest.approx((0.5 + 0 + 1) / 3) and found["pass@4"] == pytest.approx(2 / 3)
    assert found["pass@2"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert found["length"] == 2 and found["stop_rate"] == pytest.approx(2 / 3)
    assert found["ungraded"] == found["failed"] == 1 and found["prompts"] == 3 and found["replies"] == 12
    assert found["pass@1_low"] <= found["pass@1"] <= found["pass@1_high"]
    assert errors(replies) == {"why": 1}


def test_replies_are_those_of_generate_and_grades_those_of_the_grader(model: Model, codec: Codec) -> None:
    found, replies = evaluate_replies(
        model, codec, EXAMPLES, _odd, samples=3, temperature=1.0, max_new_tokens=6, seed=3
    )
    chat = Chat(codec)
    prompts = [chat.prompt(e["prompt"]) for e in EXAMPLES for _ in range(3)]
    drawn = generate(model, codec, prompts, max_new_tokens=6, seed=3, eos=chat.stop_ids)
    assert [r.ids for r in replies] == [g.ids for g in drawn]
    assert [r.text for r in replies] == [chat.reply(g.ids) for g in drawn]
    assert [r.example for r in replies] == [i for i in range(6) for _ in range(3)]
    scores = [_odd({}, r.text) for r in replies]
    assert [r.graded.score for r in replies] == scores
    assert found["score"] == pytest.approx(np.mean([s or 0.0 for s in scores]))
    assert found["ungraded"] == scores.count(None) and set(found) >= {
        "pass@1",
        "pass@2",
        "pass@3",
        "stop_rate",
    }
    again, _ = evaluate_replies(
        model, codec, EXAMPLES, _odd, samples=3, temperature=1.0, max_new_tokens=6, seed=3
    )
    assert again == found


def test_a_grader_that_always_fails_gives_nothing(model: Model, codec: Codec) -> None:
    def bad(example: Mapping[str, Any], completion: str) -> float:
        raise RuntimeError("broken")

    found, replies = evaluate_replies(model, codec, EXAMPLES, bad, max_new_tokens=3)
    assert found["pass@1"] == found["score"] == 0.0 and found["failed"] == len(replies) == 6


def test_prompts_without_room_are_counted(
    model: Model, codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    found, replies = evaluate_replies(
        model, codec, [*EXAMPLES, {"prompt": "x" * 200}], create("number"), max_new_tokens=3
    )
    assert found["skipped"] == 1 and found["prompts"] == 6 and len(replies) == 6
    assert "example 7" in capsys.readouterr().err
    with pytest.raises(DataError, match="none of 1 prompts"):
        evaluate_replies(model, codec, [{"prompt": "x" * 200}], create("number"))
    with pytest.raises(UsageError, match="all would be the same"):
        evaluate_replies(model, codec, EXAMPLES, create("number"), samples=2)


def test_a_tokenizer_without_turns_goes_on_with_the_text() -> None:
    plain = codecs.train(CodecConfig(kind="wordpiece", vocab_size=200), ["some text of words"])
    prompts = Prompts(plain)
    assert prompts.chat is None and prompts.stop_ids == {plain.eos_id}
    assert prompts.ids("some text") == [plain.bos_id, *plain.encode("some text")]
    assert prompts.text([*plain.encode("of words"), plain.eos_id, 5]) == plain.decode(
        plain.encode("of words")
    )


def test_a_reward_model_scores_as_it_predicts(codec: Codec) -> None:
    judge = made(codec, "value")
    predictor = Predictor(judge, codec, registry.create("reward_model", {}, length=64))
    grader = RewardModel("unused")
    grader._predictor = predictor
    texts = ["Hi.", "Hello there.", "", "x" * 200]
    found = grade_many(grader, [EXAMPLES[0]] * 4, texts)
    wanted = predictor.predict([{"prompt": EXAMPLES[0]["prompt"], "completion": t} for t in texts[:2]])
    assert [g.score for g in found[:2]] == pytest.approx([p["score"] for p in wanted], abs=1e-6)
    assert found[2].score is not None and found[3].score is None and found[3].failed


def test_none_right_is_not_certain() -> None:
    wrong = [Reply(i, "", [1], True, Graded(0.0)) for i in range(10) for _ in range(4)]
    found = figures(wrong, 4)
    for k in (1, 2, 4):  # the rule of three: about 3/n, and Wilson's 0.278 at n = 10
        assert found[f"pass@{k}"] == 0 and found[f"pass@{k}_low"] == pytest.approx(0, abs=1e-12)
        assert 0.2 < found[f"pass@{k}_high"] < 0.3
