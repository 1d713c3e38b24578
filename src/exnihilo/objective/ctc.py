"""Transcription by CTC: characters of what is said, from an encoder, without an alignment.

The head ``tags`` gives each position (20 ms, unless `stack` says else) scores of the characters and of a
blank; the loss is −ln of the sum over all ways to spread the text over the sound. Reading: the likeliest
character of each position, or beam search (`beam` above 1). A sound longer than the model's positions is left
out in training and read in windows by `predict`.

From random weights that loss alone soon says "blank" everywhere, and stays there for thousands of steps: a
constant output is worth the entropy of the characters, and nothing in its gradient says where they are heard.
So as long as the loss lies near that entropy, the model is also taught the text as if it were spread evenly
over what is loud (the flat start of hidden Markov models; Young et al. 2006). The share of that term falls
with the loss, to zero at half the entropy: no schedule, and nothing left of it in the end.

Facts: the characters of the training texts, and their entropy. Metrics: word and character error rate;
``word_accuracy`` is 1 − wer, for comparisons where higher is better.

Sources: Graves et al. 2006, *Connectionist Temporal Classification*; Young et al. 2006, *The HTK Book* (flat
start).

Key: B rows, T positions, D model width, P sounds, C characters with the blank, U characters of a text
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from exnihilo.data.base import Noted
from exnihilo.errors import DataError
from exnihilo.kernels import ctc as kernel
from exnihilo.metrics.edit import errors
from exnihilo.objective._hearing import INPUT, Hearing, segments
from exnihilo.objective._layout import missing
from exnihilo.objective.base import Batch, Columns, Example, Item, Look
from exnihilo.objective.pieces import IGNORE, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

BLANK = "<blank>"


class Ctc(Hearing):
    """Speech to characters."""

    heads: ClassVar[tuple[str, ...]] = ("tags",)
    columns: ClassVar[frozenset[str]] = frozenset(
        {"tokens", "doc", "pos", "kind", "sound", "targets", "spread"}
    )
    roles: ClassVar[tuple[str, ...]] = ("sound", "text")
    view: ClassVar[str] = "soundscapes"
    supervised: ClassVar[bool] = True
    fresh: ClassVar[Literal["learn", "pretrain"]] = "pretrain"  # at a task's rates it stays at the entropy
    main_metric: ClassVar[str] = "word_accuracy"
    windows: ClassVar[bool] = False

    class Config(Hearing.Config):
        """Options of what is heard, and

        Attributes:
            flat: weight of the flat start, where the loss lies at the characters' entropy; 0: none.
            beam: texts kept while reading; 1: the likeliest character of each position.
            case: ``lower`` reads and writes small letters alone.
        """

        flat: float = Field(default=1.0, ge=0)
        beam: int = Field(default=1, ge=1, le=256)
        case: Literal["keep", "lower"] = "keep"

        @model_validator(mode="after")
        def _check_order(self) -> Ctc.Config:
            if self.frames == "ast":
                raise ValueError("frames=ast: its patches do not stand in the order of time; frames=whisper")
            return self

    config: Ctc.Config

    @property
    def labels(self) -> int | None:
        found = self.facts.get("labels")
        return len(found) if found else None

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        seen: Counter[str] = Counter()
        texts: Counter[str] = Counter()
        notes: list[str] = []
        for example in self.audible(examples, lambda e: set(self._text(e)), notes):
            text = self._text(example)
            seen.update(text)
            if len(texts) < 10_000:
                texts[text] += 1
        if not seen:
            raise DataError("no example has a text", expected="what is said, in a role 'text'")
        shares = np.array(list(seen.values()), np.float64) / seen.total()
        found: dict[str, Any] = {"labels": [BLANK, *sorted(seen)], "constant": texts.most_common(1)[0][0]}
        found["entropy"] = float(-(shares * np.log(shares)).sum())
        return {**found, "notes": notes} if notes else found

    def _text(self, example: Example) -> str:
        text = example.get("text")
        if missing(text):
            return ""
        plain = " ".join(str(text).split())
        return plain.lower() if self.config.case == "lower" else plain

    # data ---------------------------------------------------------------------------------------

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        ids = {symbol: i for i, symbol in enumerate(self.facts.get("labels") or [BLANK])}
        out: list[list[Item]] = []
        for example, items in zip(examples, self.hear_many(examples, codec), strict=True):
            wanted = [ids[c] for c in self._text(example) if c in ids]
            for item in items:
                item["targets"] = np.full(len(np.asarray(item["tokens"])), IGNORE, np.int32)
            if not wanted or len(items) != 1:
                out.append(items if "text" not in example or len(items) > 1 else _none(items))
                continue
            targets = np.asarray(items[0]["targets"])
            if kernel.least_frames(wanted) > int((np.asarray(items[0]["kind"]) == 1).sum()):
                out.append(Noted([], "with more to say than positions"))
                continue
            targets[: len(wanted)] = wanted
            out.append(items)
        return out

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        plain = {role: value for role, value in example.items() if role != "text"}
        return self.cut(plain, codec)

    def cut(self, example: Example, codec: Codec) -> list[Item]:
        """A sound to be read, in windows where it is longer than a row.

        Raises:
            Unreadable: of no use, with the file's name.
        """
        items = self.hear(example, codec, cut=True)
        for item in items:
            item["targets"] = np.full(len(np.asarray(item["tokens"])), IGNORE, np.int32)
        return items

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        """And in training the column ``spread`` (B, T): the text as if it were spread over what is loud."""
        out = super().draw(columns, keys, look)
        spread = np.full(out["kind"].shape, IGNORE, np.int64)
        if look.training and self.config.flat:
            for b, start, end in segments(columns["kind"], columns.get("doc")):
                targets = columns["targets"][b, start - self.marked : end]
                ids = targets[targets != IGNORE]
                if len(ids):
                    spread[b, start:end] = kernel.spread(_loud(out[INPUT][b, start:end], len(ids)), ids)
        return {**out, "spread": spread}

    # training -----------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, float]:  # type: ignore[override]
        return {"flat": self.config.flat}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        found = {"ctc": (_own(batch) != IGNORE).to(torch.float64).sum()}
        if "spread" in batch:
            found["flat"] = (_spread(batch) != IGNORE).to(torch.float64).sum()
        return found

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        head: Any = model.heads["tags"]
        logits_BTC = head.logits(hidden_BTD)
        first_BT, targets_BT = firsts(batch), _own(batch)
        P = int(first_BT.sum())
        if not P or not bool((targets_BT != IGNORE).any()):
            nothing = (logits_BTC * 0.0).sum()
            return {"ctc": nothing, **({"flat": nothing} if "spread" in batch else {})}
        piece_BT = first_BT.flatten().cumsum(0).view_as(first_BT) - 1
        inside_BT = (batch["kind"] == 1) & (piece_BT >= 0)
        if "doc" in batch:
            inside_BT = inside_BT & (batch["doc"] >= 0)
        logits_PTC, frames_P = kernel.gather(logits_BTC, inside_BT, piece_BT, P)
        wide = targets_BT.unsqueeze(-1)
        held_PU, symbols_P = kernel.gather(wide, targets_BT != IGNORE, piece_BT, P)
        said_P = symbols_P > 0
        each_P = kernel.ctc_each(
            logits_PTC[said_P], frames_P[said_P], held_PU[said_P].squeeze(-1).long(), symbols_P[said_P]
        )
        if "spread" not in batch:
            return {"ctc": each_P.sum()}
        share_P = torch.zeros(P, dtype=each_P.dtype, device=each_P.device)
        share_P[said_P] = self._share(each_P.detach() / symbols_P[said_P])
        spread_N = _spread(batch)[inside_BT]
        wide_NC = logits_BTC[inside_BT].to(each_P.dtype)
        flat_N = F.cross_entropy(wide_NC, spread_N.long(), ignore_index=IGNORE, reduction="none")
        return {"ctc": each_P.sum(), "flat": (flat_N * share_P[piece_BT[inside_BT]]).sum()}

    def _share(self, loss_P: Tensor) -> Tensor:
        """What the flat start counts of sounds whose loss a character is given: 1 at the characters' entropy,
        0 at half of it."""
        entropy = self.facts.get("entropy") or math.log(max(2, self.labels or 2))
        return (2 * loss_P / entropy - 1).clamp(0, 1)

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        head: Any = model.heads["tags"]
        logits_BTC = head.logits(hidden_BTD)
        wide = torch.promote_types(logits_BTC.dtype, torch.float32)
        return {"logp": logits_BTC.to(wide).log_softmax(-1)}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"text", "words": [{"word", "start", "end"}]}, in seconds."""
        if not outputs:
            raise DataError(f"{example.get('sound')}: nothing to hear", expected="a sound that can be read")
        parts = [out["logp"][np.asarray(item["kind"]) == 1] for item, out in zip(items, outputs, strict=True)]
        logp_TC, names = np.concatenate(parts), self.facts["labels"]
        ids = kernel.greedy(logp_TC)
        if self.config.beam > 1:
            ids = kernel.beam(logp_TC, width=self.config.beam)
        return {"text": " ".join("".join(names[i] for i in ids).split()), "words": self._words(logp_TC)}

    def _words(self, logp_TC: np.ndarray) -> list[dict[str, Any]]:
        """When each word of the greedy reading is heard, in seconds."""
        step = self.layout.samples / self.layout.second
        names = self.facts["labels"]
        out: list[dict[str, Any]] = []
        word, start, end, before = "", 0, 0, 0
        for t, symbol in enumerate([*logp_TC.argmax(1).tolist(), -1]):
            new = symbol not in (before, 0)
            letter = names[symbol] if new and symbol > 0 else ""
            if (letter == " " or symbol == -1) and word:
                out.append({"word": word, "start": round(start * step, 3), "end": round(end * step, 3)})
                word = ""
            elif letter and letter != " ":
                start = t if not word else start
                word, end = word + letter, t + 1
            before = symbol
        return out

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """``wer``, ``cer``, ``exact`` and ``word_accuracy``; examples without a text are left out."""
        pairs = [(self._text(e), str(p["text"])) for p, e in zip(predictions, examples, strict=True)]
        kept = [(said, heard) for said, heard in pairs if said]
        if not kept:
            raise DataError("no example has a text: there is nothing to score", expected="a role 'text'")
        found = errors([said for said, _ in kept], [heard for _, heard in kept])
        return {**found, "word_accuracy": 1 - found["wer"]}

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same of the most frequent text of the training split, whatever is heard."""
        return self.score([{"text": self.facts.get("constant", "")}] * len(examples), examples)


def _loud(sound_TF: np.ndarray, least: int) -> np.ndarray:
    """Which positions of a sound are loud: a quarter above its quietest, in log-mel. All, where fewer are."""
    level_T = sound_TF.mean(-1)
    quiet, loudest = np.percentile(level_T, 5), level_T.max()
    loud_T = level_T > quiet + 0.25 * (loudest - quiet)
    return loud_T if loud_T.sum() >= least else np.ones(len(level_T), bool)


def _own(batch: Batch) -> Tensor:
    """Targets, none at padding."""
    targets_BT = batch["targets"]
    return targets_BT if "doc" not in batch else targets_BT.where(batch["doc"] >= 0, IGNORE)


def _spread(batch: Batch) -> Tensor:
    """The flat start's targets, none at padding and for sounds without a text."""
    first_BT, targets_BT = firsts(batch), _own(batch)
    P = int(first_BT.sum())
    if not P:
        return torch.full_like(batch["spread"], IGNORE)
    piece_BT = first_BT.flatten().cumsum(0).view_as(first_BT) - 1
    held_BT = (batch["kind"] == 1) & (piece_BT >= 0)
    if "doc" in batch:
        held_BT = held_BT & (batch["doc"] >= 0)
    said_P = torch.bincount(piece_BT[(targets_BT != IGNORE) & (piece_BT >= 0)], minlength=P) > 0
    return batch["spread"].where(held_BT & said_P[piece_BT.clamp(min=0)], IGNORE)


def _none(items: list[Item]) -> list[Item]:
    """No items, and why; what could not be read has said so itself."""
    return items if isinstance(items, Noted) and items.note else Noted([], "without a text")
