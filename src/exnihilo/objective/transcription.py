"""Transcription by a decoder: the sound is a prefix, the text is continued behind it, token by token.

A row is the positions of the sound, then [bos] text [eos]; the decoder reads the sound like any text before,
and the loss is on the text alone. So a decoder of text (``init=`` of a run of `gpt`) learns to hear: its
front end gets a new input, everything else is carried over. Reading is greedy, with keys and values kept.

Captions are the same task with other texts. Facts: none. Metrics: as `ctc`.

Sources: Radford et al. 2022 (Whisper, arXiv 2212.04356); Wu et al. 2023 (decoder-only speech recognition,
arXiv 2307.03917).

Key: B rows, T positions, D model width, P sounds, U tokens of a text, V vocabulary
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from exnihilo.data.base import Noted
from exnihilo.errors import DataError
from exnihilo.kernels.linear_ce import linear_cross_entropy
from exnihilo.metrics.edit import errors
from exnihilo.nn.layout import Attention
from exnihilo.objective._hearing import INPUT, Hearing, segments
from exnihilo.objective._layout import missing
from exnihilo.objective.base import Batch, Example, Item
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model


class Transcription(Hearing):
    """Speech, or any sound, to text."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "kind", "sound", "targets"})
    roles: ClassVar[tuple[str, ...]] = ("sound", "text")
    view: ClassVar[str] = "soundscapes"
    supervised: ClassVar[bool] = True
    fresh: ClassVar[Literal["learn", "pretrain"]] = "pretrain"
    main_metric: ClassVar[str] = "word_accuracy"
    windows: ClassVar[bool] = False
    per_item: ClassVar[frozenset[str]] = frozenset({"ids"})

    class Config(Hearing.Config):
        """Options of what is heard, and

        Attributes:
            max_new_tokens: of a text that is read.
        """

        max_new_tokens: int = Field(default=64, ge=1)

    config: Transcription.Config

    @property
    def marked(self) -> int:
        return 0

    def marks(self, codec: Codec) -> list[int]:
        return []

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        texts = Counter(" ".join(str(e.get("text") or "").split()) for e in examples)
        texts.pop("", None)
        if not texts:
            raise DataError("no example has a text", expected="what is said, in a role 'text'")
        return {"constant": texts.most_common(1)[0][0]}

    # data ---------------------------------------------------------------------------------------

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        self._codec = codec
        out: list[list[Item]] = []
        for example, items in zip(examples, self.hear_many(examples, codec), strict=True):
            text = example.get("text")
            if missing(text):
                out.append(items if "text" not in example or not items else Noted([], "without a text"))
                continue
            ids = [codec.bos_id, *codec.encode(" ".join(str(text).split())), codec.eos_id]
            if not items:
                out.append(items)
                continue
            whole = _behind(items[0], ids)
            if self.length is not None and len(np.asarray(whole["tokens"])) > self.length:
                out.append(Noted([], "longer than the model's positions, with their text"))
                continue
            out.append([whole])
        return out

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        self._codec = codec
        plain = {role: value for role, value in example.items() if role != "text"}
        room = self.length
        try:  # what is read stands behind the sound
            self.length = None if room is None else max(2, room - min(room // 2, self.config.max_new_tokens))
            found = self.hear(plain, codec, cut=True)
        finally:
            self.length = room
        return [_behind(item, []) for item in found]

    # training -----------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"nll": (_own(batch) != IGNORE).to(torch.float64).sum()}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        targets_BT = _own(batch)
        head: Any = model.heads["tokens"]
        held_BT = targets_BT != IGNORE
        total, _ = linear_cross_entropy(
            hidden_BTD[held_BT], head.weight, targets_BT[held_BT].long(), bias_V=head.bias
        )
        return {"nll": total}

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Ids that follow each sound, (P, U), -1 behind the end."""
        del hidden_BTD  # of the sounds together: each is continued alone
        sound_BTF = self.heard(batch)
        host = {name: batch[name].cpu().numpy() for name in ("kind", "doc") if name in batch}
        found = [
            self._continue(model, sound_BTF[b : b + 1, start:end])
            for b, start, end in segments(host["kind"], host.get("doc"))
        ]
        out = torch.full((len(found), self.config.max_new_tokens), -1, dtype=torch.int64)
        for row, ids in zip(out, found, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return {"ids": out}

    def _continue(self, model: Model, sound_1TF: Tensor) -> list[int]:
        """Greedy continuation of one sound."""
        codec, head = self._codec, model.heads["tokens"]
        T, device = sound_1TF.shape[1], sound_1TF.device
        cache = _Kept()
        tokens_1T = torch.full((1, T + 1), codec.bos_id, device=device)
        kind_1T = torch.ones_like(tokens_1T)
        kind_1T[:, -1] = 0
        padded = torch.nn.functional.pad(sound_1TF, (0, 0, 0, 1))
        raw = {"tokens": tokens_1T, "kind": kind_1T, INPUT: padded}
        raw["pos"] = torch.arange(T + 1, device=device).unsqueeze(0)
        out: list[int] = []
        most = min(self.config.max_new_tokens, model.config.context - T - 1)
        while len(out) < most:
            hidden_1TD = model(raw, self.attention, cache)
            best = int(head.logits(hidden_1TD[:, -1]).argmax(-1))
            if best == codec.eos_id:
                break
            out.append(best)
            place = torch.tensor([[T + len(out)]], device=device)
            raw = {"tokens": torch.tensor([[best]], device=device), "pos": place}
        return out

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"text"}: of a sound in windows, of all of them."""
        if not outputs:
            raise DataError(f"{example.get('sound')}: nothing to hear", expected="a sound that can be read")
        ids = ([int(i) for i in np.asarray(out["ids"]).reshape(-1) if i >= 0] for out in outputs)
        return {"text": " ".join(" ".join(self._codec.decode(part) for part in ids).split())}

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """``wer``, ``cer``, ``exact`` and ``word_accuracy``; examples without a text are left out."""
        pairs = [
            (str(e.get("text") or ""), str(p["text"])) for p, e in zip(predictions, examples, strict=True)
        ]
        kept = [(said, heard) for said, heard in pairs if said.strip()]
        if not kept:
            raise DataError("no example has a text: there is nothing to score", expected="a role 'text'")
        found = errors([said for said, _ in kept], [heard for _, heard in kept])
        return {**found, "word_accuracy": 1 - found["wer"]}

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same of the most frequent text of the training split, whatever is heard."""
        return self.score([{"text": self.facts.get("constant", "")}] * len(examples), examples)


class _Kept:
    """Keys and values of one row, in the order they came (`nn.cache.KVCache`)."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, k_BHTd: Tensor, v_BHTd: Tensor, pos_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Appends; a slot's index is its position because rows are read from 0 without gaps."""
        del pos_BT
        if layer in self._held:
            before = self._held[layer]
            k_BHTd, v_BHTd = torch.cat((before[0], k_BHTd), 2), torch.cat((before[1], v_BHTd), 2)
        self._held[layer] = (k_BHTd, v_BHTd)
        return k_BHTd, v_BHTd


def _behind(item: Item, ids: Sequence[int]) -> Item:
    """The item with a text behind its sound, and what is to be learnt of it."""
    U = len(ids)
    tokens, kind, wave = (np.asarray(item[name]) for name in ("tokens", "kind", "wave"))
    targets = np.full(len(tokens) + U, IGNORE, np.int32)
    if U > 1:
        targets[len(tokens) : -1] = ids[1:]
    return {
        "tokens": np.concatenate((tokens, np.asarray(ids, tokens.dtype))),
        "kind": np.concatenate((kind, np.zeros(U, kind.dtype))),
        "wave": np.concatenate((wave, np.zeros((U, wave.shape[1]), wave.dtype))),
        "samples": item["samples"],
        "targets": targets,
    }


def _own(batch: Batch) -> Tensor:
    """Targets, none at padding."""
    targets_BT = batch["targets"]
    return targets_BT if "doc" not in batch else targets_BT.where(batch["doc"] >= 0, IGNORE)
