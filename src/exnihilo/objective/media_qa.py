"""Questions about a picture, a sound, or both, answered in words by one decoder.

A row is the patches of the picture, the positions of the sound, then [bos] question [bos] answer [eos], each
where the example has it; all in one sequence, and the loss is on the answer alone. So one model sees and
hears, and a question may need both. With ``init=`` a decoder of text learns to. Answers are read greedily,
many at once, with keys and values kept.

Where a patch stands in its picture is said by numbers of its own behind its pixels: sines of its row and its
column. Positions count through the row, as they do for text.

Facts: the most frequent answer of each question, which is what a model gets that neither sees nor hears.
Metrics: accuracy (the same words, without case and end punctuation), F1 of words; accuracy for each kind of
example where there are several (``accuracy_picture``, ``_sound``, ``_both``, ``_text``).

Sources: Liu et al. 2023 (LLaVA, arXiv 2304.08485) for patches before text in one decoder; Antol et al. 2015
(VQA, arXiv 1505.00468) for the control that sees nothing.

Key: B rows, T positions, D model width, F numbers a position, P examples, U tokens of an answer
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from exnihilo.codec.picture import read as pictures
from exnihilo.codec.picture.patches import grid_of, patchify
from exnihilo.codec.sound.read import Unreadable
from exnihilo.data.base import MEDIA, Noted
from exnihilo.errors import ConfigError, DataError
from exnihilo.kernels.linear_ce import linear_cross_entropy
from exnihilo.metrics.squad import f1
from exnihilo.nn.layout import Attention
from exnihilo.objective._continue import continuations
from exnihilo.objective._hearing import INPUT, Hearing, segments
from exnihilo.objective._layout import missing
from exnihilo.objective.base import Batch, Columns, Example, Item, Look
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

PATCH = "patch"
"""The name of the column of patches that the model's front end reads."""
PLACE = 8
"""Numbers that say where a patch stands."""
_KEPT = 1000  # questions whose most frequent answer is kept


class MediaQA(Hearing):
    """Answers in words to questions about pictures and sounds."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "kind", INPUT, PATCH, "targets"})
    roles: ClassVar[tuple[str, ...]] = ("question", "answer")
    extras: ClassVar[tuple[str, ...]] = ("picture", "sound")
    writes: ClassVar[tuple[str, ...]] = ("answer",)
    asks: ClassVar[tuple[str, ...]] = ("question",)
    view: ClassVar[str] = "scenes"
    supervised: ClassVar[bool] = True
    fresh: ClassVar[Literal["learn", "pretrain"]] = "pretrain"  # words, shapes and tones, all from nothing
    stacked: ClassVar[int] = 8  # 80 ms: of what sounds a question asks what it is and when, not how it began
    main_metric: ClassVar[str] = "accuracy"
    windows: ClassVar[bool] = False
    per_item: ClassVar[frozenset[str]] = frozenset({"ids", "logp"})

    class Config(Hearing.Config):
        """Options of what is heard, and

        Attributes:
            size: pixels of a picture's side; files of another size are made so.
            patch: pixels of a patch's side.
            fit: where a picture is not square: ``stretch``, ``crop`` or ``pad``.
            max_new_tokens: of an answer.
        """

        size: int = Field(default=64, ge=4, le=2048)
        patch: int = Field(default=8, ge=1)
        fit: pictures.Fit = "pad"
        max_new_tokens: int = Field(default=32, ge=1)

        @model_validator(mode="after")
        def _check_pictures(self) -> MediaQA.Config:
            if self.size % self.patch:
                raise ValueError(f"size={self.size} is no multiple of patch={self.patch}")
            if self.augment.mixup:
                raise ValueError("augment.mixup adds two sounds, and a question is about one")
            return self

    config: MediaQA.Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        self.grid = grid_of(self.config.size, self.config.size, self.config.patch)
        self._places_TF = places(self.grid)
        if length is not None and self.grid[0] * self.grid[1] + 8 > length:
            raise ConfigError(
                f"model.context={length} positions, a picture alone takes {self.grid[0] * self.grid[1]}",
                expected="room for a picture, a question and an answer",
                next="a larger model.context, or a larger options.patch",
            )

    @property
    def marked(self) -> int:
        return 0

    def marks(self, codec: Codec) -> list[int]:
        return []

    @property
    def held(self) -> int:
        """Pixels of a patch, of three colours."""
        return 3 * self.config.patch**2

    @property
    def model_settings(self) -> dict[str, Any]:
        inputs = {INPUT: self.layout.held, PATCH: (self.held + PLACE,)}
        return {**super().model_settings, "inputs": inputs}

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        answers: dict[str, Counter[str]] = {}
        whole: Counter[str] = Counter()
        for example in examples:
            answer = _said(example.get("answer"))
            if answer:
                whole[answer] += 1
                answers.setdefault(_said(example.get("question")), Counter())[answer] += 1
        if not whole:
            raise DataError("no example has an answer", expected="words, in a role 'answer'")
        often = sorted(answers, key=lambda question: (-answers[question].total(), question))[:_KEPT]
        likeliest = {question: answers[question].most_common(1)[0][0] for question in often}
        return {"constant": whole.most_common(1)[0][0], "answers": likeliest}

    # data ---------------------------------------------------------------------------------------

    def of_texts(self, texts: Sequence[str]) -> dict[str, Any] | None:
        """Files and a question, in any order, as a command line gives them."""
        found: dict[str, Any] = {}
        for text in texts:
            suffix = Path(text).suffix.lower() if not text.startswith("world:") else ""
            role = next((r for r in ("picture", "sound") if suffix in MEDIA[r]), "question")
            if role in found:
                return None
            found[role] = text
        return found

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        self._codec = codec
        questions = codec.encode_batch([_said(example.get("question")) for example in examples])
        answers = codec.encode_batch([_said(example.get("answer")) for example in examples])
        out: list[list[Item]] = []
        for example, asked, said in zip(examples, questions, answers, strict=True):
            if not asked or not said:
                out.append(Noted([], f"without {'a question' if not asked else 'an answer'}"))
                continue
            try:
                item = self._item_of(example, codec, asked, said)
            except (Unreadable, pictures.Unreadable) as error:
                if self.config.bad == "stop":
                    raise
                out.append(Noted([], error.reason))
                continue
            long = self.length is not None and len(np.asarray(item["tokens"])) > self.length
            out.append(Noted([], "longer than the model's positions") if long else [item])
        return out

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        self._codec = codec
        asked = codec.encode(_said(example.get("question")))
        item = self._item_of(example, codec, asked, None)
        size = len(np.asarray(item["tokens"]))
        if self.length is not None and size >= self.length:
            raise DataError(
                f"picture, sound and question take {size} of the model's {self.length} positions",
                expected="room for an answer",
                next="a shorter sound or question, or a model with a larger model.context",
            )
        return item

    def _item_of(self, example: Example, codec: Codec, asked: list[int], said: list[int] | None) -> Item:
        """The row of an example; without `said` it ends where the answer begins."""
        ids = [codec.bos_id, *asked, codec.bos_id]
        if said is not None:
            ids += [*said, codec.eos_id]
        seen, wave = np.zeros((0, self.held), np.uint8), np.zeros((0, self.layout.samples), np.int16)
        samples = 0
        if not missing(example.get("picture")):
            seen = patchify(self._pixels(str(example["picture"])), self.config.patch)
        if not missing(example.get("sound")):
            heard = self.hear(example, codec, cut=False)[0]
            wave, samples = np.asarray(heard["wave"]), int(heard["samples"])  # type: ignore[arg-type]
        S, N, U = len(seen), len(wave), len(ids)
        T = S + N + U
        kind = np.zeros(T, np.int8)
        kind[:S], kind[S : S + N] = 2, 1
        item: Item = {
            "tokens": np.concatenate((np.zeros(S + N, np.int32), np.asarray(ids, np.int32))),
            "kind": kind,
            "wave": np.concatenate(
                (np.zeros((S, wave.shape[1]), np.int16), wave, np.zeros((U, wave.shape[1]), np.int16))
            ),
            "pixels": np.concatenate((seen, np.zeros((N + U, self.held), np.uint8))),
            "samples": samples,
        }
        if said is not None:
            targets = np.full(T, IGNORE, np.int32)
            targets[T - 2 - len(said) : -1] = ids[-1 - len(said) :]
            item["targets"] = targets
        return item

    def _pixels(self, path: str) -> np.ndarray:
        return pictures.pixels(path, self.config.size, fit=self.config.fit)

    # frames and patches -------------------------------------------------------------------------

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        out = {name: value for name, value in columns.items() if name not in ("wave", "samples", "pixels")}
        return out | self._media(columns, keys if look.training else None)

    def _media(self, columns: Columns, keys: Sequence[np.random.Generator] | None) -> Columns:
        """The columns of numbers that the model's front end reads, (B, T, F) float32."""
        kind_BT, doc_BT = columns["kind"], columns.get("doc")
        B, T = kind_BT.shape
        out: Columns = {}
        if segments(kind_BT, doc_BT):
            out |= self.frames_of(columns, keys)
        else:
            out[INPUT] = np.zeros((B, T, int(np.prod(self.layout.held))), np.float32)
        patch_BTF = np.zeros((B, T, self.held + PLACE), np.float32)
        seen = segments((kind_BT == 2).astype(np.int8), doc_BT)
        for b, start, end in seen:
            patch_BTF[b, start:end, : self.held] = (
                columns["pixels"][b, start:end].astype(np.float32) / 127.5 - 1
            )
            patch_BTF[b, start:end, self.held :] = self._places_TF
        return {**out, PATCH: patch_BTF}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        return {**super().inputs(batch), PATCH: batch[PATCH]} if PATCH in batch else self._made(batch)

    def _made(self, batch: Batch) -> dict[str, Tensor]:
        """`inputs` of a batch that nothing has drawn."""
        names = ("kind", "wave", "samples", "pixels", "doc")
        host = {name: batch[name].cpu().numpy() for name in names if name in batch}
        made = {k: torch.from_numpy(v).to(batch["tokens"].device) for k, v in self._media(host, None).items()}
        return {**super().inputs({**batch, **made}), PATCH: made[PATCH]}

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

    def reads(self, batch: Batch) -> Tensor | None:
        return _own(batch) != IGNORE if "targets" in batch else None

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        if "targets" not in batch:  # a prediction: `outputs` reads rows of its own
            return batch["tokens"].new_zeros((), dtype=torch.float32)
        return super().hidden(model, batch)

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Ids that follow each question, (P, U), -1 behind the end; the log-probability of each answer."""
        del hidden_BTD
        raw = self.inputs(batch)
        ids_PU, logp_P = continuations(model, raw, self._codec, most=self.config.max_new_tokens)
        return {"ids": ids_PU, "logp": logp_P}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"answer", "probability"}."""
        del example, items
        ids = [int(i) for i in np.asarray(outputs[0]["ids"]).reshape(-1) if i >= 0]
        text = " ".join(self._codec.decode(ids).split())
        return {"answer": text, "probability": float(np.exp(float(outputs[0]["logp"])))}

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """``accuracy``, ``f1`` of words; accuracy of each kind of example, where there are several."""
        right: dict[str, list[bool]] = {}
        shared: list[float] = []
        for said, example in zip(predictions, examples, strict=True):
            gold = _said(example.get("answer"))
            if not gold:
                continue
            right.setdefault(_kind(example), []).append(plain(str(said["answer"])) == plain(gold))
            shared.append(f1(str(said["answer"]), gold, "2.0"))
        if not shared:
            raise DataError("no example has an answer: there is nothing to score", expected="a role 'answer'")
        each = {f"accuracy_{kind}": sum(found) / len(found) for kind, found in sorted(right.items())}
        whole = sum(map(sum, right.values())) / len(shared)
        return {"accuracy": whole, "f1": sum(shared) / len(shared), **(each if len(each) > 1 else {})}

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same of each question's most frequent answer in the training split, whatever is seen and
        heard."""
        known, constant = self.facts.get("answers", {}), self.facts.get("constant", "")
        guesses = [{"answer": known.get(_said(e.get("question")), constant)} for e in examples]
        return self.score(guesses, examples)


def places(grid: tuple[int, int]) -> np.ndarray:
    """Where each patch stands, float32 (T, PLACE): sine and cosine of a quarter and of a whole turn over the
    rows, and over the columns.

    >>> places((2, 2)).shape
    (4, 8)
    """
    rows, columns = grid
    y_T, x_T = np.divmod(np.arange(rows * columns), columns)
    turns = [((y_T + 0.5) / rows, (x_T + 0.5) / columns)]
    out = [
        wave(np.pi * share_T * often) for share_T in turns[0] for often in (1, 2) for wave in (np.sin, np.cos)
    ]
    return np.stack(out, 1).astype(np.float32)


def plain(text: str) -> str:
    """An answer as it is compared: without case, spaces and punctuation at its end.

    >>> plain("  Three  Red kites.")
    'three red kites'
    """
    return " ".join(text.casefold().split()).rstrip(".!?, ")


def _said(value: Any) -> str:
    """Words of a text or a number; nothing of anything else."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and not missing(value):
        return " ".join(str(value).split())
    return ("no", "yes")[value] if isinstance(value, bool) else ""


def _kind(example: Example) -> str:
    seen, heard = (not missing(example.get(role)) for role in ("picture", "sound"))
    return ("both" if heard else "picture") if seen else "sound" if heard else "text"


def _own(batch: Batch) -> Tensor:
    """Targets, none at padding."""
    targets_BT = batch["targets"]
    return targets_BT if "doc" not in batch else targets_BT.where(batch["doc"] >= 0, IGNORE)
