"""Questions about nothing: they have no answer, in training, evaluation and prediction."""

from __future__ import annotations

import numpy as np
import pytest

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.eval.examples import evaluate_examples
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.objective import registry

TEXTS = ["Mia ran home. The owl saw her.", "Who ran home?"]


def ready(codec: Codec, unanswerable: int) -> Predictor:
    objective = registry.create("span_qa", length=32, facts={"unanswerable": unanswerable})
    shape = ModelConfig(family="bert", depth=1, width=32, heads=2, context=32, vocab_size=codec.vocab_size)
    return Predictor(build(shape, heads=objective.heads, seed=0), codec, objective)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "bytes"])
@pytest.mark.parametrize("unanswerable", [0, 3])
def test_prediction_says_that_there_is_none(kind: str, unanswerable: int) -> None:
    codec = train_codec(CodecConfig.model_validate({"kind": kind, "vocab_size": 400}), TEXTS)
    predictor = ready(codec, unanswerable)
    asked = [{"question": "Who ran?", "context": c} for c in ("", " \n", "Mia ran home.")]
    nothing, blank, something = predictor.predict(asked)
    for found in (nothing, blank):
        assert (found["answer"], found["start"], found["end"], found["nbest"]) == ("", None, None, [])
        assert found["probability"] == 1.0 == found["no_answer_probability"]
    assert "error" not in something and something["nbest"]
    (unasked,) = predictor.predict([{"question": " ", "context": "Mia ran home."}])
    assert "empty question" in unasked["error"]


def test_training_and_evaluation_take_them_for_unanswerable() -> None:
    codec = train_codec(CodecConfig(kind="wordpiece", vocab_size=200, lowercase=True), TEXTS)
    predictor = ready(codec, 1)
    objective = predictor.objective
    rows = [
        {"question": "Who ran?", "context": "", "answers": []},
        {"question": "Who ran?", "context": "Mia ran.", "answers": [{"text": "Mia", "start": 0}]},
        {"question": "Who ran?", "context": "", "answers": [{"text": "Mia", "start": 0}]},
    ]
    facts = objective.survey(rows)
    assert (facts["unanswerable"], facts["skipped_rows"]) == (1, 1)
    (item,), _, lost = objective.encode_many(rows, codec)
    assert lost == [] and np.asarray(item["start"]).tolist()[0] == 1 == np.asarray(item["end"]).tolist()[0]
    found, predictions = evaluate_examples(predictor.model, objective, codec, rows[:2], device="cpu")
    assert found["examples"] == 2 and found["skipped"] == 0
    assert predictions[0]["answer"] == "" and found["NoAns_exact"] == 100.0
