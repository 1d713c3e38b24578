"""What preparation found and did: shown before training, and kept in the run's folder as data.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from exnihilo.data.base import Drops


@dataclass(frozen=True)
class PackReport:
    """One split in figures.

    Attributes:
        documents: items packed. tokens: of them all. bytes: of their text, UTF-8.
        rows: training rows of context + 1 tokens.
        cropped: share of the tokens that stand in no row.
        padded: share of the rows' places that hold padding.
        repeated: share of the rows' places that repeat a token of another piece.
    """

    documents: int
    tokens: int
    bytes: int
    rows: int
    cropped: float
    padded: float
    repeated: float


@dataclass(frozen=True)
class SourceReport:
    """One source of one split: what was read and how."""

    name: str
    path: str
    kind: str
    files: int
    skipped: dict[str, int]
    fields: dict[str, str]
    split: str
    documents: int
    held_out: int
    tokens: int
    held_out_tokens: int
    bytes: int
    repaired: int
    weight: float
    cached: bool
    dropped: dict[str, list[Any]] = field(default_factory=dict)  # reason -> [records left out, the first]
    format: str = ""  # what the files are read as, where it is not plain text or known by the suffix


@dataclass(frozen=True)
class LeakReport:
    """What the validation split shares with the training split.

    Attributes:
        documents: of the validation split.
        exact: validation documents that are also training documents.
        near: further ones half of whose sampled 50-character windows occur in the training split.
        overlap: share of all sampled windows of the validation split that occur in the training split.
        examples: the first of those documents, as (source, file, number, beginning).
    """

    documents: int
    exact: int
    near: int
    overlap: float
    examples: tuple[tuple[str, str, int, str], ...] = ()

    @property
    def share(self) -> float:
        """Share of the validation documents that leak."""
        return (self.exact + self.near) / self.documents if self.documents else 0.0


@dataclass(frozen=True)
class DataReport:
    """All of it. `lines` is for people, `to_json` for the run's folder."""

    sources: tuple[SourceReport, ...]
    val_sources: tuple[SourceReport, ...]
    train: PackReport
    val: PackReport | None
    leak: LeakReport | None
    seconds: float
    bytes_per_second: float | None
    cache: str
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        out = []
        for s in (*self.sources, *self.val_sources):
            mapping = ", ".join(f"{role} = column {column!r}" for role, column in s.fields.items())
            skipped = ", ".join(f"{n} {reason}" for reason, n in s.skipped.items())
            out.append(
                f"data {s.name}: {s.documents + s.held_out:,} documents in {s.files} "
                f"file{'s' * (s.files != 1)}, {s.bytes / 1e6:.1f} MB"
                + (f"; {mapping}" if mapping else "")
                + (f"; skipped {skipped}" if skipped else "")
                + ("; read as source code" if s.kind == "code" else "")
                + (f"; read as {s.format}" if s.format else "")
                + Drops.of(s.dropped).summary("; ")
                + (f"; {s.repaired} with broken Unicode, repaired" if s.repaired else "")
                + (f"; weight {s.weight:.3f}" if len(self.sources) > 1 else "")
            )
            if s.split:
                out.append(f"  held out: {s.split}")
        for name, pack in (("train", self.train), ("val", self.val)):
            if pack is not None:
                out.append(
                    f"{name}: {pack.documents:,} documents, {pack.tokens:,} tokens in {pack.rows:,} rows; "
                    f"padded {pack.padded:.1%}, repeated {pack.repeated:.1%}, cropped {pack.cropped:.2%}"
                )
        return out + [f"note: {n}" for n in self.notes]
