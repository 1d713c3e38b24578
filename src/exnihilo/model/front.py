"""The front end: raw columns of a batch → `Seq`.

A position holds a token, which is looked up, or numbers (frames of a sound, the pixels of a patch), which are
mapped into the trunk's width. Which, is data: the column ``kind`` is 0 at tokens and n at the n-th of
``model.inputs``, whose numbers stand in a column of its name. So a sound, a picture and a text can share a
row, special tokens ([CLS], [MASK]) stand among frames, and the trunk knows nothing of it::

    raw = {"tokens": tokens_BT, "kind": kind_BT, "sound": sound_BTF}
    seq = front(raw, Attention.FULL)

Source of the two convolutions: Radford et al. 2022 (Whisper, arXiv 2212.04356), `AudioEncoder`.

Key: B batch, T positions, D model width, V vocabulary, F numbers a position holds, N frames a position holds,
    M positions chosen, S = B · T
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exnihilo.errors import ConfigError, ModelError
from exnihilo.kernels.dropout import dropout
from exnihilo.nn.layout import Attention, Seq
from exnihilo.nn.norms import LayerNorm


class Vector(nn.Module):
    """The numbers of a position, mapped linearly: patches of a picture or a spectrogram."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size, width)

    def forward(self, raw_BTF: Tensor, doc_BT: Tensor | None) -> Tensor:
        """(B, T, F) -> (B, T, D)."""
        del doc_BT
        return self.dense(raw_BTF)


class Frames(nn.Module):
    """N frames a position through two convolutions, GELU after both: over three frames, then over a
    position's own and the one before them. With two frames it is Whisper's stem. Written as matrices, so that
    no convolution reaches into another document of a packed row: beyond its ends a document sees zeros, as it
    does alone.

    Attributes:
        first: weight (D, 3F), of the frames before, at and after; second: weight (D, (N + 1) D).
    """

    def __init__(self, size: int, width: int, frames: int = 2) -> None:
        super().__init__()
        self.size, self.frames = size, frames
        self.first = nn.Linear(3 * size, width)
        self.second = nn.Linear((frames + 1) * width, width)

    def forward(self, raw_BTF: Tensor, doc_BT: Tensor | None) -> Tensor:
        """(B, T, N · size) -> (B, T, D)."""
        follows_BT = None if doc_BT is None else doc_BT[:, 1:] == doc_BT[:, :-1]
        size = self.size
        before_BTF = self._from(raw_BTF[..., -size:], follows_BT, 1)
        after_BTF = self._from(raw_BTF[..., :size], follows_BT, -1)
        wide = torch.cat((before_BTF, raw_BTF, after_BTF), -1)
        held_BTND = F.gelu(self.first(wide.unfold(-1, 3 * size, size)))
        last_BTD = self._from(held_BTND[..., -1, :], follows_BT, 1)
        return F.gelu(self.second(torch.cat((last_BTD, held_BTND.flatten(-2)), -1)))

    @staticmethod
    def _from(x_BTF: Tensor, follows_BT: Tensor | None, step: int) -> Tensor:
        """What the position before (1) or after (-1) holds; zeros where that is of another document."""
        held = x_BTF[:, :-1] if step > 0 else x_BTF[:, 1:]
        if follows_BT is not None:
            held = held * follows_BT.unsqueeze(-1).to(held.dtype)
        return F.pad(held, (0, 0, 1, 0) if step > 0 else (0, 0, 0, 1))


def _placed(
    x_BTD: Tensor, mapping: nn.Module, raw_BTF: Tensor, here_BT: Tensor, doc_BT: Tensor | None
) -> Tensor:
    """`x_BTD` with what `mapping` makes of the chosen positions in their place: each run of them within a
    document is mapped as if it stood alone."""
    B, T, D = x_BTD.shape
    at_M = here_BT.flatten().nonzero().squeeze(1)
    if not len(at_M):
        at_M = at_M.new_zeros(1)  # its weights take part in every step; nothing is put anywhere
    row_M = at_M // T
    breaks_M = (at_M.diff() != 1) | (row_M.diff() != 0)
    if doc_BT is not None:
        breaks_M = breaks_M | (doc_BT.flatten()[at_M].diff() != 0)
    run_1M = F.pad(breaks_M.long().cumsum(0), (1, 0)).unsqueeze(0)
    held_MD = mapping(raw_BTF.flatten(0, 1)[at_M].unsqueeze(0).to(x_BTD.dtype), run_1M)[0].to(x_BTD.dtype)
    flat_SD = x_BTD.flatten(0, 1)
    put_MD = torch.where(here_BT.flatten()[at_M].unsqueeze(-1), held_MD, flat_SD[at_M])
    return flat_SD.index_copy(0, at_M, put_MD).view(B, T, D)


def stem(name: str, held: tuple[int, ...], width: int) -> Vector | Frames:
    """What maps an input of ``model.inputs``.

    Raises:
        ConfigError: neither (numbers,) nor (frames, numbers of a frame).
    """
    if len(held) == 1 and held[0] > 0:
        return Vector(held[0], width)
    if len(held) == 2 and held[0] > 0 and held[1] > 0:
        return Frames(held[1], width, held[0])
    raise ConfigError(
        f"model.inputs.{name}={list(held)}",
        expected="[numbers] of a position, or [frames, numbers of each]",
        next="leave it out: the objective says it",
    )


class Tokens(nn.Module):
    """Token embeddings; learned position and segment embeddings and a norm in the families that have them;
    what maps the inputs that are no tokens, where the model has such.

    Reads the columns ``tokens`` (B, T), and where given ``pos``, ``doc``, ``segment`` and ``branch`` (B, T
    each), ``group`` (B, T), ``place`` (B, T, K); ``kind`` (B, T) and a column (B, T, F) for each input; in
    training also ``noise`` (B, T): the half-width of uniform noise that is added to each number of an
    embedded token.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        positions: int | None,
        dropout: float,
        segments: int = 0,
        norm: LayerNorm | None = None,
        inputs: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(positions, width) if positions else None
        self.segments = nn.Embedding(segments, width) if segments else None
        self.norm = norm
        found = {name: stem(name, tuple(held), width) for name, held in (inputs or {}).items()}
        self.inputs = nn.ModuleDict(found) if found else None

    def forward(self, raw: Mapping[str, Tensor], attention: Attention) -> Seq:
        tokens_BT, pos_BT, doc_BT = raw["tokens"], raw.get("pos"), raw.get("doc")
        if tokens_BT.ndim != 2:
            raise ModelError(f"tokens of shape {tuple(tokens_BT.shape)}", expected="(rows, positions)")
        x_BTD = self.tokens(tokens_BT)
        if self.inputs is not None:
            x_BTD = self._mapped(x_BTD, raw, self.inputs)
        if self.training and raw.get("noise") is not None:
            x_BTD = x_BTD + (2 * torch.rand_like(x_BTD) - 1) * raw["noise"].unsqueeze(-1).to(x_BTD.dtype)
        if self.positions is not None:
            T, limit = tokens_BT.shape[1], self.positions.num_embeddings
            if pos_BT is None and T > limit:
                raise ModelError(
                    f"a row of {T} tokens, the model has {limit} learned positions",
                    expected=f"at most {limit}",
                    next="shorten the input, or train with a larger model.context",
                )
            if pos_BT is None:
                x_BTD = x_BTD + self.positions.weight[:T]
            else:
                self._check(pos_BT, limit)
                x_BTD = x_BTD + self.positions(pos_BT)
        segment_BT = raw.get("segment")
        if self.segments is not None:
            # without the column all tokens are of the first segment
            x_BTD = x_BTD + (self.segments.weight[0] if segment_BT is None else self.segments(segment_BT))
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        if self.dropout and self.training:
            x_BTD = dropout(x_BTD, self.dropout)
        pos_BTK = raw.get("place")
        if pos_BTK is None and pos_BT is not None:
            pos_BTK = pos_BT.unsqueeze(-1)
        group = raw.get("group", attention.group)
        return Seq(x_BTD, pos_BTK, group, doc_BT, raw.get("needed"), raw.get("branch"))

    @staticmethod
    def _mapped(x_BTD: Tensor, raw: Mapping[str, Tensor], inputs: nn.ModuleDict) -> Tensor:
        """The embedded tokens, and in the place of those whose `kind` says so what the position holds."""
        kind_BT = raw.get("kind")
        if kind_BT is None:  # tokens alone
            return x_BTD
        for number, (name, mapping) in enumerate(inputs.items(), 1):
            if name in raw and len(inputs) > 1:  # most positions hold something else
                x_BTD = _placed(x_BTD, mapping, raw[name], kind_BT == number, raw.get("doc"))
            elif name in raw:
                held_BTD = mapping(raw[name].to(x_BTD.dtype), raw.get("doc"))
                x_BTD = torch.where((kind_BT == number).unsqueeze(-1), held_BTD.to(x_BTD.dtype), x_BTD)
        return x_BTD

    def _check(self, pos_BT: Tensor, limit: int) -> None:
        if pos_BT.shape[1] <= limit and (pos_BT.device.type != "cpu" or torch.compiler.is_compiling()):
            return  # reading the largest position back would stall the device
        largest = int(pos_BT.max())
        if largest >= limit:
            raise ModelError(
                f"position {largest}, the model has {limit} learned positions",
                expected=f"0 .. {limit - 1}",
                next="shorten the input, or train with a larger model.context",
            )
