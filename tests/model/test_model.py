"""Laws of a model: what bears on what, alone = padded = packed, cache = no cache.

Key: B batch, T positions, D model width
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError, ModelError
from exnihilo.model import Model, build, resolve
from exnihilo.model.family import find
from exnihilo.nn.layout import Attention

VOCAB = 61
TOLERANCE = 2e-5


def tiny(family: str, **kw: Any) -> ModelConfig:
    """Small, and everything that can differ does: grouped heads, heads × head_dim ≠ width."""
    own: dict[str, Any] = {"heads": 4}
    if find(family).grouped:
        own |= {"kv_heads": 2, "head_dim": 16, "rope_theta": 5000.0}
    given = {"family": family, "depth": 3, "width": 48, "context": 256, **own, **kw}
    return resolve(ModelConfig(**given), VOCAB)


def stirred(config: ModelConfig, seed: int = 1) -> Model:
    """A model whose norms and biases are random too."""
    model = build(config, seed=seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model.eval()


def _tokens(B: int, T: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (B, T), generator=torch.Generator().manual_seed(seed))


class Cache:
    """The protocol in its plainest form."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.store: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, k_BHTd: Tensor, v_BHTd: Tensor, pos_BT: Tensor) -> tuple[Tensor, Tensor]:
        B, H, _, d = k_BHTd.shape
        if layer not in self.store:  # what was never written holds garbage on purpose
            self.store[layer] = tuple(torch.full((B, H, self.slots, d), 1e4) for _ in range(2))  # type: ignore
        keys, values = self.store[layer]
        for b in range(B):
            keys[b, :, pos_BT[b]], values[b, :, pos_BT[b]] = k_BHTd[b], v_BHTd[b]
        return keys, values


@torch.no_grad()
def test_causal_sees_the_past_only_and_full_sees_all(family: str) -> None:
    model, a = stirred(tiny(family)), _tokens(1, 140)
    b = a.clone()
    b[0, -1] = (b[0, -1] + 1) % VOCAB
    before, after = model({"tokens": a}), model({"tokens": b})
    assert torch.equal(before[:, :-1], after[:, :-1]) and not torch.allclose(before[:, -1], after[:, -1])
    before, after = (model({"tokens": t}, Attention.FULL) for t in (a, b))
    assert ((before - after).abs().amax(-1) > 1e-4).all()  # every position feels the last token
    c = a.clone()
    c[0, 0] = (c[0, 0] + 1) % VOCAB
    first = (model({"tokens": a}) - model({"tokens": c})).abs().amax(-1)
    assert (first > 0).all()  # and the first token bears on all that follow


@torch.no_grad()
@pytest.mark.parametrize("attention", list(Attention))
def test_alone_is_padded_is_packed(family: str, attention: Attention) -> None:
    model = stirred(tiny(family))
    for lengths, T in (((3, 9, 5), 24), ((70, 40, 50, 1), 200)):
        documents = [_tokens(1, n, seed=n) for n in lengths]
        alone = [model({"tokens": d}, attention)[0] for d in documents]
        packed = torch.zeros(1, T, dtype=torch.long)
        doc, pos = torch.full((1, T), -1), torch.zeros(1, T, dtype=torch.long)
        at = 0
        for i, d in enumerate(documents):
            n = d.shape[1]
            packed[0, at : at + n], doc[0, at : at + n], pos[0, at : at + n] = d[0], i, torch.arange(n)
            at += n
        out = model({"tokens": packed, "doc": doc, "pos": pos}, attention)[0]
        assert torch.isfinite(out).all()
        for one, together in zip(alone, out.split([*lengths, T - at]), strict=False):
            assert (one - together).abs().max() < TOLERANCE
        for side in ("left", "right"):
            tokens = torch.zeros(len(lengths), T, dtype=torch.long)
            doc, pos = torch.full_like(tokens, -1), torch.zeros_like(tokens)
            for i, d in enumerate(documents):
                n = d.shape[1]
                where = slice(0, n) if side == "right" else slice(T - n, T)
                tokens[i, where], doc[i, where], pos[i, where] = d[0], 0, torch.arange(n)
            out = model({"tokens": tokens, "doc": doc, "pos": pos}, attention)
            for i, one in enumerate(alone):
                assert (out[i][doc[i] == 0] - one).abs().max() < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("T", [6, 150])
def test_without_positions_order_does_not_matter(family: str, T: int) -> None:
    model, tokens = stirred(tiny(family)), _tokens(2, T)
    pos = torch.zeros_like(tokens)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(0))
    out = model({"tokens": tokens, "pos": pos}, Attention.FULL)
    shuffled = model({"tokens": tokens[:, order], "pos": pos}, Attention.FULL)
    assert (out[:, order] - shuffled).abs().max() < TOLERANCE
    with_positions = model({"tokens": tokens[:, order]}, Attention.FULL)
    assert (out[:, order] - with_positions).abs().max() > 1e-3


@torch.no_grad()
def test_rotary_depends_on_distance_alone() -> None:
    model, tokens = stirred(tiny("qwen3")), _tokens(1, 20)
    here, there = (model({"tokens": tokens, "pos": torch.arange(20)[None] + s}) for s in (0, 100))
    assert (here - there).abs().max() < 2e-4


@torch.no_grad()
def test_explicit_positions_equal_the_default(family: str) -> None:
    model, tokens = stirred(tiny(family)), _tokens(2, 30)
    out = model({"tokens": tokens, "pos": torch.arange(30).expand(2, 30)})
    assert (out - model({"tokens": tokens})).abs().max() < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[12], [1] * 12, [5, 1, 1, 5]])
def test_reading_in_chunks_with_a_cache(family: str, chunks: list[int]) -> None:
    model, tokens = stirred(tiny(family)), _tokens(2, 12)
    whole, cache, at, parts = model({"tokens": tokens}), Cache(20), 0, []
    for n in chunks:
        raw = {"tokens": tokens[:, at : at + n], "pos": torch.arange(at, at + n).expand(2, n)}
        parts.append(model(raw if at else {"tokens": raw["tokens"]}, cache=cache))
        at += n
    assert (torch.cat(parts, 1) - whole).abs().max() < TOLERANCE


@torch.no_grad()
def test_greedy_with_cache_equals_without(family: str) -> None:
    model = stirred(tiny(family))
    head, prompts = model.heads["tokens"], [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3]]
    slow = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(12):
            ids.append(int(head(model({"tokens": torch.tensor([ids])})[:, -1]).argmax()))
        slow.append(ids)
    lengths = torch.tensor([len(p) for p in prompts])
    tokens = torch.zeros(2, int(lengths.max()), dtype=torch.long)
    for b, p in enumerate(prompts):
        tokens[b, : len(p)] = torch.tensor(p)  # the shorter one is padded on the right
    cache, fast = Cache(40), [list(p) for p in prompts]
    hidden = model({"tokens": tokens}, cache=cache)[torch.arange(2), lengths - 1]
    for step in range(12):
        ids = head(hidden).argmax(-1)
        for b in range(2):
            fast[b].append(int(ids[b]))
        hidden = model({"tokens": ids[:, None], "pos": (lengths + step)[:, None]}, cache=cache)[:, 0]
    assert fast == slow


def test_a_cache_holds_one_causal_document() -> None:
    model, tokens = build(tiny("qwen3")), _tokens(1, 4)
    with pytest.raises(ModelError, match="packed documents or full attention"):
        model({"tokens": tokens, "doc": torch.zeros_like(tokens)}, cache=Cache(8))
    with pytest.raises(ModelError, match="full attention"):
        model({"tokens": tokens}, Attention.FULL, cache=Cache(8))


def test_learned_positions_end_somewhere() -> None:
    model = build(tiny("gpt2", context=32))
    with pytest.raises(ModelError, match=r"33 tokens(.|\n)*32 learned positions"):
        model({"tokens": _tokens(1, 33)})
    with pytest.raises(ModelError, match=r"position 40(.|\n)*32 learned positions"):
        model({"tokens": _tokens(1, 2), "pos": torch.tensor([[0, 40]])})
    assert model({"tokens": _tokens(1, 32)}).shape == (1, 32, 48)


@torch.no_grad()
def test_rotary_goes_on_beyond_the_declared_context() -> None:
    config = tiny("llama", context=16)
    long, short = stirred(tiny("llama")), stirred(config)
    tokens = _tokens(1, 50)
    assert torch.equal(short({"tokens": tokens}), long({"tokens": tokens}))


def test_wrong_shapes_and_names_are_refused() -> None:
    with pytest.raises(ModelError, match=r"\(3,\)"):
        build(tiny("qwen3"))({"tokens": torch.zeros(3, dtype=torch.long)})
    with pytest.raises(ConfigError, match="unknown head 'token'"):
        build(tiny("qwen3"), heads=("token",))
    with pytest.raises(ConfigError, match=r"unknown model family 'qwen4'(.|\n)*qwen3"):
        build(tiny("qwen3").model_copy(update={"family": "qwen4"}))


def test_tied_is_one_parameter_and_stays_one(family: str) -> None:
    model = build(tiny(family, tied=True))
    assert model.heads["tokens"].weight is model.front.tokens.weight
    assert model.heads["tokens"].bias is None
    model = model.to(torch.float64)
    assert model.heads["tokens"].weight is model.front.tokens.weight
    loose = build(tiny(family, tied=False))
    assert loose.heads["tokens"].weight is not loose.front.tokens.weight


def test_dropout_acts_in_training_only(family: str) -> None:
    model, tokens = build(tiny(family, dropout=0.3)), _tokens(2, 140)
    torch.manual_seed(0)
    a, b = model({"tokens": tokens}), model({"tokens": tokens})
    assert not torch.allclose(a, b)
    torch.manual_seed(0)
    assert torch.equal(a, model({"tokens": tokens}))
    model.eval()
    assert torch.equal(model({"tokens": tokens}), model({"tokens": tokens}))
    assert torch.equal(model({"tokens": tokens}), build(tiny(family))({"tokens": tokens}))


def test_every_parameter_is_trained(family: str) -> None:
    model = stirred(tiny(family, tied=False)).train()
    doc = torch.arange(140).expand(2, 140) // 60
    hidden = model({"tokens": _tokens(2, 140), "doc": doc, "pos": torch.arange(140).expand(2, 140) % 60})
    model.heads["tokens"].logits(hidden).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        if not name.endswith("attention.k.bias"):  # a constant added to all keys changes no softmax
            assert p.grad.abs().max() > 0, name


def test_gradient_equals_that_of_the_reference(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from exnihilo.kernels.attention import reference

    model, tokens = stirred(tiny(family)).train(), _tokens(2, 150)
    doc = torch.arange(150).expand(2, 150) // 47
    grads = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr("exnihilo.nn.block.attend", reference)
        model.zero_grad()
        model.heads["tokens"].logits(model({"tokens": tokens, "doc": doc})).logsumexp(-1).mean().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for fast, slow in zip(*grads, strict=True):
        assert (fast - slow).abs().max() <= 1e-5 * max(slow.abs().max().item(), 0.1)


@torch.no_grad()
def test_low_precision_is_near(family: str) -> None:
    model, tokens = stirred(tiny(family)), _tokens(2, 150)
    doc = torch.arange(150).expand(2, 150) // 47
    for raw in ({"tokens": tokens}, {"tokens": tokens, "doc": doc}):
        exact = model(raw)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near = model(raw)
        assert torch.isfinite(near).all()
        assert (near - exact).square().mean() < 0.02 * exact.square().mean()
    low = stirred(tiny(family)).to(torch.bfloat16)
    if low.trunk.rotary is not None:
        assert low.trunk.rotary.cos.dtype == torch.float32  # positions in bf16 are off by whole tokens
    out = low({"tokens": tokens, "doc": doc})
    assert out.dtype == torch.bfloat16 and (out - exact).square().mean() < 0.02 * exact.square().mean()


def test_blocks_can_be_checkpointed_from_outside(family: str) -> None:
    from torch.utils.checkpoint import checkpoint

    tokens, grads = _tokens(2, 130), []
    for wrapped in (False, True):
        model = stirred(tiny(family)).train()
        if wrapped:
            for block in model.trunk.blocks:
                inner = block.forward
                block.forward = lambda x, s, f=inner: checkpoint(f, x, s, use_reentrant=False)
        model({"tokens": tokens}).square().mean().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_families_are_the_files_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new family is one new file: listed, built, counted, exported."""
    from exnihilo.model import families as folder
    from exnihilo.model import parameters
    from exnihilo.model.family import names

    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from exnihilo.model.families.llama import FAMILY as llama\n"
        "FAMILY = replace(llama, name='mine', mlp='gelu_new', norm='layer', model_type='mine')\n"
    )
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    assert {"ast", "bert", "gpt2", "llama", "mine", "modernbert", "qwen3"} <= set(names())
    config = tiny("mine")
    model = build(config)
    assert parameters(config) == sum(p.numel() for p in model.parameters())
    assert model({"tokens": _tokens(1, 5)}).shape == (1, 5, 48)


def test_modules_have_the_promised_names() -> None:
    """Adapters and optimisers find matrices by these."""
    model = build(tiny("qwen3"))
    block = model.trunk.blocks[0]
    linear = {n for n, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linear == {f"attention.{x}" for x in "qkvo"} | {f"mlp.{x}" for x in ("gate", "up", "down")}
    assert set(dict(model.named_children())) == {"front", "trunk", "heads"}
