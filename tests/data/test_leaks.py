"""Leaks between the splits: exact and near copies are counted as they were planted, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.data import Splits, leaks
from exnihilo.data.shingles import WINDOW, shingles
from exnihilo.errors import DataError

Prep = Callable[..., Splits]


def novel(seed: int, words: int = 2000) -> str:
    rng = np.random.default_rng(seed)
    letters = rng.integers(97, 123, (words, 8), dtype=np.uint8)
    letters[np.arange(8) >= rng.integers(2, 9, (words, 1))] = 32
    return " ".join(letters.tobytes().decode().split())


def write(path: Path, docs: list[str]) -> Path:
    path.write_text("\n<|endoftext|>\n".join(docs))
    return path


def test_planted_copies_are_counted(prep: Prep, tmp_path: Path, said: list[str]) -> None:
    train = [novel(i) for i in range(30)]
    exact = [train[3], "\n" + train[4] + "  "]
    near = [
        train[5].upper().replace(" ", "\n") + " and an end",
        train[6][: len(train[6]) * 3 // 4] + novel(99, 400),
    ]
    own = [novel(100 + i) for i in range(6)] + [train[7][:600] + novel(200)]
    splits = prep(write(tmp_path / "t.txt", train), val=write(tmp_path / "v.txt", own + exact + near))
    leak = splits.report.leak
    assert leak is not None
    assert (leak.documents, leak.exact, leak.near) == (11, 2, 2)
    assert leak.share == pytest.approx(4 / 11) and 0.25 < leak.overlap < 0.45
    assert any(line.startswith("warning: leak: 2 of 11") for line in said)
    assert leak.examples[0][:3] == ("v", "v.txt", 7) and len(leak.examples) == 4
    assert any("leak" in n for n in splits.report.notes)


def test_no_leak_is_no_warning(prep: Prep, tmp_path: Path, said: list[str]) -> None:
    splits = prep(write(tmp_path / "t.txt", [novel(i, 300) for i in range(40)]))
    assert splits.report.leak is not None and splits.report.leak.share == 0 == splits.report.leak.overlap
    assert not any("leak" in line for line in said)


def test_near_copies_inside_one_corpus_are_found(prep: Prep, tmp_path: Path) -> None:
    docs = [novel(i, 600) for i in range(40)]
    docs += [d + f" copy {i}" for i, d in enumerate(docs)]
    splits = prep(write(tmp_path / "t.txt", docs), val_fraction=0.3)
    assert splits.report.leak is not None and splits.report.leak.exact == 0 < splits.report.leak.near


def test_a_validation_split_that_lies_in_the_training_split_is_refused(prep: Prep, tmp_path: Path) -> None:
    docs = [novel(i, 300) for i in range(30)]
    path = write(tmp_path / "t.txt", docs)
    for val in (path, write(tmp_path / "v.txt", docs[4:7])):
        with pytest.raises(DataError, match="validation documents are also training documents") as caught:
            prep(path, val=val)
        assert caught.value.next


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=30), st.lists(st.lists(st.integers(0, 9), max_size=20), max_size=4)
)
def test_found_in_is_membership(wanted: list[int], blocks: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaks, "BLOCK", 3)
        got = leaks.found_in(np.array(wanted, np.uint64), [np.array(b, np.uint64) for b in blocks])
    whole = {x for b in blocks for x in b}
    assert got.tolist() == [w in whole for w in wanted]


def test_windows_are_sampled_by_content_at_their_rate() -> None:
    texts = [novel(i).encode() for i in range(40)]
    values, owner = shingles(texts)
    folded = sum(len(t.replace(b" ", b"")) for t in texts)
    assert abs(len(values) - folded / 128) < 5 * (folded / 128) ** 0.5
    for i in (0, 17, 39):  # a text alone gives what it gives among others: no window crosses two texts
        alone, zero = shingles([texts[i]])
        assert alone.tolist() == values[owner == i].tolist() and not zero.any()
    shifted, _ = shingles([b"xyz, " + texts[0].upper() + b"!"])
    assert set(values[owner == 0].tolist()) <= set(shifted.tolist())
    assert shingles([b"x" * (WINDOW - 1)])[0].size == 0 == shingles([])[0].size
