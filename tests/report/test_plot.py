"""Pictures and terminal plots: valid files, points where they belong, plain ASCII where that is all there
is."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.report import plot, terminal
from exnihilo.report.plot import Curves


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


FALLING = Curves(
    list(range(50)), [5 * math.exp(-i / 10) + 1 for i in range(50)], [0, 25, 49], [6.0, 1.5, 1.1]
)


def test_png_is_written_and_returned(tmp_path: Path) -> None:
    data = plot.png(FALLING, tmp_path / "sub" / "loss.png", floor=0.9, chance=6.2)
    assert (tmp_path / "sub" / "loss.png").read_bytes() == data
    assert size_of(data) == (1350, 750)
    assert len(data) > 10_000  # not an empty canvas


def test_png_of_nothing_and_of_one_point() -> None:
    pictures = [
        plot.png(Curves()),
        plot.png(Curves([1], [2.0])),
        plot.overlay({"a": FALLING, "b": Curves([1], [2.0])}),
        plot.sweep([1e-4, 1e-3, 1e-2], [3.0, 2.0, 4.0], 1e-3),
    ]
    assert [size_of(picture) for picture in pictures] == [(1350, 750)] * 4


def test_curves_prefer_tokens_and_leave_out_what_is_not_finite() -> None:
    nan = float("nan")
    train = {"step": [1.0, 2.0, 3.0], "tokens": [10.0, 20.0, 30.0], "loss": [3.0, nan, 1.0]}
    found = plot.curves(train, {"step": [1.0], "tokens": [10.0], "val_loss": [2.0]})
    assert (list(found.train_x), list(found.train)) == ([0.0, 20.0], [3.0, 1.0])
    assert (list(found.val_x), list(found.val), found.unit) == ([10.0], [2.0], "tokens")
    assert plot.curves({"step": [1.0], "loss": [2.0]}, {}).unit == "step" + "s"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(1, 9))
def test_smoothing_keeps_length_and_range_and_a_constant(values: list[float], window: int) -> None:
    found = plot.smooth(values, window)
    assert len(found) == len(values)
    tolerance = 1e-6 * (1 + max(map(abs, values)))
    assert min(values) - tolerance <= min(found) and max(found) <= max(values) + tolerance
    assert plot.smooth([2.0] * 5, window) == [2.0] * 5


def test_labels_at_the_edge_do_not_cover_each_other() -> None:
    placed = plot._spread([(1.0, "a", ""), (1.01, "b", ""), (0.99, "c", ""), (5.0, "d", "")], 0.0, 5.0, 0.3)
    heights = [y for y, _, _ in placed]
    assert [text for _, text, _ in placed] == ["c", "a", "b", "d"]
    assert all(b - a >= 0.3 - 1e-9 for a, b in zip(heights, heights[1:], strict=False))
    top = [y for y, _, _ in plot._spread([(4.9, "a", ""), (4.95, "b", ""), (5.0, "c", "")], 0.0, 5.0, 0.3)]
    assert max(top) <= 5.0 and top == pytest.approx([4.4, 4.7, 5.0])


@pytest.mark.parametrize("unicode", [True, False])
def test_terminal_plot_puts_points_where_they_belong(unicode: bool) -> None:
    line = terminal.Line([0, 1], [0, 1], "", "*")
    rows = terminal.draw([line], width=40, height=8, unicode=unicode).plain.split("\n")
    body = [row.split("│" if unicode else "|", 1)[1] for row in rows[:8]]
    assert len({len(row) for row in body}) == 1
    assert body[0].rstrip()[-1:].strip() and not body[0][: len(body[0]) // 2].strip()  # high at the right
    assert body[-1][0].strip() and not body[-1][len(body[0]) // 2 :].strip()  # low at the left
    assert rows[0].startswith("   1.00") and rows[7].startswith("   0.00")


def test_ascii_is_ascii() -> None:
    text = terminal.loss(FALLING, floor=0.9, chance=6.2, unicode=False).plain
    text.encode("ascii")
    assert "floor 0.90" in text and "ln V 6.20" in text
    assert "*" in text and "o" in text and "=" in text
    terminal.sweep([1e-3, 1e-2], [2.0, 1.0], 1e-2, unicode=False).plain.encode("ascii")


def test_braille_only_where_the_stream_has_it() -> None:
    assert terminal.can_draw(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert not terminal.can_draw(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert not terminal.can_draw(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(), st.floats()), max_size=12),
    st.integers(1, 90),
    st.integers(1, 20),
    st.booleans(),
)
def test_no_points_break_the_frame(
    points: list[tuple[float, float]], width: int, height: int, unicode: bool
) -> None:
    x, y = [a for a, _ in points], [b for _, b in points]
    text = terminal.draw([terminal.Line(x, y, "", "*")], width=width, height=height, unicode=unicode).plain
    assert text
