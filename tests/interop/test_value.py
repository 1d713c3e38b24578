"""The head "value": both ways through Hugging Face folders, read the same by transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.interop import hf, labels, readout
from exnihilo.model import build
from exnihilo.model.count import parameters
from exnihilo.model.model import Model

IDS = (1, 5, 9, 3, 2, 7)
DECODERS, ENCODERS = ("qwen3", "llama", "gpt2"), ("bert", "modernbert")


def scorer(family: str, heads: tuple[str, ...], tied: bool = True) -> Model:
    config = ModelConfig(
        family=family, depth=2, width=32, heads=4, vocab_size=50, context=64, dropout=0.0, tied=tied
    )
    model = build(config, heads=heads, seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
@pytest.mark.parametrize("more", [False, True])
def test_a_score_survives_the_way_out_and_back(family: str, more: bool, tmp_path: Path) -> None:
    first = "mlm" if family in ENCODERS else "tokens"
    model = scorer(family, (first, "value") if more else ("value",))
    assert parameters(model.config) == sum(p.numel() for p in model.parameters())
    hf.save(model, None, tmp_path)
    again, _ = hf.load(tmp_path)
    assert again.config.outputs == model.config.outputs
    want = readout.ours(model, IDS)
    for name, value in readout.ours(again, IDS).items():
        torch.testing.assert_close(value, want[name], rtol=0, atol=0)
    pytest.importorskip("transformers")
    theirs = readout.theirs(tmp_path)(IDS)
    assert set(theirs) == ({"tokens"} if more and family in DECODERS else {"value"})
    for name, value in theirs.items():
        torch.testing.assert_close(value, want[name], atol=2e-6, rtol=1e-5)


def test_transformers_reads_and_writes_a_score(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen3Config(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=64, max_position_embeddings=64, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.Qwen3ForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    model, _ = hf.load(tmp_path)
    assert model.config.outputs == ("value",)
    written = json.loads((tmp_path / "config.json").read_text())
    known = labels.objective(written)
    assert known is not None and known["objective"] == "reward_model"
    tokens = torch.tensor([IDS, (4, 4, 8, 1, 0, 0)])
    with torch.no_grad():
        want = theirs(input_ids=tokens, attention_mask=(tokens > 0).long()).logits[:, 0]
        hidden_BTD = model({"tokens": tokens, "doc": torch.where(tokens > 0, 0, -1)})
        got = model.heads["value"].logits(hidden_BTD[torch.arange(2), torch.tensor([5, 3])])
    torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)


def test_a_decoder_with_several_labels_is_refused(tmp_path: Path) -> None:
    hf.save(scorer("llama", ("value",)), None, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written |= {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ModelError, match="2 labels"):
        hf.load(tmp_path)


def test_untied_scores_write_no_output_matrix(tmp_path: Path) -> None:
    hf.save(scorer("qwen3", ("value",), tied=False), None, tmp_path)
    names = set(hf.read_tensors(tmp_path))
    assert "lm_head.weight" not in names and "score.weight" in names
    assert hf.load(tmp_path)[0].config.outputs == ("value",)
