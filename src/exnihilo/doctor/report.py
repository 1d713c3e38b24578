"""What the doctor found: figures, samples as the model will see them, and a verdict.

::

    diagnosis = diagnose(config)
    diagnosis.show(Console())           # coloured; marks say the same without colour
    diagnosis.figures()                 # for JSON
    diagnosis.broken                    # training would fail, or learn nothing

A `Finding` is ``broken`` (training cannot succeed), a ``warning`` (it would go on, and not do what is meant)
or a ``note``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

from exnihilo.log import safe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Level = Literal["broken", "warning", "note"]
_STYLES = {"broken": "bold red", "warning": "yellow", "note": "dim"}

STYLES = {
    "plain": "",
    "special": "dim",
    "masked": "bold yellow",
    "random": "bold magenta",
    "kept": "bold green",
    "a": "cyan",
    "b": "magenta",
    "answer": "bold green",
    "tag": "bold green",
    "wrong": "bold red",
    "label": "bold",
    "inside": "dim cyan",
    "unknown": "red",
}
"""Kind of a piece of a sample -> how it is coloured."""


@dataclass(frozen=True)
class Finding:
    """Something to know before training, with what to do about it."""

    level: Level
    text: str
    next: str = ""


@dataclass
class Sample:
    """An example as the model will see it: lines of (text, kind); the text says all without the colour."""

    title: str
    lines: list[list[tuple[str, str]]] = field(default_factory=list)

    def add(self, *pieces: tuple[str, str] | str) -> None:
        """A line of pieces; bare text is plain."""
        self.lines.append([(piece, "plain") if isinstance(piece, str) else piece for piece in pieces])

    def text(self) -> str:
        return "\n".join([self.title, *("  " + "".join(t for t, _ in line) for line in self.lines)])


@dataclass
class Table:
    """A small table of figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass
class Diagnosis:
    """All of it.

    Attributes:
        recipe, objective: what is to be trained.
        facts: name -> figure, in the order in which they are shown.
        tables: label counts, lengths ...
        samples: some examples.
        legend: what the marks of the samples mean.
        findings: the verdict.
    """

    recipe: str
    objective: str
    facts: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    legend: str = ""
    findings: list[Finding] = field(default_factory=list)

    def found(self, level: Level, text: str, next: str = "") -> None:
        """Add to the verdict; the same twice is once."""
        finding = Finding(level, text, next)
        if finding not in self.findings:
            self.findings.append(finding)

    @property
    def broken(self) -> bool:
        """Whether training would fail, or could not learn what is meant."""
        return any(finding.level == "broken" for finding in self.findings)

    def figures(self) -> dict[str, Any]:
        """As plain values, for JSON; samples are text."""
        return {
            "recipe": self.recipe,
            "objective": self.objective,
            "broken": self.broken,
            "findings": [{"level": f.level, "text": f.text, "next": f.next} for f in self._ordered()],
            "facts": self.facts,
            "tables": {
                t.title: [dict(zip(t.columns, row, strict=True)) for row in t.rows] for t in self.tables
            },
            "samples": [sample.text() for sample in self.samples],
        }

    def _ordered(self) -> list[Finding]:
        rank = {"broken": 0, "warning": 1, "note": 2}
        return sorted(self.findings, key=lambda finding: rank[finding.level])

    def show(self, console: Console) -> None:
        """Print it."""
        from rich.text import Text

        console.print(Text(f"doctor: {self.recipe} ({self.objective})", style="bold"))
        width = max((len(name) for name in self.facts), default=0) + 2
        for name, value in self.facts.items():
            console.print(Text(f"  {name:<{width}}{said(value)}"))
        for table in self.tables:
            self._table(console, table)
        for sample in self.samples:
            console.print(Text("\n" + safe(sample.title), style="bold"))
            for line in sample.lines:
                console.print(self._line(line))
        if self.samples and self.legend:
            console.print(Text(self.legend, style="dim"))
        console.print()
        for line in self._verdict():
            console.print(line)

    @staticmethod
    def _line(line: list[tuple[str, str]]) -> Text:
        from rich.text import Text

        text = Text("  ")
        for piece, kind in line:
            text.append(safe(piece), style=STYLES[kind])
        return text

    @staticmethod
    def _table(console: Console, table: Table) -> None:
        from rich.text import Text

        cells = [[safe(said(cell)) for cell in row] for row in (table.columns, *table.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
        console.print(Text("\n" + table.title, style="bold"))
        for number, row in enumerate(cells):
            left = row[0].ljust(widths[0])
            rest = "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
            console.print(Text(f"  {left}{rest}", style="dim" if number == 0 else ""))

    def _verdict(self) -> Iterator[Text]:
        from rich.text import Text

        if not any(finding.level != "note" for finding in self.findings):
            yield Text("verdict: nothing stands in the way", style="bold green")
        else:
            count = sum(finding.level != "note" for finding in self.findings)
            yield Text(f"verdict: {count} thing{'s' * (count != 1)} to look at", style="bold")
        for finding in self._ordered():
            mark = {"broken": "BROKEN ", "warning": "warning", "note": "note   "}[finding.level]
            text = Text(f"  {mark}  ", style=_STYLES[finding.level])
            text.append(safe(finding.text), style="")
            yield text
            if finding.next:
                yield Text(f"           next: {safe(finding.next)}", style="dim")

    def text(self) -> str:
        """What `show` prints, without colour."""
        from rich.console import Console

        stream = StringIO()
        self.show(Console(file=stream, width=110, color_system=None, highlight=False))
        return stream.getvalue()


def said(value: Any) -> str:
    """A figure in words: shares as percentages are made by their owners; numbers get separators.

    >>> said(12345), said(0.5), said(["a", "b"])
    ('12,345', '0.5', 'a, b')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(said(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {said(v)}" for k, v in value.items())
    return str(value)


def share(part: float, whole: float) -> str:
    """A share in words.

    >>> share(1, 8), share(0, 0), share(1, 100_000)
    ('12.5%', '0%', '0.001%')
    """
    if not whole or not part:
        return "0%"
    percent = 100 * part / whole
    return f"{percent:.1f}%" if percent >= 0.1 else f"{percent:.1g}%"
