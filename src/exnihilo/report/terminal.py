"""Plots in a terminal: braille dots (2 × 4 a character), or plain ASCII where the terminal cannot show them.

::

    print(loss(curves, floor=1.9, chance=6.9, width=80, height=16, unicode=True).plain)

Returns rich `Text`: coloured where the console can, plain elsewhere.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.text import Text

from exnihilo.report.plot import Curves, short, smooth

# Dots of a braille character by (column, row); U+2800 is the empty one.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


@dataclass(frozen=True)
class Line:
    """One series: points in data units."""

    x: Sequence[float]
    y: Sequence[float]
    style: str
    mark: str  # the ASCII character
    joined: bool = True  # False: single marks, no line between them


def can_draw(stream: object = None) -> bool:
    """Whether a stream's encoding has braille characters."""
    encoding = getattr(stream or sys.stderr, "encoding", None) or "ascii"
    try:
        "⣿─│└●━".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class _Grid:
    """Character cells, each of one style; dots inside them."""

    def __init__(self, width: int, height: int, unicode: bool) -> None:
        self.width, self.height, self.unicode = width, height, unicode
        self.columns, self.rows = (width * 2, height * 4) if unicode else (width, height)
        self.bits = [[0] * width for _ in range(height)]
        self.marks = [[" "] * width for _ in range(height)]
        self.styles = [[""] * width for _ in range(height)]

    def dot(self, column: int, row: int, style: str, mark: str) -> None:
        if not (0 <= column < self.columns and 0 <= row < self.rows):
            return
        if self.unicode:
            self.bits[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
            self.styles[row // 4][column // 2] = style
        else:
            self.marks[row][column] = mark
            self.styles[row][column] = style

    def mark(self, column: int, row: int, style: str, mark: str) -> None:
        """A whole character at a dot's place."""
        if self.unicode:
            column, row, mark = column // 2, row // 4, "●"
            self.bits[row][column] = 0
        self.marks[row][column] = mark
        self.styles[row][column] = style

    def cell(self, row: int, column: int) -> str:
        return (
            chr(0x2800 + self.bits[row][column])
            if self.unicode and self.bits[row][column]
            else self.marks[row][column]
        )


def draw(
    lines: Sequence[Line],
    *,
    width: int = 78,
    height: int = 14,
    unicode: bool = True,
    xlabel: str = "",
    log_x: bool = False,
) -> Text:
    """Lines in one frame, later ones over earlier ones. Points that are not finite are left out."""
    scale = math.log10 if log_x else float
    points = [
        [(scale(x), y) for x, y in zip(line.x, line.y, strict=False) if abs(x) < 1e300 and abs(y) < 1e300]
        for line in lines
    ]
    every = [point for line in points for point in line]
    if not every:
        return Text("(no points yet)")
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)
    right = right if right > left else left + max(1.0, abs(left))
    high = high if high > low else low + max(1.0, abs(low))
    gutter = 8
    grid = _Grid(max(20, width - gutter - 1), max(4, height), unicode)

    def place(x: float, y: float) -> tuple[int, int]:
        return (
            round((x - left) / (right - left) * (grid.columns - 1)),
            round((high - y) / (high - low) * (grid.rows - 1)),
        )

    for line, dots in zip(lines, points, strict=True):
        for index, point in enumerate(dots):
            end = place(*point)
            if not line.joined:
                grid.mark(*end, line.style, line.mark)
                continue
            start = place(*dots[index - 1]) if index else end
            count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
            for step in range(count + 1):
                grid.dot(
                    round(start[0] + (end[0] - start[0]) * step / count),
                    round(start[1] + (end[1] - start[1]) * step / count),
                    line.style,
                    line.mark,
                )
    bar, corner, rule = ("│", "└", "─") if unicode else ("|", "+", "-")
    text = Text()
    labelled = {0, grid.height - 1, grid.height // 2}
    for row in range(grid.height):
        value = high - (high - low) * row / (grid.height - 1)
        text.append(f"{value:{gutter - 1}.2f} " if row in labelled else " " * gutter, style="dim")
        text.append(bar, style="dim")
        for style, cells in groupby(range(grid.width), key=lambda column, row=row: grid.styles[row][column]):
            text.append("".join(grid.cell(row, column) for column in cells), style=style)
        text.append("\n")
    text.append(" " * gutter + corner + rule * grid.width + "\n", style="dim")
    first, last = (short(10**left), short(10**right)) if log_x else (short(left), short(right))
    middle = xlabel.center(grid.width - len(first) - len(last))
    text.append(" " * (gutter + 1) + first + middle + last, style="dim")
    return text


def loss(
    data: Curves,
    *,
    floor: float | None = None,
    chance: float | None = None,
    width: int = 78,
    height: int = 14,
    unicode: bool = True,
) -> Text:
    """A loss curve with its legend; the same marks as `plot.png`."""
    across = [*data.train_x, *data.val_x]
    ends = (min(across, default=0.0), max(across, default=1.0))
    lines: list[Line] = []
    legend: list[tuple[str, str]] = []

    def add(
        x: Sequence[float], y: Sequence[float], style: str, marks: str, name: str, joined: bool = True
    ) -> None:
        lines.append(Line(x, y, style, marks[1], joined))
        legend.append((f"{marks[0] if unicode else marks[1]} {name}", style))

    if chance is not None:
        add(ends, [chance] * 2, "bright_black", "━.", f"ln V {chance:.2f}")
    if floor is not None:
        add(ends, [floor] * 2, "green", "━=", f"floor {floor:.2f}")
    if data.train:
        steady = smooth(data.train, max(1, len(data.train) // 40) | 1)
        add(data.train_x, steady, "bright_blue", "━*", f"training {steady[-1]:.2f}")
    if data.val:
        add(data.val_x, data.val, "bright_red", "●o", f"validation {data.val[-1]:.2f}", joined=False)
    text = draw(lines, width=width, height=height, unicode=unicode, xlabel=f"{data.unit} seen")
    text.append("\n" + " " * 9)
    for index, (name, style) in enumerate(legend):
        text.append(("   " if index else "") + name, style=style)
    return text


def sweep(
    rates: Sequence[float], losses: Sequence[float], suggestion: float, unicode: bool | None = None
) -> Text:
    """A learning-rate sweep; the suggestion is a vertical line."""
    if not losses:
        return Text("(no points)")
    line = Line(rates, losses, "bright_blue", "*")
    mark = Line([suggestion] * 2, [min(losses), max(losses)], "bright_red", "|")
    drawable = can_draw(sys.stdout) if unicode is None else unicode
    return draw([mark, line], unicode=drawable, xlabel="learning rate", log_x=True)
