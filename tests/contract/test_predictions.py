"""Every objective that predicts says the same of an example alone, among others and in another order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from exnihilo.infer.predict import Predictor, predicts

if TYPE_CHECKING:
    from tests.contract.conftest import Case


def close(a: Any, b: Any) -> bool:
    """Equal JSON, numbers within 1e-5."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and not isinstance(a, bool):
        return a == pytest.approx(b, abs=1e-5)
    return a == b


def test_predictions_are_the_same_alone_together_and_reordered(case: Case):
    objective = case.objective
    if not predicts(objective):
        pytest.skip("predicts nothing")
    examples = case.questions
    predictor = Predictor(case.model(), case.codec, objective)
    want = predictor.predict(examples)
    assert len(want) == len(examples) and not any("error" in p for p in want), want
    assert json.loads(json.dumps(want)) == want
    assert close(predictor.predict(examples[::-1])[::-1], want)
    assert close([predictor.predict([e])[0] for e in examples], want)
    if objective.supervised:
        scores, majority = objective.score(want, examples), objective.majority(examples)
        assert objective.main_metric in scores and objective.main_metric in majority
