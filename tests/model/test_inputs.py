"""What positions hold that are no tokens: the stems against torch's convolutions, and packing."""

from __future__ import annotations

import pytest
import torch

from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError
from exnihilo.model import build, parameters
from exnihilo.model.front import Frames

SIZES = {"depth": 2, "width": 32, "heads": 2, "vocab_size": 8, "context": 32}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_stem_is_two_convolutions_with_two_frames_whispers(n: int):
    torch.manual_seed(0)
    stem, F, D, T = Frames(5, 8, n).double(), 5, 8, 7
    x = torch.randn(2, T, n * F, dtype=torch.float64)
    first = stem.first.weight.view(D, 3, F).transpose(1, 2)
    second = stem.second.weight.view(D, n + 1, D).transpose(1, 2)
    frames = x.view(2, n * T, F).transpose(1, 2)
    a = torch.nn.functional.gelu(torch.nn.functional.conv1d(frames, first, stem.first.bias, padding=1))
    a = torch.nn.functional.pad(a, (1, 0))
    b = torch.nn.functional.gelu(torch.nn.functional.conv1d(a, second, stem.second.bias, stride=n))
    # at a document's ends the convolution reads zeros, also in the place of states that would be there
    got = stem(x, None)
    torch.testing.assert_close(got[:, 1:], b.transpose(1, 2)[:, 1:])
    torch.testing.assert_close(got[:, :1], b.transpose(1, 2)[:, :1])


def test_no_frame_reaches_into_another_document():
    torch.manual_seed(0)
    stem = Frames(5, 8)
    x, y = torch.randn(1, 3, 10), torch.randn(1, 4, 10)
    doc = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    both = stem(torch.cat((x, y), 1), doc)
    torch.testing.assert_close(both[:, :3], stem(x, None))
    torch.testing.assert_close(both[:, 3:], stem(y, None))


@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3"])
def test_tokens_and_inputs_share_a_row(family: str):
    heads = ("tokens",) if family == "qwen3" else ("embedding",)
    config = ModelConfig(family=family, inputs={"sound": (2, 4), "patch": (6,)}, **SIZES)  # type: ignore[arg-type]
    model = build(config, heads=heads).eval()
    assert parameters(model.config) == sum(p.numel() for p in model.parameters())
    tokens = torch.tensor([[1, 0, 0, 2, 0]])
    kind = torch.tensor([[0, 1, 1, 0, 2]])
    sound, patch = torch.randn(1, 5, 8), torch.randn(1, 5, 6)
    raw = {"tokens": tokens, "kind": kind, "sound": sound, "patch": patch}
    x = model.front(raw, model.attention).x_BTD
    # what stands where another kind does is never read
    other = {**raw, "tokens": torch.tensor([[1, 5, 5, 2, 5]])}
    torch.testing.assert_close(model.front(other, model.attention).x_BTD, x)
    patch2 = patch.clone()
    patch2[:, :4] = 9
    torch.testing.assert_close(model.front({**raw, "patch": patch2}, model.attention).x_BTD, x)
    plain = model.front({"tokens": tokens}, model.attention).x_BTD
    torch.testing.assert_close(plain[:, [0, 3]], x[:, [0, 3]])
    assert not torch.allclose(plain[:, 4], x[:, 4])


def test_places_of_two_coordinates_reach_the_rotary_positions():
    config = ModelConfig(family="modernbert", inputs={"patch": (6,)}, **SIZES)  # type: ignore[arg-type]
    model = build(config, heads=("embedding",)).eval()
    raw = {"tokens": torch.zeros(1, 4, dtype=torch.long), "kind": torch.ones(1, 4, dtype=torch.long)}
    raw["patch"] = torch.randn(1, 4, 6)
    place = torch.tensor([[[0, 0], [0, 1], [1, 0], [1, 1]]])
    moved = model({**raw, "place": place + 5})
    torch.testing.assert_close(model({**raw, "place": place}), moved, atol=1e-5, rtol=1e-5)  # distances count
    assert not torch.allclose(model(raw), moved, atol=1e-3)


def test_an_input_of_no_known_shape_is_refused():
    with pytest.raises(ConfigError, match="inputs.sound"):
        build(ModelConfig(family="bert", inputs={"sound": (0, 4)}, **SIZES))  # type: ignore[arg-type]
