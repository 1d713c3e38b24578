"""The suites retrieval and positions: what they ask, and that they tell a model that finds from one that
cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, DataConfig, ModelConfig
from exnihilo.errors import DataError
from exnihilo.eval.suites import Asked, positions, retrieval
from exnihilo.model import Model, build

TEXTS = [" ".join(f"{a}{b}{c}" for c in "wxyz" for b in "mnopqrs") for a in "abcdefghijkl"]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return codecs.train(CodecConfig(kind="chars"), [*TEXTS, "".join(map(chr, range(46, 123)))])


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(TEXTS))
    return DataConfig.model_validate({"sources": str(path), "unit": "paragraph"})


def model_of(codec: Codec, context: int = 128) -> Model:
    return build(ModelConfig(depth=1, width=32, vocab_size=codec.vocab_size, context=context)).eval()


class Seer(torch.nn.Module):
    """Continues a text as it went on where its last eight tokens stood before; else says token 0."""

    training = False

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.config, V = model.config, model.config.vocab_size
        same = torch.nn.Linear(V or 1, V or 1, bias=True)
        torch.nn.init.eye_(same.weight)
        torch.nn.init.zeros_(same.bias)
        self.heads = torch.nn.ModuleDict({"tokens": same})

    def forward(self, raw: Any) -> torch.Tensor:
        rows = raw["tokens"].tolist()
        out = torch.zeros(len(rows), len(rows[0]), self.config.vocab_size or 1)
        for b, row in enumerate(rows):
            for t in range(8, len(row)):
                key = row[t - 7 : t + 1]
                found = [i for i in range(7, t) if row[i - 7 : i + 1] == key]
                out[b, t, row[found[-1] + 1] if found else 0] = 9.0
        return out


def test_lengths_go_up_to_the_context() -> None:
    assert retrieval.lengths(64) == [64] and retrieval.lengths(40) == [40]
    assert retrieval.lengths(16384)[-1] == 16384 and len(retrieval.lengths(16384)) <= 6


def test_a_model_that_looks_back_finds_all(codec: Codec, data: DataConfig, tmp_path: Path) -> None:
    seer: Any = Seer(model_of(codec))
    found = retrieval.Retrieval().run(Asked(seer, codec, data, max_examples=2))
    assert found.figures["accuracy"] == 1.0 and found.figures["worst_cell"] == 1.0
    assert found.figures["guessed_accuracy"] < 0.5
    assert {(i["length"], i["depth"]) for i in found.items} == {
        (n, d) for n in (64, 128) for d in retrieval.DEPTHS
    }
    assert found.picture is not None
    found.picture(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 5000


def test_texts_are_as_long_as_they_say(codec: Codec, data: DataConfig) -> None:
    asked = Asked(model_of(codec), codec, data)
    for item in retrieval._passages(asked, [64, 128], 2):
        assert len(item.given) + len(item.wanted) == item.length + 1
        passage = item.given[-(retrieval.PASSAGE - retrieval.ASKED) :] + item.wanted
        text = item.given[: len(item.given) - (retrieval.PASSAGE - retrieval.ASKED)]
        at = next(i for i in range(len(text)) if text[i : i + retrieval.PASSAGE] == passage)
        room = len(text) - 1 - retrieval.PASSAGE
        assert at - 1 <= round(retrieval.DEPTHS[item.depth] * room)


def test_tasks_of_recall(codec: Codec) -> None:
    data = DataConfig.model_validate({"sources": "recall:needle"})
    found = retrieval.Retrieval().run(Asked(model_of(codec), codec, data, max_examples=2))
    assert found.figures["guessed_accuracy"] == 1 / 16 and found.figures["examples"] == 20
    first = DataConfig.model_validate({"sources": "recall:copy_first"})
    only = retrieval.Retrieval().run(Asked(model_of(codec), codec, first, max_examples=2))
    assert {i["depth"] for i in only.items} == {0.0}


def test_loss_by_position_is_the_loss(codec: Codec, data: DataConfig, tmp_path: Path) -> None:
    model = model_of(codec)
    asked = Asked(model, codec, data, max_examples=8)
    found = positions.Positions().run(asked)
    length = int(found.figures["length"])
    parts = [(k.split("_"), v) for k, v in found.figures.items() if k.startswith("loss_")]
    whole = sum((int(k[2]) - int(k[1]) + 1) * v for k, v in parts) / length
    assert whole == pytest.approx(found.figures["loss"], rel=1e-6)
    assert np.isfinite(found.figures["far_gain"]) and found.picture is not None
    found.picture(tmp_path / "line.png")
    assert (tmp_path / "line.png").stat().st_size > 5000


def test_what_is_too_little_is_said(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a few\n\nwords")
    data = DataConfig.model_validate({"sources": str(tmp_path / "short.txt")})
    for suite in (positions.Positions(), retrieval.Retrieval()):
        with pytest.raises(DataError):
            suite.run(Asked(model_of(codec), codec, data))
