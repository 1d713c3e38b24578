"""The model card says what the run folder says, and names what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import CheckpointError
from exnihilo.interop import hf
from exnihilo.interop.load import load
from exnihilo.model import build
from exnihilo.report.card import card

CONFIG = """# exnihilo: every option of this run, with where its value came from
recipe = "gpt" # recipe gpt
run = "/srv/someone/secret" # command line
steps = 40 # command line
device = "cpu" # auto: found
seed = 0 # default

[data]
sources = [{path = "/srv/someone/books"}] # command line
val_fraction = 0.1 # command line

[optim]
lr = 0.02 # derived
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    codec = codecs.train(CodecConfig(kind="bytes"), ["text"])
    config = ModelConfig(depth=1, width=32, heads=2, context=24, vocab_size=codec.vocab_size)
    lineage = [
        {"stage": "gpt", "objective": "causal_lm", "steps": 40},
        {"stage": "sft", "objective": "sft", "steps": 7},
    ]
    hf.save(
        build(config, seed=0),
        codec,
        tmp_path / "run",
        objective={"objective": "sft"},
        extra={"lineage": lineage},
    )
    return tmp_path / "run"


def test_it_says_what_the_folder_says(run: Path) -> None:
    (run / "config.toml").write_text(CONFIG)
    source = {"name": "books", "kind": "files", "documents": 12, "tokens": 3456, "bytes": 9, "held_out": 2}
    source["skipped"] = {"not UTF-8": 3}
    leak = {"documents": 2, "exact": 1, "near": 0}
    (run / "data.json").write_text(json.dumps({"sources": [source], "leak": leak}))
    graded = {"val_pass@1": 0.5, "val_pass@1_low": 0.25, "val_pass@1_high": 0.75}
    rows = [
        {"kind": "train", "step": 40, "loss": 2.0, "tokens": 5120, "seconds": 12.0},
        {"kind": "eval", "step": 40, "val_loss": 2.125, "val_bpb": 1.5, **graded},
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    control = {"metric": "f1", "examples": 10, "seeds": [0, 1], "with": {"mean": 3.5, "low": 3, "high": 4}}
    (run / "control.json").write_text(json.dumps(control))
    text = card(run, load(run), ["held   logits: all"], "Qwen3ForCausalLM")
    for words in (
        "pipeline_tag: text-generation",
        "A decoder of family `qwen3`, trained for `sft`",
        "| books | files | 12 | 3,456 | 9 | 2 | 3 |",
        "1 exactly, 0 nearly, of 2",
        "From random weights: gpt (40 steps) → sft (7 steps).",
        "40 steps, 5,120 tokens, 12 seconds",
        "| steps | 40 | command line |",
        "| data.val_fraction | 0.1 | command line |",
        "| optim.lr | 0.02 | derived |",
        "| loss | 2.125 |  |",
        "| pass@1 | 0.5 | 0.25 to 0.75 |",
        "| with pretraining | 3.5 | 3 to 4 |",
        "It reads at most 24 tokens.",
        "- held   logits: all",
        "apply_chat_template",
    ):
        assert words in text, words
    assert "someone" not in text and "| seed |" not in text  # no path of a machine, no default


def test_what_is_not_known_is_named(run: Path) -> None:
    text = card(run, load(run))
    assert "Not known" in text and "None is on record" in text and "## Use" not in text
    assert "The settings are not known" in text


def test_a_broken_file_is_an_error(run: Path) -> None:
    (run / "data.json").write_text("{")
    with pytest.raises(CheckpointError, match="data.json"):
        card(run, load(run))
