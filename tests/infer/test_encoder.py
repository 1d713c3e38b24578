"""Encoders in C: the model's own states, whatever stands beside a document, on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from exnihilo.config import ModelConfig
from exnihilo.errors import UsageError
from exnihilo.infer import encoder
from exnihilo.infer.int8 import Int8Linear, int8
from exnihilo.model import Model, build, resolve
from exnihilo.nn.layout import Attention

V = 50
SHAPES = {
    "bert": {"family": "bert", "width": 48, "heads": 4, "mlp_width": 100},
    "odd": {"family": "bert", "width": 20, "heads": 2, "mlp_width": 33},
    "vit": {"family": "vit", "width": 48, "heads": 4, "mlp_width": 64, "inputs": {"picture": (6,)}},
    "modernbert": {"family": "modernbert", "width": 48, "heads": 4, "mlp_width": 72, "window": 8},
}


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    if isinstance(why := encoder.library(), str):
        pytest.skip(why)
    yield
    torch.set_num_threads(before)


def make(kind: str, depth: int = 3, context: int = 64, seed: int = 0) -> Model:
    config = ModelConfig(depth=depth, context=context, outputs=("mlm",), **SHAPES[kind])  # type: ignore[arg-type]
    model, generator = build(resolve(config, V), seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.15)
    return model.eval()


def rows(lengths: list[list[int]], width: int, seed: int = 0) -> dict[str, Tensor]:
    """Packed rows, padded to `width`."""
    generator = torch.Generator().manual_seed(seed)
    doc = torch.full((len(lengths), width), -1)
    pos = torch.zeros(len(lengths), width, dtype=torch.long)
    for b, row in enumerate(lengths):
        at = 0
        for d, n in enumerate(row):
            doc[b, at : at + n], pos[b, at : at + n] = d, torch.arange(n)
            at += n
    return {"tokens": torch.randint(0, V, doc.shape, generator=generator), "doc": doc, "pos": pos}


def both(model: Model, raw: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model(raw, Attention.FULL), encoder.Swift(model)(raw, Attention.FULL)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", SHAPES)
def test_states_are_the_models_own(kind: str, count: int) -> None:
    """Many short documents (each through all layers in one thread), and a few long ones (shared phases)."""
    torch.set_num_threads(count)
    model = make(kind)
    assert encoder.unfit(model) is None
    for lengths, width in (
        ([[7, 13, 1, 20], [30, 2], [41]] * 9, 44), ([[60], [50]], 64), ([[3]], 3), ([[64, 1]], 65),
    ):  # fmt: skip
        raw = rows(lengths, width)
        theirs, ours = both(model, raw)
        real = raw["doc"] >= 0
        np.testing.assert_allclose(ours[real], theirs[real], atol=2e-5)
        assert not ours[~real].any()
    plain = {"tokens": torch.arange(30).reshape(2, 15)}  # whole rows: no columns doc and pos
    np.testing.assert_allclose(*both(model, plain), atol=2e-5)


@pytest.mark.parametrize("kind", SHAPES)
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=3), min_size=1, max_size=6),
    share=st.floats(0, 1),
    small=st.booleans(),
    count=st.integers(1, 3),
)
def test_a_document_is_the_same_alone_and_needed_rows_are_the_whole_ones(
    kind: str, lengths: list[list[int]], share: float, small: bool, count: int
) -> None:
    """To the last bit, in int8 too."""
    torch.set_num_threads(count)
    model = make(kind, depth=2)
    raw = rows(lengths, 60)
    if small and not encoder.small_products():
        return
    fast = encoder.Swift(model, small)
    with torch.no_grad():
        whole = fast(raw, Attention.FULL)
        needed = torch.rand(raw["doc"].shape, generator=torch.Generator().manual_seed(1)) < share
        needed &= raw["doc"] >= 0
        some = fast({**raw, "needed": needed}, Attention.FULL)
        assert torch.equal(some[needed], whole[needed])
        for b, row in enumerate(lengths):
            at = 0
            for n in row:
                alone = fast({"tokens": raw["tokens"][b : b + 1, at : at + n]}, Attention.FULL)
                assert torch.equal(alone[0], whole[b, at : at + n])
                at += n


def test_int8_is_near_and_its_products_are_what_they_say() -> None:
    if not encoder.small_products():
        pytest.skip("this processor's int8 products are PyTorch's")
    torch.set_num_threads(2)
    for kind in SHAPES:
        model = make(kind)
        raw = rows([[7, 13], [30]] * 5, 30)
        with torch.no_grad():
            theirs, ours = model(raw, Attention.FULL), encoder.Swift(model, True)(raw, Attention.FULL)
        near = torch.cosine_similarity(ours, theirs, dim=-1)[raw["doc"] >= 0]
        assert near.min() > 0.98 and near.mean() > 0.995


def test_int8_of_pytorch_gives_a_row_the_same_alone() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10), torch.randn(7, 24) * torch.logspace(-3, 3, 7)[:, None]
    small = Int8Linear(layer)
    with torch.no_grad():
        whole = small(x)
        for i in range(7):
            assert torch.equal(small(x[i : i + 1])[0], whole[i])
        off = (whole - layer(x) + 0.0).norm(dim=1) / layer(x).norm(dim=1)
    assert off.max() < 0.05
    assert small(torch.zeros(2, 3, 24)).equal(layer.bias.detach().expand(2, 3, 10))


def test_what_does_not_fit_is_the_models_matter() -> None:
    model = make("bert")
    causal = {"tokens": torch.arange(12).reshape(1, 12), "group": torch.tensor([[0] * 6 + [1] * 6])}
    theirs, ours = both(model, causal)
    assert torch.equal(theirs, ours)
    with torch.no_grad():
        small = encoder.Swift(model, True)(causal, Attention.FULL)
        assert torch.equal(small, int8(model)(causal, Attention.FULL))
    split = {"tokens": torch.arange(9)[None], "doc": torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0, 0]])}
    assert torch.equal(*both(model, split))  # a document in two pieces
    decoder = build(resolve(ModelConfig(family="gpt2", depth=1, width=16, heads=2), V))
    assert encoder.unfit(decoder) == "a decoder" and encoder.swift(decoder) is decoder
    with pytest.raises(UsageError, match="a decoder"):
        encoder.swift(decoder, "int8")
    hooked = make("bert")
    hooked.trunk.register_forward_hook(lambda *_: None)
    assert encoder.unfit(hooked) == "it has hooks" and encoder.swift(hooked) is hooked
    assert "not float32" in (encoder.unfit(make("bert").double()) or "")


def test_changed_weights_are_packed_anew_and_models_go() -> None:
    import gc
    import weakref

    model = make("bert")
    raw = rows([[9, 4]], 13)
    theirs, ours = both(model, raw)
    with torch.no_grad():
        next(iter(model.trunk.parameters())).mul_(1.5)
    again, fresh = both(model, raw)
    np.testing.assert_allclose(fresh, again, atol=2e-5)
    assert (again - theirs).abs().max() > 1e-3
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_faster_way_is_taken_and_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path))
    model = make("bert", depth=1)
    times = {"native": 1.0, "torch": 2.0}
    monkeypatch.setattr(encoder.tune, "_least", lambda ways: {name: times[name] for name in ways})
    assert isinstance(encoder.swift(model), encoder.Swift)
    assert "native, 2.0 times as fast as torch" in capsys.readouterr().err
    times["native"] = 5.0
    assert isinstance(encoder.swift(model), encoder.Swift) and not capsys.readouterr().err  # it is known
    other = make("bert", depth=2)
    assert encoder.swift(other) is other
