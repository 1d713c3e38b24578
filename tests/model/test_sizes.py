"""One dial gives consistent sizes; contradictions are refused with both numbers."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError
from exnihilo.model import build, parameters, resolve
from exnihilo.model.family import find, names


@given(depth=st.integers(1, 48), family=st.sampled_from(names()))
@settings(deadline=None)
def test_the_dial_alone(depth: int, family: str) -> None:
    full = resolve(ModelConfig(depth=depth, family=family), 1000)
    open_ones = {name for name, value in full.model_dump().items() if value is None}
    local = {"modernbert": set(), "ministral": {"global_every", "local_theta"}}
    said = local.get(family, {"window", "global_every", "local_theta"})
    assert open_ones == {"preset", "labels", "straight", "yarn", *said}
    assert full.width == 64 * depth and full.heads * full.head_dim == full.width  # type: ignore[operator]
    assert full.heads >= 2 and full.kv_heads == full.heads  # type: ignore[operator]
    assert full.head_dim == (32 if depth == 1 else 64)
    width, wide = 64 * depth, {"ast": 4, "vit": 4, "gpt2": 4, "bert": 4, "modernbert": 1.5}
    expected = wide[family] * width if family in wide else -(-(8 * width // 3) // 64) * 64
    assert full.mlp_width == (-(-expected // 64) * 64 if family == "modernbert" else expected)
    assert resolve(full) == full  # nothing left to derive


@given(
    st.fixed_dictionaries(
        {"family": st.sampled_from(names()), "depth": st.integers(1, 4)},
        optional={
            "width": st.integers(1, 300),
            "heads": st.integers(1, 9),
            "kv_heads": st.integers(1, 9),
            "head_dim": st.integers(1, 70),
            "mlp_width": st.integers(1, 300),
        },
    )
)
@settings(max_examples=200, deadline=None)
def test_any_setting_is_obeyed_or_refused(given: dict) -> None:
    """What resolves can be built and has the counted parameters; what does not gives a ConfigError."""
    try:
        full = resolve(ModelConfig(context=8, **given), 17)
    except ConfigError as error:
        assert error.expected
        return
    assert all(getattr(full, key) == value for key, value in given.items())
    assert full.heads % full.kv_heads == 0  # type: ignore[operator]
    model = build(full, device="meta")
    assert parameters(full) == sum(p.numel() for p in model.parameters())
    if find(full.family).positions == "rotary":
        assert full.head_dim % 2 == 0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({"heads": 6, "kv_heads": 4}, ("6", "4")),
        ({"width": 100, "heads": 3}, ("100", "3")),
        ({"width": 100, "head_dim": 64}, ("100", "64")),
        ({"family": "gpt2", "heads": 4, "kv_heads": 2}, ("4", "2")),
        ({"family": "gpt2", "width": 128, "heads": 4, "head_dim": 64}, ("256", "128")),
        ({"head_dim": 15, "heads": 2}, ("15",)),
        ({"width": 65}, ("65",)),
        ({"vocab_size": 10}, ("10", "1000")),
    ],
)
def test_contradictions_name_both_numbers(given: dict, numbers: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(ModelConfig(**given), 1000)
    assert all(number in caught.value.given for number in numbers)
    assert caught.value.next and caught.value.expected


def test_vocabulary() -> None:
    assert resolve(ModelConfig(vocab_size=1024), 1000).vocab_size == 1024  # padded to a round number
    with pytest.raises(ConfigError, match="vocab_size is not known"):
        resolve(ModelConfig())


def test_the_sizes_of_published_models() -> None:
    """Counted against the models' own cards: GPT-2 124M, Qwen3-0.6B, Llama 3.2 1B."""
    gpt2 = ModelConfig(family="gpt2", depth=12, width=768, context=1024, vocab_size=50257)
    assert parameters(gpt2) == 124_439_808
    qwen3 = ModelConfig(
        family="qwen3",
        depth=28,
        width=1024,
        heads=16,
        kv_heads=8,
        head_dim=128,
        mlp_width=3072,
        vocab_size=151_936,
    )
    assert parameters(qwen3) == 596_049_920
    llama = ModelConfig(
        family="llama", depth=16, width=2048, heads=32, kv_heads=8, mlp_width=8192, vocab_size=128_256
    )
    assert parameters(llama) == 1_235_814_400
