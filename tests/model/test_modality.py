"""A new modality touches neither nn/ nor the trunk: pictures as patches, with a caption, in one row.

Key: B batch, T positions, D model width, K coordinates, P patch values
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exnihilo.config import ModelConfig
from exnihilo.model import resolve
from exnihilo.model.init import initialise
from exnihilo.model.model import shape_of
from exnihilo.model.trunk import Trunk
from exnihilo.nn.layout import Seq
from exnihilo.nn.rotary import Rotary

D, SIDE, P = 32, 4, 12


class Patches(nn.Module):
    """A picture of SIDE × SIDE patches in group 1, two coordinates each."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(P, D)

    def forward(self, patches_BTP: Tensor) -> Seq:
        B, T, _ = patches_BTP.shape
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        pos = torch.stack((y, x), -1).view(1, T, 2).expand(B, T, 2)
        return Seq(self.project(patches_BTP), pos, torch.ones(B, T, dtype=torch.long))


def join(a: Seq, b: Seq) -> Seq:
    assert a.pos_BTK is not None and b.pos_BTK is not None
    assert isinstance(a.group_BT, Tensor) and isinstance(b.group_BT, Tensor)
    return Seq(
        torch.cat((a.x_BTD, b.x_BTD), 1),
        torch.cat((a.pos_BTK, b.pos_BTK), 1),
        torch.cat((a.group_BT, b.group_BT), 1),
    )


def test_a_picture_and_its_caption() -> None:
    config = resolve(ModelConfig(depth=2, width=D, heads=2, vocab_size=10))
    trunk = Trunk(shape_of(config), 2, Rotary(16, 10_000.0, 32))
    initialise(trunk, D, 2, seed=0)
    torch.manual_seed(0)
    front, words = Patches(), nn.Embedding(10, D)
    picture, caption = torch.randn(2, SIDE * SIDE, P), torch.randint(10, (2, 5))

    def run(picture: Tensor, caption: Tensor) -> Tensor:
        pos = (SIDE + torch.arange(5))[None, :, None].expand(2, 5, 2)
        text = Seq(words(caption), pos, torch.zeros(2, 5, dtype=torch.long))
        return trunk(join(front(picture), text))

    out = run(picture, caption)
    assert out.shape == (2, 21, D)
    changed = picture.clone()
    changed[:, -1] += 1
    moved = (run(changed, caption) - out).abs().amax(-1)
    assert (moved > 1e-6).all()  # the last patch bears on the first patch and on the caption
    moved = (run(picture, torch.cat((caption[:, :-1], (caption[:, -1:] + 1) % 10), 1)) - out).abs().amax(-1)
    assert (moved[:, :-1] == 0).all() and (moved[:, -1] > 0).all()  # the caption is causal
    rotated = picture.view(2, SIDE, SIDE, P).transpose(1, 2).reshape(2, -1, P)
    assert not torch.allclose(run(rotated, caption)[:, -1], out[:, -1])  # rows are not columns
