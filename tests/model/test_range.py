"""Longer contexts: YaRN and windows and sinks in decoders, with and without a cache, and their refusals.

Key: B batch, T positions, V vocabulary
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from exnihilo.config import ModelConfig, YarnConfig
from exnihilo.errors import ConfigError
from exnihilo.infer.cache import StaticCache
from exnihilo.infer.engine import Engine
from exnihilo.infer.request import Request
from exnihilo.infer.sampling import Sampling
from exnihilo.kernels import long as longs
from exnihilo.model import Model, build, resolve
from exnihilo.model.sizes import local_layers, reach
from exnihilo.nn.rotary import Yarn, frequencies

KINDS: dict[str, dict[str, Any]] = {
    "window": {"window": 5},
    "global": {"window": 5, "global_every": 2},
    "sinks": {"sinks": True},
    "all": {"window": 6, "global_every": 2, "sinks": True, "yarn": YarnConfig(factor=4)},
}
FAMILIES = ("qwen3", "ministral")


def made(family: str = "qwen3", **kw: Any) -> Model:
    given = {"depth": 3, "width": 32, "heads": 4, "kv_heads": 2, "context": 64, "vocab_size": 71, **kw}
    model = build(ModelConfig(family=family, **given), seed=0).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (0.3 if p.ndim > 1 else 0.5) + (p.ndim == 1))
    return model


def logits(model: Model, raw: dict[str, Tensor], **kw: Any) -> Tensor:
    head: Any = model.heads["tokens"]
    with torch.no_grad():
        return head.logits(model(raw, **kw))


# rotary ----------------------------------------------------------------------------------------------


def test_yarn_as_the_paper_has_it() -> None:
    """Section 3.2, in plain Python: γ by how often a frequency turns within the original context."""
    d, theta, factor, original = 64, 10_000.0, 8.0, 512
    found = frequencies(d, theta, Yarn(factor, original, 32.0, 1.0, 1.0))
    plain = [theta ** (-2 * i / d) for i in range(d // 2)]
    turns = [original * f / (2 * math.pi) for f in plain]
    for i, (f, n) in enumerate(zip(plain, turns, strict=True)):
        if n > 40:
            assert found[i] == pytest.approx(f, rel=1e-6)
        elif n < 0.7:
            assert found[i] == pytest.approx(f / factor, rel=1e-6)
        else:
            assert f / factor * 0.999 <= found[i] <= f * 1.001
    assert (found.diff() < 0).all()


def test_yarn_scales_logits_by_the_square_of_its_attention_factor() -> None:
    config = ModelConfig(depth=2, vocab_size=9, context=64, yarn=YarnConfig(factor=4))
    full = resolve(config)
    assert full.yarn is not None and full.yarn.original == 16
    assert full.yarn.attention == pytest.approx(0.1 * math.log(4) + 1)
    rotary = build(full).trunk.rotary
    assert rotary is not None
    first = rotary(8, None).cos[0]
    torch.testing.assert_close(first, torch.full_like(first, full.yarn.attention or 0.0))


# windows ---------------------------------------------------------------------------------------------


def test_which_layers_are_local() -> None:
    def of(**kw: Any) -> tuple[bool, ...]:
        return local_layers(resolve(ModelConfig(**{"vocab_size": 9, "depth": 5, **kw})))

    assert of() == (False,) * 5
    assert of(window=8) == (True,) * 5
    assert of(window=8, global_every=2) == (True, False, True, False, True)
    assert of(family="modernbert") == (False, True, True, False, True)
    assert reach(resolve(ModelConfig(vocab_size=9, window=8))) == 7


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_comes_from_beyond_window_times_layers(family: str) -> None:
    """A token bears on what is at most layers × (window - 1) places behind it, to the last bit."""
    depth, window, T = 3, 5, 40
    model = made(family, window=window)
    far = depth * (window - 1)
    tokens_BT = torch.randint(71, (1, T), generator=torch.Generator().manual_seed(0))
    other_BT = tokens_BT.clone()
    other_BT[0, 10] = (other_BT[0, 10] + 1) % 71
    changed_T = (logits(model, {"tokens": tokens_BT}) != logits(model, {"tokens": other_BT}))[0].any(-1)
    assert not changed_T[:10].any() and not changed_T[10 + far + 1 :].any()
    assert changed_T[10 : 10 + far + 1].all()
    wide = made(family, window=window, global_every=3)
    changed_T = (logits(wide, {"tokens": tokens_BT}) != logits(wide, {"tokens": other_BT}))[0].any(-1)
    assert changed_T[10:].all() and not changed_T[:10].any()


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_are_as_alone(kind: str) -> None:
    model = made(**KINDS[kind])
    a_BT, b_BT = torch.randint(71, (1, 17)), torch.randint(71, (1, 12))
    doc_BT = torch.tensor([[0] * 17 + [1] * 12])
    pos_BT = torch.cat((torch.arange(17), torch.arange(12)))[None]
    packed = logits(model, {"tokens": torch.cat((a_BT, b_BT), 1), "doc": doc_BT, "pos": pos_BT})
    torch.testing.assert_close(packed[:, :17], logits(model, {"tokens": a_BT}), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(packed[:, 17:], logits(model, {"tokens": b_BT}), atol=1e-4, rtol=1e-4)


def test_branches_of_a_stem_with_windows() -> None:
    """Each branch reads the stem as if it followed it, however far apart they stand in the row."""
    model = made(window=5, global_every=2)
    stem, one, two = torch.randint(71, (1, 9)), torch.randint(71, (1, 7)), torch.randint(71, (1, 6))
    raw = {
        "tokens": torch.cat((stem, one, two), 1),
        "branch": torch.tensor([[0] * 9 + [1] * 7 + [2] * 6]),
        "pos": torch.cat((torch.arange(16), torch.arange(9, 15)))[None],
    }
    found = logits(model, raw)
    alone = logits(model, {"tokens": torch.cat((stem, two), 1)})
    torch.testing.assert_close(found[:, 16:], alone[:, 9:], atol=1e-4, rtol=1e-4)


def test_needed_positions_of_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer is local, and its rule holds no mask: the needed states are as if all were."""
    monkeypatch.setattr(longs, "LONG", 32)
    model = build(
        ModelConfig(family="modernbert", depth=2, width=32, heads=2, vocab_size=71, window=8)
    ).eval()
    tokens_BT = torch.randint(71, (2, 60), generator=torch.Generator().manual_seed(1))
    needed_BT = torch.zeros(2, 60, dtype=torch.bool)
    needed_BT[:, ::7] = True
    with torch.no_grad():
        some, whole = model({"tokens": tokens_BT, "needed": needed_BT}), model({"tokens": tokens_BT})
    torch.testing.assert_close(some[needed_BT], whole[needed_BT], atol=1e-5, rtol=1e-5)


# decoding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_gives_what_the_whole_row_gives(kind: str, family: str) -> None:
    model = made(family, **KINDS[kind])
    tokens_BT = torch.randint(71, (2, 33), generator=torch.Generator().manual_seed(1))
    whole = logits(model, {"tokens": tokens_BT})
    cache, out = StaticCache.of(model, rows=2), []
    for start, end in ((0, 1), (1, 14), (14, 15), (15, 16), (16, 33)):
        pos_BT = torch.arange(start, end).expand(2, -1)
        out.append(logits(model, {"tokens": tokens_BT[:, start:end], "pos": pos_BT}, cache=cache))
    torch.testing.assert_close(torch.cat(out, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [*KINDS, "yarn"])
def test_greedy_decoding_is_the_forward_pass(kind: str) -> None:
    model = made(**KINDS.get(kind, {"yarn": YarnConfig(factor=4)}))
    prompts = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [2, 7], [1, 8, 2, 8]]
    engine = Engine(model, slots=2, threads=1, chunk=4)
    assert kind == "yarn" or not engine.native  # local layers and sinks: the model itself
    found = engine.run([Request(ids, max_new_tokens=25, sampling=Sampling(temperature=0)) for ids in prompts])
    for ids, replies in zip(prompts, found, strict=True):
        text = list(ids)
        for _ in range(25):
            text.append(int(logits(model, {"tokens": torch.tensor([text])})[0, -1].argmax()))
        assert list(replies[0].ids) == text[len(ids) :]


# refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"family": "llama", "window": 8}, "ministral"),
        ({"family": "gpt2", "sinks": True}, "qwen3"),
        ({"family": "bert", "yarn": YarnConfig()}, "qwen3"),
        ({"family": "qwen3", "global_every": 2}, "without model.window"),
        ({"family": "qwen3", "window": 8, "local_theta": 5.0}, "modernbert"),
    ],
)
def test_what_a_family_does_not_have_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(ModelConfig(vocab_size=50, **given))


def test_sinks_begin_at_zero() -> None:
    model = build(ModelConfig(depth=2, vocab_size=9, sinks=True))
    found = [p for name, p in model.named_parameters() if name.endswith(".sinks")]
    assert len(found) == 2 and all(torch.equal(p, torch.zeros(2)) for p in found)
