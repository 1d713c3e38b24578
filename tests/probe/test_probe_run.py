"""The whole probe on a run folder: figures, pictures, odd inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import DataError, UsageError
from exnihilo.interop import hf
from exnihilo.model import build
from exnihilo.probe import picture
from exnihilo.probe.influence import Influence
from exnihilo.probe.run import probe, rows, summary

TEXTS = ["the old fox went home and slept until the morning came again", "a cat sat on the mat all day long"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    codec = codecs.train(CodecConfig(kind="chars"), TEXTS)
    shape = ModelConfig(depth=2, width=32, heads=2, context=32, vocab_size=codec.vocab_size)
    hf.save(build(shape, seed=0), codec, folder)
    (folder / "texts.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    return folder


def test_a_run_gives_figures_and_pictures(run: Path):
    figures = probe(run, data=str(run / "texts.txt"), texts=2, length=12, draws=1)
    mean, low, high = figures["first_to_last"]
    assert 0 < low <= mean <= high and figures["future"] == 0.0 and figures["head"] == "tokens"
    names = {Path(f).name for f in figures["files"]}
    assert names == {"distance.png", "map.png", "text.html"}
    assert json.loads((run / "probe" / "influence.json").read_text())["reach"] == figures["reach"]
    assert len(summary(figures)) == 4 + len(figures["doubts"])
    assert figures["doubts"]  # nothing is learnt there


def test_one_text_of_ones_own_may_be_short(run: Path, tmp_path: Path):
    figures = probe(run, text="the cat", length=32, draws=1, out=tmp_path)
    assert figures["texts"] == 1 and figures["length"] == 8 and (tmp_path / "text.html").exists()


def test_wrong_use_says_what_to_do(run: Path):
    with pytest.raises(UsageError, match="context is 32"):
        probe(run, text="the cat", length=64)
    with pytest.raises(UsageError, match="does not say"):
        probe(run)
    codec = codecs.load(run)
    with pytest.raises(DataError, match="none of 2 texts has 500"):
        rows(codec, TEXTS, 2, 500)


def test_tokens_are_escaped_and_the_largest_is_deepest():
    page = picture.as_text(["<b>", "x"], np.array([4.0, 0.0]))
    assert "&lt;b&gt;" in page and "rgba(29,78,216,1.000)" in page
    assert picture.painted(["<b>", "x"], np.array([4.0, 0.0])).plain == "<b>x"


def test_a_line_without_any_influence_is_drawn(tmp_path: Path):
    found = Influence(np.zeros((1, 3, 3)), (0, 1, 2), 0.0, 0)
    picture.over_distance({"none": found}, tmp_path / "a.png")
    picture.as_map(found, tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 1000 and (tmp_path / "b.png").stat().st_size > 1000
