"""Laws of encoders: what bears on what, alone = padded = packed = reordered, heads, first losses, counts.

Key: B batch, T positions, D model width, V vocabulary
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError
from exnihilo.kernels.attention import reference
from exnihilo.model import Model, build, flops_per_token, parameters, resolve
from exnihilo.model.family import find
from exnihilo.model.heads import HEADS
from exnihilo.nn.layout import Attention

V, TOLERANCE = 61, 2e-5
ALL = ("mlm", "next", "classes", "tags", "span", "replaced", "embedding")


def tiny(family: str, **kw: Any) -> ModelConfig:
    given: dict[str, Any] = {"family": family, "depth": 4, "width": 48, "heads": 4, "context": 256}
    given |= {"outputs": ALL, "labels": 5} | ({"window": 16} if family == "modernbert" else {})
    return resolve(ModelConfig(**{**given, **kw}), V)


def stirred(config: ModelConfig, seed: int = 1) -> Model:
    """A model whose norms and biases are random too."""
    model, g = build(config, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model.eval()


def _tokens(B: int, T: int, seed: int = 0) -> Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def _raw(T: int, seed: int = 0, B: int = 1) -> dict[str, Tensor]:
    half = (torch.arange(T) >= T // 2).long().expand(B, T)
    return {"tokens": _tokens(B, T, seed), "segment": half, "pos": torch.arange(T).expand(B, T)}


def _read(model: Model, hidden_BTD: Tensor, first_B: Tensor | int = 0) -> list[Tensor]:
    """All outputs: a row a token, or a row an item."""
    first = hidden_BTD[:, first_B]
    return [model.heads[n].logits(first if n in ("next", "classes") else hidden_BTD) for n in ALL]


@torch.no_grad()
def test_every_token_bears_on_every_position(encoder: str) -> None:
    model, a = stirred(tiny(encoder)), _tokens(1, 100)
    b = a.clone()
    b[0, -1] = (b[0, -1] + 1) % V
    moved = (model({"tokens": a}) - model({"tokens": b})).abs().amax(-1)
    assert (moved > 1e-6).all()  # both ways is an encoder's default
    causal = (model({"tokens": a}, Attention.CAUSAL) - model({"tokens": b}, Attention.CAUSAL)).abs().amax(-1)
    assert (causal[0, :-1] == 0).all()


@torch.no_grad()
def test_local_layers_see_half_a_window_to_each_side() -> None:
    """Two local layers behind a global one that is silenced: a token reaches 8 places a layer."""
    model = stirred(tiny("modernbert", depth=3))
    model.trunk.blocks[0].attention.o.weight.zero_()  # type: ignore[union-attr]
    a = _tokens(1, 100)
    b = a.clone()
    b[0, 50] = (b[0, 50] + 1) % V
    felt = (model({"tokens": a}) - model({"tokens": b})).abs().amax(-1)[0] > 0
    assert felt.nonzero().flatten().tolist() == list(range(50 - 16, 50 + 17))


@torch.no_grad()
def test_alone_is_padded_is_packed_is_reordered(encoder: str) -> None:
    model = stirred(tiny(encoder))
    for lengths, T in (((3, 9, 5), 24), ((70, 40, 50, 2), 200)):
        items = [_raw(n, seed=n) for n in lengths]
        alone = [_read(model, model({k: v for k, v in item.items() if k != "pos"})) for item in items]
        for order in (range(len(items)), reversed(range(len(items)))):
            order = list(order)
            packed = {k: torch.cat([items[i][k] for i in order], 1) for k in items[0]}
            rest = T - sum(lengths)
            packed = {k: F.pad(v, (0, rest)) for k, v in packed.items()}
            doc = torch.repeat_interleave(
                torch.arange(len(items) + 1), torch.tensor([*(lengths[i] for i in order), rest])
            )
            packed["doc"] = doc.where(doc < len(items), -1)[None]
            hidden = model(packed)
            assert torch.isfinite(hidden).all()
            for place, i in enumerate(order):
                here = _read(model, hidden[:, doc == place])
                assert all((x - y).abs().max() < TOLERANCE for x, y in zip(here, alone[i], strict=True))
        for side in ("left", "right"):  # padded, all in one batch
            batch = {
                k: torch.zeros(len(items), T, dtype=torch.long) for k in ("tokens", "segment", "pos", "doc")
            }
            batch["doc"] -= 1
            spots = [slice(0, n) if side == "right" else slice(T - n, T) for n in lengths]
            for i, (item, where) in enumerate(zip(items, spots, strict=True)):
                for key, value in item.items():
                    batch[key][i, where] = value[0]
                batch["doc"][i, where] = 0
            hidden = model(batch)
            for i, where in enumerate(spots):
                here = _read(model, hidden[i : i + 1, where])
                assert all((x - y).abs().max() < TOLERANCE for x, y in zip(here, alone[i], strict=True))


@pytest.mark.parametrize("name", ["mlm", "next", "classes", "tags", "span", "replaced"])
def test_gradients_alone_are_those_packed(encoder: str, name: str) -> None:
    model, lengths = stirred(tiny(encoder)), (60, 30, 45)
    items = [_raw(n, seed=n) for n in lengths]

    def loss(hidden_BTD: Tensor) -> Tensor:
        states = hidden_BTD[:, 0] if name in ("next", "classes") else hidden_BTD
        return model.heads[name].logits(states).sin().sum()

    grads: list[dict[str, Tensor]] = []
    for packed in (False, True):
        model.zero_grad()
        if packed:
            together = {k: torch.cat([item[k] for item in items], 1) for k in items[0]}
            doc = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
            hidden = model({**together, "doc": doc})
            total = sum((loss(hidden[:, doc[0] == i]) for i in range(3)), torch.zeros(()))
        else:
            total = sum((loss(model(item)) for item in items), torch.zeros(()))
        total.backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 20
    for key, grad in grads[0].items():
        assert (grad - grads[1][key]).abs().max() <= 2e-5 * max(1.0, grad.abs().max().item()), key


@torch.no_grad()
def test_segments_bear_on_the_output_where_there_are_any() -> None:
    raw = _raw(20)
    swapped = {**raw, "segment": 1 - raw["segment"]}
    model = stirred(tiny("bert"))
    for a, b in zip(_read(model, model(raw)), _read(model, model(swapped)), strict=True):
        assert (a - b).abs().max() > 1e-3
    first = {**raw, "segment": torch.zeros_like(raw["segment"])}
    assert torch.equal(model(first), model({k: v for k, v in raw.items() if k != "segment"}))
    none = stirred(tiny("modernbert"))
    assert torch.equal(none(raw), none(swapped))


@pytest.mark.parametrize(
    "size",
    [
        {"preset": "bert-tiny", "vocab_size": 8192},
        {"preset": "bert-mini", "vocab_size": 1000},
        {"depth": 2, "width": 768, "vocab_size": 3000},
        {"depth": 12, "width": 64, "vocab_size": 300},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [True, False])
def test_first_losses_are_those_of_knowing_nothing(encoder: str, tied: bool, size: dict) -> None:
    config = ModelConfig(family=encoder, context=128, tied=tied, outputs=ALL, labels=7, crf=True, **size)
    model = build(config, seed=3)
    assert model.config.family == encoder
    g = torch.Generator().manual_seed(3)
    V = size["vocab_size"]
    tokens, labels = (torch.randint(5, V, (8, 64), generator=g) for _ in range(2))
    masked = torch.rand(8, 64, generator=g) < 0.15
    segment = (torch.arange(64) > 30).long().expand(8, 64)
    with torch.no_grad():
        hidden = model({"tokens": tokens.masked_fill(masked, 4), "segment": segment})
        head = model.heads["mlm"]
        logits = F.linear(head.transform(hidden[masked]), head.weight, head.bias)
        assert F.cross_entropy(logits, tokens[masked]).item() == pytest.approx(math.log(V), rel=0.02)
        for name, C in (("next", 2), ("classes", 7), ("tags", 7), ("span", 2)):
            logits = model.heads[name].logits(hidden[:, 0])
            for target in range(2):  # whichever way the labels lie
                loss = F.cross_entropy(logits, torch.full((8,), target))
                assert loss.item() == pytest.approx(math.log(C), rel=0.1)
            both = (F.cross_entropy(logits, torch.full((8,), t)) for t in range(C))
            assert sum(x.item() for x in both) / C == pytest.approx(math.log(C), rel=0.02)
        odds = model.heads["replaced"].logits(hidden)
        assert F.softplus(odds).mean().item() == pytest.approx(math.log(2), rel=0.1)
        crf = model.heads["tags"]
        assert all((p == 0).all() for p in (crf.transitions, crf.start, crf.stop))


def test_variances_are_as_stated(encoder: str) -> None:
    config = resolve(ModelConfig(family=encoder, depth=4, vocab_size=2000, outputs=ALL, labels=300))
    for name, p in build(config).named_parameters():
        if name.endswith(("norm.weight", "bias")):
            assert (p == (1.0 if name.endswith("weight") else 0.0)).all(), name
            continue
        expected = 1 / math.sqrt(p.shape[-1])
        if name.startswith("front."):
            expected = 0.02
        elif name.endswith(("attention.o.weight", "mlp.down.weight")):
            expected /= math.sqrt(2 * 4)
        elif name.startswith("heads.") and name.endswith(".dense.weight") and ".own." not in name:
            expected *= 0.02
        assert abs(p.std().item() / expected - 1) < 4 / math.sqrt(p.numel()), name


def test_every_parameter_is_trained(encoder: str) -> None:
    config = tiny(encoder, tied=False, outputs=tuple(n for n in ALL if n != "embedding"))
    model, raw = stirred(config).train(), _raw(140, B=2)
    doc = torch.arange(140).expand(2, 140) // 60
    hidden = model({**raw, "doc": doc, "pos": torch.arange(140).expand(2, 140) % 60})
    torch.stack([model.heads[n].logits(hidden).square().mean() for n in config.outputs]).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        if not name.endswith("attention.k.bias"):  # a constant added to all keys changes no softmax
            assert p.grad.abs().max() > 0, name


def test_gradient_equals_that_of_the_reference(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, raw = stirred(tiny(encoder)).train(), _raw(150, B=2)
    doc = torch.arange(150).expand(2, 150) // 47
    for rows in (raw, {**raw, "doc": doc}):
        grads = []
        for plain in (False, True):
            monkeypatch.undo()
            if plain:
                monkeypatch.setattr("exnihilo.nn.block.attend", reference)
            model.zero_grad()
            model.heads["mlm"].logits(model(rows)).logsumexp(-1).mean().backward()
            grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        for fast, slow in zip(*grads, strict=True):
            assert (fast - slow).abs().max() <= 1e-5 * max(slow.abs().max().item(), 0.1)


def test_heads_share_the_pooler_and_ties_hold(encoder: str) -> None:
    model = build(tiny(encoder))
    for one in (model, copy.deepcopy(model), copy.deepcopy(model).to(torch.float64)):
        assert one.heads["mlm"].weight is one.front.tokens.weight
        assert one.heads["classes"]._pooler[0] is one.pooler is one.heads["next"]._pooler[0]
        names = [n for n, _ in one.named_parameters()]
        own = 2 if find(encoder).pooler else 0
        assert len(names) == len(set(names)) and sum(n.startswith("pooler.") for n in names) == own
    late = build(tiny(encoder), device="meta").to_empty(device="cpu")
    late.init_weights(0)
    assert late.heads["mlm"].weight is late.front.tokens.weight
    for (name, a), (_, b) in zip(model.named_parameters(), late.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_pooler_is_there_where_it_is_read() -> None:
    def has(family: str, *outputs: str) -> bool:
        return build(tiny(family, outputs=outputs), device="meta").pooler is not None

    for family, name, expected in (
        ("bert", "mlm", False),
        ("bert", "next", True),
        ("bert", "classes", True),
        ("bert", "tags", False),
        ("bert", "span", False),
        ("bert", "embedding", True),  # carried along, as transformers' own trunks do
        ("modernbert", "mlm", True),
        ("modernbert", "tags", True),
        ("modernbert", "span", True),
        ("modernbert", "embedding", False),
        ("qwen3", "classes", False),
    ):
        assert has(family, name) is expected, (family, name)


def test_dropout_acts_in_training_only(encoder: str) -> None:
    model, raw = build(tiny(encoder, dropout=0.3)), _raw(140, B=2)
    outs = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        outs.append(_read(model, model(raw)))
    for a, b, c in zip(*outs, strict=True):
        assert not torch.allclose(a, b) and torch.equal(a, c)
    plain = build(tiny(encoder))
    model.eval()
    for a, b in zip(_read(model, model(raw)), _read(plain, plain(raw)), strict=True):
        assert torch.equal(a, b)


def test_dropout_keeps_the_expectation_of_a_block(encoder: str) -> None:
    """Each branch is scaled by 1 / (1 - p): the mean over many draws of what is added is what is added."""
    from exnihilo.nn.mlp import GeGLU

    mlp = GeGLU(6, 10, bias=True, dropout=0.4).train()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        many = mlp(x.expand(6000, 3, 6))
        error = many.std(0) / math.sqrt(6000)
        assert ((many.mean(0) - mlp.eval()(x)).abs() <= 5 * error).all() and error.max() > 1e-3


@torch.no_grad()
def test_low_precision_is_near(encoder: str) -> None:
    model, raw = stirred(tiny(encoder)), _raw(150, B=2)
    raw["doc"] = torch.arange(150).expand(2, 150) // 47
    exact = model(raw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = model(raw)
    assert torch.isfinite(near).all() and (near - exact).square().mean() < 0.02 * exact.square().mean()


def test_blocks_can_be_checkpointed_from_outside(encoder: str) -> None:
    from torch.utils.checkpoint import checkpoint

    raw, grads = _raw(130, B=2), []
    for wrapped in (False, True):
        model = stirred(tiny(encoder)).train()
        for block in model.trunk.blocks if wrapped else ():
            inner = block.forward
            block.forward = lambda x, s, f=inner: checkpoint(f, x, s, use_reentrant=False)
        model(raw).square().mean().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) > 10 and all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[None]:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("outputs", [("mlm", "next", "classes"), ("replaced", "generator")])
def test_sharded_is_whole_in_value_and_gradient(
    encoder: str, outputs: tuple[str, ...], one_worker: None
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from exnihilo.parallel.fsdp import blocks

    config, raw = tiny(encoder, outputs=outputs), _raw(40)

    def loss(model: Model) -> Tensor:
        total = torch.zeros(())
        if "generator" in outputs:
            states = model(raw, through="generator")
            total = total + model.heads["generator"].logits(states).sin().sum()
        hidden = model(raw)
        return total + sum(model.heads[n].logits(hidden).sin().sum() for n in outputs if n != "generator")

    whole, model = build(config, seed=3), build(config, seed=3, device="meta")
    mesh = init_device_mesh("cpu", (1,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    model.to_empty(device="cpu")
    model.init_weights(3)
    first, second = loss(model), loss(whole)
    assert torch.equal(first, second)
    first.backward()
    second.backward()
    pairs = zip(model.named_parameters(), whole.parameters(), strict=True)
    for (name, p), q in pairs:
        assert p.grad is not None and q.grad is not None, name
        assert torch.allclose(p.grad.full_tensor(), q.grad, atol=1e-6), name  # type: ignore[attr-defined]


# counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", [*ALL, "tokens", "generator"])
def test_parameters(encoder: str, tied: bool, name: str) -> None:
    config = tiny(encoder, tied=tied, outputs=(name,), crf=True)
    assert parameters(config) == sum(p.numel() for p in build(config, device="meta").parameters())
    both = tiny(encoder, tied=tied, outputs=("mlm", "next"))
    assert parameters(both) == sum(p.numel() for p in build(both, device="meta").parameters())


@pytest.mark.parametrize("name", ["mlm", "next", "classes", "tags", "span", "replaced", "generator"])
@pytest.mark.parametrize("T", [16, 40])
def test_flops_equal_the_profilers(encoder: str, name: str, T: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exnihilo.nn.block.attend", reference)  # faster forms skip blocks
    config = tiny(encoder, outputs=(name,), **({"window": 2 * T} if encoder == "modernbert" else {}))
    model, raw = build(config), _raw(T, B=2)
    with FlopCounterMode(display=False) as forward:
        head, hidden = model.heads[name], model(raw)
        states = hidden[:, 0] if name in ("next", "classes") else hidden
        if name == "generator":
            states = head(raw)
        loss = head.logits(states).sum()
        if name == "generator":
            loss = loss + hidden.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    n, shares = 2 * T, {"mlm": 1.0, "generator": 1.0}
    expected = n * flops_per_token(config, T, training=False, shares=shares)
    assert forward.get_total_flops() == pytest.approx(expected, rel=1e-12)
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == pytest.approx(n * flops_per_token(config, T, shares=shares), rel=1e-12)


@pytest.mark.parametrize("T", [6, 9, 17, 40])
def test_flops_of_local_layers_are_the_pairs_that_they_see(T: int) -> None:
    from exnihilo.kernels.attention import visible

    local, wide = (tiny("modernbert", window=w, outputs=("span",)) for w in (16, 1000))
    saved = sum(T * T - int(visible(T, 1, window=8).sum()) for layer in range(4) if layer % 3)
    found = flops_per_token(wide, T, training=False) - flops_per_token(local, T, training=False)
    assert found * T == pytest.approx(saved * 4 * 48)


def test_masked_positions_only_are_worth_what_is_known() -> None:
    """BERT-Mini at 128: forward and backward of the whole are 2.5 times those with 15% of the head (30,522
    entries), 1.5 times at 8,192."""
    for V, worth in ((30_522, 2.5), (8192, 1.5)):
        config = ModelConfig(family="bert", preset="bert-mini", vocab_size=V, outputs=("mlm", "next"))
        whole = flops_per_token(config, 128, shares={"mlm": 1.0})
        assert whole / flops_per_token(config, 128) == pytest.approx(worth, abs=0.1)


# configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("tiny", 4.4), ("mini", 11.2), ("small", 28.8), ("medium", 41.4), ("base", 109.5), ("large", 335.1)],
)
def test_presets_have_the_published_sizes(preset: str, millions: float) -> None:
    """Turc et al. 2019, and Devlin et al. 2018: trunk and pooler, 512 positions, 30,522 entries."""
    config = ModelConfig(preset=f"bert-{preset}", vocab_size=30_522, context=512, outputs=("embedding",))
    assert parameters(config) / 1e6 == pytest.approx(millions, abs=0.06)
    assert resolve(config).family == "bert"


def test_what_is_set_beside_a_preset_wins() -> None:
    full = resolve(ModelConfig(preset="bert-tiny", depth=3, family="modernbert"), 100)
    assert (full.family, full.depth, full.width, full.heads) == ("modernbert", 3, 128, 2)
    assert resolve(full) == full
    assert resolve(ModelConfig.model_validate_json(full.model_dump_json())) == full
    with pytest.raises(ConfigError, match=r"'bert-tin'(.|\n)*bert-tiny"):
        resolve(ModelConfig(preset="bert-tin"), 100)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="head 'tags' without a number of labels"):
        build(ModelConfig(family="bert", vocab_size=9), heads=("tags",))
    with pytest.raises(ConfigError, match=r"model.window=64 in family bert"):
        resolve(ModelConfig(family="bert", window=64), 9)
    with pytest.raises(ConfigError, match="unknown head 'classes '"):
        build(ModelConfig(family="bert", vocab_size=9), heads=("classes ",))
    assert set(ALL) | {"tokens", "generator", "value", "vectors", "painter", "straight"} == set(HEADS)


def test_heads_given_to_build_are_the_configurations() -> None:
    model = build(tiny("bert"), heads=("span",))
    assert model.config.outputs == ("span",) and set(model.heads) == {"span"}
    assert build(model.config).config == model.config
