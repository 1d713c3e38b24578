"""Rows that grow over a run: which step is in which stage, the same rows after a cut, and refusals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exnihilo.config import BatchConfig, ModelConfig, RunConfig
from exnihilo.errors import ConfigError, DataError
from exnihilo.train import loop, run
from exnihilo.train.source.curriculum import starts

Make = Callable[..., RunConfig]
STAGES = ((0.5, 8), (0.25, 16), (0.25, 32))


def _batch(**kw: Any) -> BatchConfig:
    return BatchConfig(**{"tokens": 256, "micro_tokens": 128, "lengths": STAGES, **kw})


def _rows(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


def test_shares_of_the_steps() -> None:
    assert starts(STAGES, 8) == [0, 4, 6]
    assert starts([(1, 8), (3, 16)], 100) == [0, 25]
    assert starts(STAGES, 1) == [0, 0, 1]


def test_rows_grow_and_tokens_stay(make: Make, tmp_path: Path) -> None:
    run(make(tmp_path / "run", batch=_batch(), steps=8), progress=False)
    rows = _rows(tmp_path / "run")
    assert [row["row_length"] for row in rows] == [8.0] * 4 + [16.0] * 2 + [32.0] * 2
    assert [row["tokens"] for row in rows] == [256 * n for n in range(1, 9)]
    assert all(row["loss"] > 0 for row in rows)


def test_a_higher_loss_of_longer_rows_is_no_spike(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the guard has seen when it judges a step: since the stage began, no more."""
    seen: list[int] = []
    judge = loop.guarding.Guard.judge

    def telling(self: Any, memory: Any, loss: float, norm: float) -> Any:
        seen.append(len(memory.history))
        return judge(self, memory, loss, norm)

    monkeypatch.setattr(loop.guarding.Guard, "judge", telling)
    run(make(tmp_path / "run", batch=_batch(), steps=8), progress=False)
    assert seen == [0, 1, 2, 3, 0, 1, 0, 1]


@pytest.mark.parametrize("cut", [3, 5])
def test_a_run_that_was_cut_goes_on_bit_for_bit(
    cut: int, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run(make(one, batch=_batch(), steps=8), progress=False)
    with monkeypatch.context() as patch:
        done = loop.Loop._done

        def telling(self: loop.Loop, at: int) -> None:
            done(self, at)
            if at + 1 == cut:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(loop.Loop, "_done", telling)
        assert run(make(other, batch=_batch(), steps=8), progress=False).interrupted
    run(make(other, batch=_batch(), steps=8), resume=True, progress=False)
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert [row["row_length"] for row in _rows(other)] == [row["row_length"] for row in _rows(one)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch": _batch(lengths=((0.5, 8), (0.5, 16)))}, "lengths that rise"),
        ({"batch": _batch(lengths=((0.5, 16), (0.3, 8), (0.2, 32)))}, "lengths that rise"),
        ({"batch": _batch(tokens=16)}, "batch.tokens=32"),
        ({"steps": None, "minutes": 1.0}, "by the clock"),
        (
            {
                "objective": "recall",
                "data": "recall:copy_first:32:80",
                "batch": _batch(lengths=((1, 2), (1, 32))),
            },
            "no item fits",
        ),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    values: dict[str, Any], said: str, make: Make, tmp_path: Path
) -> None:
    given = {"batch": _batch(), "model": ModelConfig(depth=1, width=32, context=32), **values}
    with pytest.raises((ConfigError, DataError)) as caught:
        run(make(tmp_path / "run", **given), progress=False)
    assert said in str(caught.value)
