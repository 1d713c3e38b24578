"""Rows are full: below 5% padding, whatever the lengths of documents and the model's context."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, DataConfig, RunConfig
from exnihilo.config_layers import load
from exnihilo.data import Splits, examples, prepare
from exnihilo.objective import draws, registry
from exnihilo.objective._pairs import Pieces
from exnihilo.objective.base import Objective
from exnihilo.objective.pieces import IGNORE
from exnihilo.train import facts

WORLD = "world:400"
SHARED = Path(os.environ.get("EXNIHILO_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def codec() -> Codec:
    told = RunConfig(data=DataConfig.model_validate({"sources": "world:150"}))
    return train_codec(
        CodecConfig(kind="wordpiece", vocab_size=1500, lowercase=True),
        facts.texts(told, registry.find("masked_lm")),
    )


def laid(
    name: str, source: str, context: int, codec: Codec, cache: Path, options: Any = None
) -> tuple[Objective, Splits]:
    """The rows of an objective, as a run prepares them."""
    data = DataConfig.model_validate({"sources": source})
    objective = registry.create(name, options, length=context)
    if facts.surveys(objective):
        found = examples(data, None, "train", **facts.reading(objective), cache=cache)
        objective.facts = dict(objective.survey(found))
    return objective, prepare(
        data,
        None,
        encode=partial(objective.encode_many, codec=codec),
        key=f"{name} {context} {options}",
        context=objective.row or context,
        seed=0,
        cache=cache,
        pad_id=codec.pad_id,
        **facts.laying(objective),
    )


@pytest.mark.parametrize("context", [128, 256])
@pytest.mark.parametrize("name", ["masked_lm", "replaced_tokens"])
def test_pretraining_on_the_world(name: str, context: int, codec: Codec, tmp_path: Path) -> None:
    objective, splits = laid(name, WORLD, context, codec, tmp_path)
    report = splits.report.train
    assert report.padded < 0.05 and report.repeated < 0.01 and report.cropped == 0
    data = splits.train
    batch = data.batch(np.arange(data.rows))
    first = (batch["pos"] == 0) & (batch["doc"] >= 0)
    following = np.pad(batch["doc"], ((0, 0), (0, 1)), constant_values=-2)[:, 1:]
    last = (batch["doc"] >= 0) & (following != batch["doc"])
    assert (batch["tokens"][first] == codec.cls_id).all()
    assert (batch["tokens"][last] == codec.sep_id).all() and first.sum() == last.sum()
    ends = (batch["tokens"] == codec.cls_id) | (batch["tokens"] == codec.sep_id)
    assert ends.sum() == 2 * first.sum()  # and nowhere else
    drawn = [
        draws.draw(objective, data, np.arange(4), codec=codec, seed=5, step=step)["targets"]
        for step in (3, 3, 4)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


@pytest.mark.parametrize("context", [128, 256])
def test_pairs_on_the_world(context: int, codec: Codec, tmp_path: Path) -> None:
    """A block that was cut to fill a row is a block like others: its document goes on after it."""
    objective, splits = laid("mix", WORLD, context, codec, tmp_path)
    data = splits.train
    assert data.report.padded < 0.05 and data.report.repeated < 0.01 and data.report.cropped == 0
    stories = len({(ref.file, ref.index) for row in range(data.rows) for ref in data.refs(row)})
    batch = data.batch(np.arange(data.rows))
    assert (batch["sentence"] & 2 > 0).sum() == stories == (Pieces.of(batch).ends).sum()
    at_first = (batch["pos"] == 0) & (batch["doc"] >= 0)
    assert (batch["tokens"] == codec.cls_id).sum() == at_first.sum()
    assert (batch["tokens"] == codec.sep_id).sum() == 2 * at_first.sum()
    drawn = draws.draw(objective, data, np.arange(data.rows), codec=codec, seed=5, step=1)
    labels = drawn["label"][drawn["label"] != IGNORE]
    assert len(labels) > 0.8 * at_first.sum() and 0.4 < labels.mean() < 0.6


@pytest.mark.parametrize("name", ["masked_lm", "mix"])
@pytest.mark.parametrize("context", [128, 256])
def test_pretraining_on_real_stories(name: str, context: int, codec: Codec, tmp_path: Path) -> None:
    path = SHARED / "tinystories-sample" / "valid.txt"
    if not path.is_file():
        pytest.skip(f"the data sets are not in {SHARED}")
    _, splits = laid(name, str(path), context, codec, tmp_path)
    assert splits.report.train.padded < 0.05 and splits.report.train.cropped == 0


@pytest.mark.parametrize("context", [128, 256])
@pytest.mark.parametrize("name", ["span_qa", "embeddings"])
def test_items_that_stand_for_themselves(name: str, context: int, codec: Codec, tmp_path: Path) -> None:
    _, splits = laid(name, "world:250", context, codec, tmp_path)
    assert splits.report.train.padded < 0.05
    assert splits.report.train.repeated == 0 == splits.report.train.cropped


def test_a_row_of_embeddings_holds_several_pairs(codec: Codec, tmp_path: Path) -> None:
    config, _ = load("embeddings", [])
    _, splits = laid("embeddings", "world:250", config.model.context, codec, tmp_path)
    data = splits.train
    assert config.model.context == 128 and data.row == 512
    pairs = data.batch(np.arange(data.rows))["doc"].max(1) + 1
    assert pairs.mean() > 3.5 and (pairs > 1).mean() > 0.95


def test_causal_rows_are_as_they_were(codec: Codec, tmp_path: Path) -> None:
    """The plan of next-token prediction: an overlap of one, and nothing put around a piece."""
    objective, splits = laid("causal_lm", "world:100", 64, codec, tmp_path)
    assert objective.frame is None is splits.train.parts[0].frame
    data = splits.train
    store, pack = data.parts[0].store, data.parts[0].pack
    ends = np.concatenate([[0], store["end"]])
    batch = data.batch(np.arange(data.rows))
    for row in range(data.rows):
        a, b = int(pack["row_start"][row]), int(pack["row_start"][row + 1])
        pieces = zip(pack["doc"][a:b].tolist(), pack["start"][a:b].tolist(), pack["length"][a:b].tolist(),
                     strict=True)  # fmt: skip
        flat = [store["tokens"][ends[d] + s : ends[d] + s + n] for d, s, n in pieces]
        wanted = np.concatenate(flat)
        np.testing.assert_array_equal(batch["tokens"][row][: len(wanted)], wanted)
