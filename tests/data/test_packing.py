"""The packing plan: nothing lost, nothing predicted twice, little padding, the same plan every time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.data.packing import Plan, plan


def targets(p: Plan) -> np.ndarray:
    """(document, token) of every target: each piece's tokens but its first."""
    reach = p.length.astype(np.int64) - 1
    piece = np.repeat(np.arange(len(reach)), reach)
    within = np.arange(reach.sum()) - np.repeat(np.cumsum(reach) - reach, reach)
    pairs = np.stack([p.doc[piece], p.start[piece] + 1 + within], 1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def wanted(lengths: list[int]) -> np.ndarray:
    pairs = [(d, t) for d, n in enumerate(lengths) for t in range(1, n)]
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2)


def filled(p: Plan) -> np.ndarray:
    """Tokens of each row."""
    return np.asarray([p.length[a:b].sum() for a, b in zip(p.row_start[:-1], p.row_start[1:], strict=True)])


def sound(p: Plan, lengths: list[int]) -> None:
    """What holds for every plan with an overlap of one."""
    assert np.array_equal(targets(p), wanted(lengths))
    assert p.row_start[0] == 0 and p.row_start[-1] == len(p.doc)
    used = filled(p)
    assert (used <= p.row).all() and (used > 0).all()
    assert (p.length >= 2).all() and p.length.dtype == np.int32
    tokens = p.rows * p.row
    assert p.padded == pytest.approx(1 - used.sum() / tokens if tokens else 0)
    whole = sum(n for n in lengths if n > 1)
    assert p.repeated == pytest.approx((used.sum() - whole) / max(1, tokens))
    assert p.cropped == pytest.approx(sum(n for n in lengths if n == 1) / max(1, sum(lengths)))


many = st.lists(st.integers(0, 90), max_size=60)


@given(many, st.integers(2, 40), st.integers(1, 20), st.sampled_from([0.0, 0.05, 1.0]))
@settings(max_examples=400, deadline=None)
def test_each_token_but_the_first_is_predicted_exactly_once(lengths, row, window, max_padding):
    sound(plan(np.asarray(lengths, np.int64), row, window=window, max_padding=max_padding), lengths)


@given(
    many, st.integers(4, 40), st.integers(1, 20), st.sampled_from([0.0, 0.05, 1.0]), st.sampled_from([2, 3])
)
@settings(max_examples=300, deadline=None)
def test_inside_its_frame_each_token_stands_exactly_once(lengths, row, window, max_padding, frame):
    p = plan(np.asarray(lengths, np.int64), row, overlap=frame, window=window, max_padding=max_padding)
    found = [
        (d, t)
        for d, s, n in zip(p.doc.tolist(), p.start.tolist(), p.length.tolist(), strict=True)
        for t in range(s + 1, s + n - frame + 1)
    ]
    assert sorted(found) == [(d, t) for d, n in enumerate(lengths) for t in range(1, n - frame + 1)]
    assert (p.length > frame).all() and (filled(p) <= row).all()
    assert p.cropped == pytest.approx(sum(n for n in lengths if n <= frame) / max(1, sum(lengths)))
    used, kept = p.length.sum(), sum(n for n in lengths if n > frame)
    assert p.repeated == pytest.approx((used - kept) / max(1, p.rows * row))


@pytest.mark.parametrize("mean", [70, 140, 180])
def test_framed_documents_of_any_length_leave_little_padding(mean):
    lengths = np.random.default_rng(1).normal(mean, mean / 4, 3000).astype(int).clip(10, 256)
    loose = plan(lengths, 256, overlap=0, max_padding=1.0)
    tight = plan(lengths, 256, overlap=2)
    assert tight.padded < 0.05 and tight.repeated < 0.01
    assert tight.rows <= loose.rows and (tight.cut > 0) == (loose.padded > 0.05)


@given(many, st.integers(2, 40))
@settings(max_examples=150, deadline=None)
def test_without_overlap_each_token_stands_exactly_once(lengths, row):
    p = plan(np.asarray(lengths, np.int64), row, overlap=0)
    pairs = [(d, s + i) for d, s, n in zip(p.doc, p.start, p.length, strict=True) for i in range(n)]
    assert sorted(pairs) == [(d, t) for d, n in enumerate(lengths) for t in range(n)]
    assert (filled(p) <= row).all() and p.repeated == 0 and p.cropped == 0


@given(many, st.integers(2, 40))
@settings(max_examples=150, deadline=None)
def test_best_fit_is_within_its_proven_bound(lengths, row):
    """Johnson 1973: first- and best-fit decreasing need at most 11/9 of the best number of rows, and one."""
    p = plan(np.asarray(lengths, np.int64), row, max_padding=1)
    fewest = -(-int(p.length.sum()) // row)  # no packing of these pieces has fewer rows
    # the optimum is not known; but two rows that are each at most half full cannot both stay open
    assert (filled(p) * 2 <= row).sum() <= 1
    assert p.rows <= 2 * fewest
    assert p.cut == 0  # documents that fit into a row stay whole


def test_best_fit_decreasing_on_cases_with_a_known_optimum():
    rng = np.random.default_rng(0)
    for row, cuts in ((64, 1), (257, 1), (100, 2)):
        lengths = []
        for _ in range(200):  # full rows, broken at random: the optimum is 200 rows
            at = np.sort(rng.choice(np.arange(2, row - 1, 2), cuts, replace=False))
            lengths += np.diff([0, *at, row]).tolist()
        lengths = np.asarray([n for n in lengths if n > 1])
        assert plan(lengths, row, max_padding=1).rows <= 200 * 11 / 9 + 1


@pytest.mark.parametrize("row", [65, 257, 1025])
def test_padding_is_small_on_natural_lengths(row):
    rng = np.random.default_rng(row)
    p = plan(np.exp(rng.normal(np.log(200), 0.8, 20_000)).astype(int) + 2, row)
    assert p.padded < 0.01 and p.cropped == 0
    assert p.repeated <= 1 / row + 0.02


def test_documents_of_just_over_half_a_row_do_not_waste_the_other_half():
    lengths = np.random.default_rng(0).integers(140, 180, 5000)
    whole, cut = plan(lengths, 257, max_padding=1), plan(lengths, 257)
    assert whole.padded > 0.35 and whole.cut == 0
    assert cut.padded < 0.08 and 0.2 < cut.cut < 0.45  # a third of the documents fills the gaps of the others
    sound(cut, lengths.tolist())


def test_fewer_documents_are_cut_than_by_concatenation():
    """Concatenation cuts a document at nearly every row's end; best fit cuts those that are too long."""
    rng = np.random.default_rng(1)
    lengths = np.exp(rng.normal(np.log(120), 0.6, 20_000)).astype(int) + 2
    row = 513
    ends = np.cumsum(lengths)
    borders = np.arange(row, ends[-1], row)
    cut_naive = len(np.unique(np.searchsorted(ends, borders, side="left")))
    p = plan(lengths, row)
    cut_here = int((np.bincount(p.doc, minlength=len(lengths)) > 1).sum())
    assert cut_here * 10 < cut_naive


def test_order_is_deterministic_and_near_the_source():
    lengths = np.random.default_rng(2).integers(2, 60, 3000)
    a, b = plan(lengths, 65, window=256), plan(lengths.copy(), 65, window=256)
    for x, y in ((a.row_start, b.row_start), (a.doc, b.doc), (a.start, b.start), (a.length, b.length)):
        assert np.array_equal(x, y)
    spread = [np.ptp(a.doc[s:e]) for s, e in zip(a.row_start[:-1], a.row_start[1:], strict=True)]
    assert max(spread) < 256  # a row's documents are from one window
    for s, e in zip(a.row_start[:-1], a.row_start[1:], strict=True):
        assert (np.diff(a.doc[s:e]) >= 0).all()  # and in their order


@pytest.mark.parametrize(
    ("lengths", "rows"), [([], 0), ([0, 0], 0), ([1], 0), ([5], 1), ([64], 1), ([65], 2), ([3, 1, 0, 4], 1)]
)
def test_corners(lengths, rows):
    p = plan(np.asarray(lengths, np.int64), 64)
    assert p.rows == rows
    sound(p, lengths)


def test_pieces_of_a_row():
    p = plan(np.asarray([7, 3]), row=5)
    assert [p.pieces(r) for r in range(p.rows)] == [[(0, 0, 5)], [(0, 4, 3)], [(1, 0, 3)]]


@pytest.mark.parametrize(
    "bad", [{"row": 1}, {"row": 8, "overlap": -1}, {"row": 2, "overlap": 2}, {"row": 8, "window": 0}]
)
def test_wrong_arguments(bad):
    with pytest.raises(ValueError, match="row"):
        plan(np.asarray([3]), **bad)
    with pytest.raises(ValueError, match="negative"):
        plan(np.asarray([-3]), 8)


def test_time_grows_with_the_number_of_pieces_alone():
    lengths = np.exp(np.random.default_rng(0).normal(np.log(200), 0.8, 200_000)).astype(int) + 2
    began = time.process_time()
    p = plan(lengths, 257)
    seconds = time.process_time() - began
    assert len(p.doc) > 200_000
    assert seconds < 5  # 0.1 s on a quiet core: a million pieces take a second or so
