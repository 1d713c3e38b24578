"""Encoders against transformers: the logits of every class, both ways, with padding and segments, packed as
alone.

Key: B batch, T positions, D model width, V vocabulary, C labels
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from exnihilo.config import ModelConfig
from exnihilo.interop import hf
from exnihilo.model import Model, build
from exnihilo.model.family import find, names

transformers = pytest.importorskip("transformers", reason="parity needs the extra 'hf'")
transformers.utils.logging.disable_progress_bar()

V, C, B, T, TOLERANCE = 83, 5, 3, 150, 1e-4
ENCODERS = [name for name in names() if find(name).encoder and not find(name).marks]  # of text
CLASSES = {a.name: (name, a.outputs) for name in ENCODERS for a in find(name).architectures}
PER_ITEM = ("next", "classes")


def config_of(family: str, outputs: tuple[str, ...], **kw: Any) -> ModelConfig:
    given: dict[str, Any] = {"family": family, "depth": 4, "width": 48, "heads": 4, "context": 200}
    given |= {"window": 16, "local_theta": 500.0, "rope_theta": 9000.0} if family == "modernbert" else {}
    labels = C if {"classes", "tags"} & set(outputs) else None
    return ModelConfig(**{**given, "vocab_size": V, "outputs": outputs, "labels": labels, **kw})


@torch.no_grad()
def stir(model: Any, seed: int) -> Any:
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model.eval()


def theirs_of(name: str, tied: bool = True, **kw: Any) -> Any:
    """A random model made by transformers, with every parameter stirred."""
    given: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    given |= {"intermediate_size": 100, "max_position_embeddings": 200, "vocab_size": V, "num_labels": C}
    given |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": tied}
    if CLASSES[name][0] == "modernbert":
        given |= {"local_attention": 16, "cls_token_id": None, "sep_token_id": None}
        thetas = {"full_attention": 9000.0, "sliding_attention": 500.0}
        given["rope_parameters"] = {k: {"rope_type": "default", "rope_theta": v} for k, v in thetas.items()}
        kind = transformers.ModernBertConfig
    else:
        given |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        kind = transformers.BertConfig
    if name.endswith("ForQuestionAnswering"):
        given["num_labels"] = 2
    torch.manual_seed(2)
    return stir(getattr(transformers, name)(kind(**{**given, **kw})), 2)


def outputs_of(out: Any, outputs: tuple[str, ...]) -> dict[str, Tensor]:
    """What a class of transformers gives, by the names of our heads."""
    if outputs == ("mlm", "next"):
        return {"mlm": out.prediction_logits, "next": out.seq_relationship_logits}
    if outputs == ("span",):
        return {"span": torch.stack((out.start_logits, out.end_logits), -1)}
    return {outputs[0]: out.last_hidden_state if outputs == ("embedding",) else out.logits}


def ours(model: Model, raw: dict[str, Tensor], first: Tensor | int = 0) -> dict[str, Tensor]:
    hidden = model(raw)
    return {
        name: model.heads[name].logits(hidden[:, first] if name in PER_ITEM else hidden)
        for name in model.config.outputs
    }


@torch.no_grad()
def compare(model: Model, theirs: Any, outputs: tuple[str, ...]) -> None:
    """Plain, padded on either side with segments, and packed: |Δ| wherever it counts."""
    g = torch.Generator().manual_seed(3)
    tokens = torch.randint(V, (B, T), generator=g)
    segment = (torch.arange(T) > 60).long().expand(B, T)
    segments = model.config.family == "bert"

    def close(here: dict[str, Tensor], there: dict[str, Tensor], mask: Tensor | None = None) -> None:
        assert here.keys() == there.keys()
        for name, value in here.items():
            gap = (value - there[name]).abs()
            assert torch.isfinite(value).all()
            if mask is not None and name not in PER_ITEM:
                gap = gap * mask[..., None]
            assert gap.max() <= TOLERANCE, name

    def run(tokens: Tensor, segment: Tensor, **kw: Any) -> dict[str, Tensor]:
        more = {"token_type_ids": segment} if segments else {}
        return outputs_of(theirs(input_ids=tokens, **more, **kw), outputs)

    close(ours(model, {"tokens": tokens, "segment": segment}), run(tokens, segment))
    mask, doc = torch.ones_like(tokens), torch.zeros_like(tokens)
    mask[1, 90:], doc[1, 90:] = 0, -1  # right
    mask[2, 20:], doc[2, 20:] = 0, -1
    padded = run(tokens, segment, attention_mask=mask)
    close(ours(model, {"tokens": tokens, "segment": segment, "doc": doc}), padded, mask)
    mask, doc, pos = torch.ones_like(tokens), torch.zeros_like(tokens), torch.arange(T).repeat(B, 1)
    mask[0, :37], doc[0, :37] = 0, -1  # left: the first token of row 0 is none
    pos[0] = (torch.arange(T) - 37).clamp(min=0)
    if not set(outputs) & set(PER_ITEM):
        padded = run(tokens, segment, attention_mask=mask, position_ids=pos)
        close(ours(model, {"tokens": tokens, "segment": segment, "doc": doc, "pos": pos}), padded, mask)
    lengths = [1, 70, 9, 64]
    doc = torch.repeat_interleave(torch.arange(5), torch.tensor([*lengths, T - sum(lengths)]))
    doc[doc == 4] = -1
    pos = torch.cat([torch.arange(n) for n in (*lengths, T - sum(lengths))])
    row = {"tokens": tokens[:1], "segment": segment[:1], "doc": doc[None], "pos": pos[None]}
    firsts = torch.tensor([0, 1, 71, 80])
    packed = ours(model, row, firsts)
    for i in range(4):
        alone = run(tokens[:1, doc == i], segment[:1, doc == i])
        here = {n: v[:, i] if n in PER_ITEM else v[:, doc == i] for n, v in packed.items()}
        close(here, alone)


@pytest.mark.parametrize("name", CLASSES)
def test_ours_in_transformers(name: str, tmp_path: Path) -> None:
    family, outputs = CLASSES[name]
    model = stir(build(config_of(family, outputs), seed=1), 1)
    hf.save(model, None, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == [name]
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info  # nothing missing, unexpected or of another shape
    compare(model, theirs.eval(), outputs)
    again, _ = hf.load(tmp_path)
    assert again.config == model.config and not again.training
    for (key, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", CLASSES)
def test_theirs_here(name: str, tmp_path: Path) -> None:
    family, outputs = CLASSES[name]
    theirs = theirs_of(name)
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")  # shards and an index
    assert (tmp_path / "model.safetensors.index.json").exists()
    model, _ = hf.load(tmp_path)
    assert model.config.outputs == outputs
    compare(model, theirs, outputs)
    hf.save(model, None, tmp_path / "back")
    written = load_file(tmp_path / "back" / "model.safetensors")
    twins = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "decoder.weight"}
    assert set(written) == set(theirs.state_dict()) - twins
    assert all(torch.equal(written[key], theirs.state_dict()[key]) for key in written)


@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM", "ModernBertForMaskedLM"])
def test_untied_both_ways(name: str, tmp_path: Path) -> None:
    family, outputs = CLASSES[name]
    model = stir(build(config_of(family, outputs, tied=False), seed=1), 1)
    hf.save(model, None, tmp_path)
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    compare(model, theirs.eval(), outputs)
    theirs_of(name, tied=False).save_pretrained(tmp_path)
    model, _ = hf.load(tmp_path)
    assert model.heads["mlm"].weight is not model.front.tokens.weight
    compare(model, theirs_of(name, tied=False), outputs)


@pytest.mark.parametrize("every", [1, 2, 3, 9])
def test_any_pattern_of_global_layers(every: int, tmp_path: Path) -> None:
    model = stir(build(config_of("modernbert", ("mlm",), global_every=every, depth=5), seed=1), 1)
    hf.save(model, None, tmp_path)
    compare(model, transformers.ModernBertForMaskedLM.from_pretrained(tmp_path).eval(), ("mlm",))
    again, _ = hf.load(tmp_path)
    compare(again, transformers.ModernBertForMaskedLM.from_pretrained(tmp_path).eval(), ("mlm",))


def test_gradients_are_theirs(tmp_path: Path) -> None:
    """Of every parameter, by its name there: BERT pretraining and a ModernBERT classifier."""
    g = torch.Generator().manual_seed(5)
    tokens = torch.randint(V, (2, 140), generator=g)
    for name in ("BertForPreTraining", "ModernBertForSequenceClassification"):
        family, outputs = CLASSES[name]
        model = stir(build(config_of(family, outputs), seed=1), 1)
        hf.save(model, None, tmp_path)
        theirs = getattr(transformers, name).from_pretrained(tmp_path).eval()
        sum(v.sin().sum() for v in ours(model, {"tokens": tokens}).values()).backward()  # type: ignore
        sum(v.sin().sum() for v in outputs_of(theirs(input_ids=tokens), outputs).values()).backward()  # type: ignore
        grads = {n: p.grad for n, p in model.named_parameters()}
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
        found = hf.to_hf(model.config, {**grads, "heads.mlm.weight": grads["front.tokens.weight"]})
        there = dict(theirs.named_parameters())
        assert len(found) > 20
        for key, grad in found.items():
            expected = there[key].grad
            assert expected is not None, key
            assert (grad - expected).abs().max() <= 2e-4 * max(1.0, expected.abs().max().item()), key


def test_losses_with_dropout_have_their_mean(tmp_path: Path) -> None:
    """The same places drop at the same rate: over many draws both logits have one mean and one spread."""
    family, outputs = CLASSES["BertForMaskedLM"]
    model = stir(build(config_of(family, outputs, dropout=0.2, depth=2), seed=1), 1)
    hf.save(model, None, tmp_path)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path).train()
    tokens = torch.randint(V, (1, 12), generator=torch.Generator().manual_seed(0)).expand(1500, 12)
    torch.manual_seed(0)
    with torch.no_grad():
        there = theirs(input_ids=tokens).logits[:, 3]
        here = model.train().heads["mlm"].logits(model({"tokens": tokens})[:, 3])
    error = (there.var(0) / 1500 + here.var(0) / 1500).sqrt()
    assert ((there.mean(0) - here.mean(0)).abs() <= 5 * error).all()
    assert (here.std(0) / there.std(0) - 1).abs().max() < 0.15 and there.std(0).min() > 0.05
