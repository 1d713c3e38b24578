"""YaRN, sliding windows and sinks in Hugging Face folders: equal logits in transformers, both ways.

Key: B batch, T positions
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from exnihilo.config import ModelConfig, YarnConfig
from exnihilo.errors import ModelError
from exnihilo.interop import hf
from exnihilo.model import build, resolve

transformers = pytest.importorskip("transformers", reason="parity needs the extra 'hf'")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"yarn": YarnConfig(factor=4)}),
    ("llama", {"rope_theta": 500_000.0}),
    ("qwen3", {"yarn": YarnConfig(factor=2, original=16, beta_fast=8, beta_slow=2, attention=1.3)}),
    ("qwen3", {"window": 5, "global_every": 2}),
    ("qwen3", {"window": 7, "yarn": YarnConfig(factor=2)}),
    ("ministral", {"window": 5, "global_every": 3}),
    ("ministral", {"window": 9, "yarn": YarnConfig(factor=4)}),
]


def config_of(family: str, **kw: Any) -> ModelConfig:
    given = {"depth": 4, "width": 32, "heads": 4, "kv_heads": 2, "vocab_size": 50, "context": 64, **kw}
    return resolve(ModelConfig(family=family, **given))


@pytest.mark.parametrize(("family", "kw"), CASES)
def test_the_same_logits_both_ways(family: str, kw: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(family, **kw)
    model, tokens_BT = build(config, seed=1).eval(), torch.randint(0, 50, (2, 60))
    hf.save(model, None, tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        head: Any = model.heads["tokens"]
        want = head.logits(model({"tokens": tokens_BT}))
        torch.testing.assert_close(theirs(tokens_BT).logits, want, atol=1e-4, rtol=1e-4)
        for folder in ("ours", "theirs"):
            back, _ = hf.load(tmp_path / folder)
            head = back.heads["tokens"]
            torch.testing.assert_close(head.logits(back({"tokens": tokens_BT})), want, atol=1e-6, rtol=1e-6)
    assert hf.load(tmp_path / "ours")[0].config == config


def test_sinks_come_back_and_transformers_refuses_them(tmp_path: Path) -> None:
    model = build(config_of("qwen3", sinks=True, window=5), seed=1).eval()
    for name, p in model.named_parameters():
        if name.endswith(".sinks"):
            torch.nn.init.normal_(p)
    hf.save(model, None, tmp_path)
    back, _ = hf.load(tmp_path)
    tokens_BT = torch.randint(0, 50, (2, 30))
    with torch.no_grad():
        assert torch.equal(model({"tokens": tokens_BT}), back({"tokens": tokens_BT}))
    with pytest.raises(ValueError, match="qwen3_sinks"):
        transformers.AutoConfig.from_pretrained(tmp_path)


WORDS = hf.config_to_hf(config_of("qwen3", window=5, global_every=2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"] * 2}, "layer_types"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "llama3"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": "four"}}, "yarn"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        hf.config_from_hf({**WORDS, **change})


def test_scales_of_the_logits_as_two_numbers() -> None:
    """mscale and mscale_all_dim (DeepSeek), as transformers combines them."""
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    words = {**WORDS, "rope_parameters": {**yarn, "mscale": 2.0, "mscale_all_dim": 1.0}, "rope_scaling": None}
    found = hf.config_from_hf(words).yarn
    rope = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"]
    _, attention = rope(transformers.AutoConfig.for_model(**words), device="cpu")
    assert found is not None and found.attention == pytest.approx(attention)
