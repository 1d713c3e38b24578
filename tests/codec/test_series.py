"""Series from tables and arrays: every layout, every oddity, the clock, the windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.codec.series import bins, windows
from exnihilo.codec.series.clock import Clock, regular, step_of, times_of
from exnihilo.codec.series.read import Reading, load
from exnihilo.codec.series.table import Unreadable
from exnihilo.errors import ConfigError

HOUR = 3600 * 10**9


def hours(count: int, start: str = "2024-03-01") -> list[str]:
    return [
        str(t).replace("T", " ")
        for t in np.datetime64(start, "s") + np.arange(count) * np.timedelta64(1, "h")
    ]


def table(path: Path, columns: dict[str, list], sep: str = ",") -> str:
    rows = [sep.join(columns), *(sep.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def test_a_table_of_channels_with_its_clock(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"date": hours(5), "x": [1, 2, 3, 4, 5], "y": [0.5] * 5})
    [one] = load(path)
    assert one.channels == ("x", "y") and one.values[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert one.clock is not None and (one.clock.freq, one.clock.period) == ("h", 24)
    assert one.clock.times(5, 1)[0] == np.datetime64("2024-03-01T05")


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_delimiters_quotes_and_a_decimal_comma(tmp_path: Path, sep: str) -> None:
    cells = ['"1,5"', '"2,5"'] if sep == ";" else ["1.5", "2.5"]
    [one] = load(table(tmp_path / "a.csv", {"ds": hours(2), "v": cells}, sep))
    assert one.values[:, 0].tolist() == [1.5, 2.5]


def test_what_is_missing_infinite_or_a_text_is_counted_and_never_filled(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"date": hours(6), "x": [1, "NA", "", "inf", "oops", 6]})
    [one] = load(path)
    assert np.isnan(one.values[1:5, 0]).all() and one.missing == 4
    told = " ".join(one.notes)
    assert "1 cells are no numbers" in told and "row 5" in told and "1 infinite" in told


def test_rows_that_are_not_there_are_missing_places_of_the_grid(tmp_path: Path) -> None:
    times = hours(6)
    path = table(tmp_path / "a.csv", {"date": [times[i] for i in (0, 1, 3, 4, 5)], "x": [0, 1, 3, 4, 5]})
    [one] = load(path)
    assert len(one) == 6 and np.isnan(one.values[2, 0]) and "1 rows of the grid" in " ".join(one.notes)


def test_irregular_times_are_refused_by_row_or_resampled_by_request(tmp_path: Path) -> None:
    times = [
        "2024-01-01 00:00",
        "2024-01-01 01:00",
        "2024-01-01 02:07",
        "2024-01-01 03:00",
        "2024-01-01 03:20",
    ]
    path = table(tmp_path / "odd.csv", {"date": times, "x": [0, 1, 2, 3, 5]})
    with pytest.raises(Unreadable, match=r"odd\.csv: 2 of 5 rows stand on no grid of h \(rows 4, 6") as error:
        load(path)
    assert error.value.reason == "with irregular times"
    [one] = load(path, Reading(irregular="resample"))
    assert one.values[:, 0].tolist() == [0, 1, 2, 4] and "resampled" in " ".join(one.notes)


def test_two_rows_of_one_time_are_refused_and_ids_tell_them_apart(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"shop": ["u", "u", "v", "v"], "date": hours(2) * 2, "x": [1, 2, 3, 4]})
    with pytest.raises(Unreadable, match="options.id"):
        load(path)
    one, two = load(path, Reading(id="shop"))
    assert (one.name, two.name) == ("u", "v") and two.values[:, 0].tolist() == [3, 4]


def test_covariates_known_ahead_static_columns_and_the_past(tmp_path: Path) -> None:
    columns = {
        "date": hours(5), "x": [1, 2, 3, "", ""], "price": [9, 9, 8, 8, 7],
        "wind": [1, 0, 1, "", ""], "town": ["A"] * 5, "size": [3] * 5,
    }  # fmt: skip
    reading = Reading(targets=("x",), known=("price",), past=("wind",), static=("town", "size"))
    [one] = load(table(tmp_path / "a.csv", columns), reading)
    assert (
        len(one) == 3 and one.known[:, 0].tolist() == [9, 9, 8, 8, 7] and one.past[:, 0].tolist() == [1, 0, 1]
    )
    assert one.static == {"town": "A", "size": 3.0}


def test_parquet_with_times_and_integers(tmp_path: Path) -> None:
    data = {"ts": pyarrow.array(np.array(hours(3), "datetime64[us]")), "x": pyarrow.array([1, None, 3])}
    pyarrow.parquet.write_table(pyarrow.table(data), tmp_path / "a.parquet")
    [one] = load(str(tmp_path / "a.parquet"), Reading(time="ts"))
    assert one.clock is not None and one.clock.freq == "h" and one.missing == 1


def test_arrays_and_json_hold_a_series_a_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    assert [s.values[:, 0].tolist() for s in load(str(tmp_path / "a.npy"))] == [[0, 1, 2], [3, 4, 5]]
    [row] = load(f"{tmp_path / 'a.npy'}#1")
    assert row.values[:, 0].tolist() == [3, 4, 5]
    [one] = load(
        json.dumps({"target": [[1, 2], [3, None]], "start": "2024-01-31", "freq": "M", "item_id": "q"})
    )
    assert one.name == "q" and one.values.shape == (2, 2) and one.missing == 1
    assert one.clock is not None and str(one.clock.times(1, 1)[0])[:10] == "2024-02-29"


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("empty.csv", b"", "empty"),
        ("head.csv", b"date,x\n", "no rows"),
        ("words.csv", b"a,b\nx,y\nz,w\n", "no column of numbers"),
        ("nothing.csv", b"date,x\n2024-01-01,\n2024-01-02,nan\n", "not one number"),
        ("broken.parquet", b"PAR1", "Parquet"),
        ("broken.npy", b"\x93NUMPY", "cannot be read"),
        ("twice.csv", b"x,x\n1,2\n", "two columns"),
    ],
)
def test_what_cannot_be_read_says_so_with_its_name(tmp_path: Path, name: str, body: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(Unreadable, match=said) as error:
        load(str(tmp_path / name))
    assert name in str(error.value) and error.value.reason


def test_a_pickle_in_an_array_is_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(Unreadable):
        load(str(tmp_path / "a.npy"))


def test_a_row_with_another_number_of_cells_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,x\n0,1\n1,2,3\n2,3\n")
    [one] = load(str(tmp_path / "a.csv"), Reading(time="t"))
    assert one.values[:, 0].tolist()[0] == 1 and "1 rows with another number of cells" in " ".join(one.notes)


@pytest.mark.parametrize(
    ("cells", "freq"),
    [
        (["2024-01-31", "2024-02-29", "2024-03-31"], "M"),
        (["2023-11-01", "2023-12-01", "2024-01-01"], "M"),
        (["2024-01-01", "2024-01-08", "2024-01-15"], "W"),
        (["31.12.2023 23:45", "01.01.2024 00:00", "01.01.2024 00:15"], "15min"),
        (["1949", "1950", "1951"], "count"),
        (["1700000000", "1700000060", "1700000120"], "min"),
        ([str(d) for d in np.busday_offset(np.datetime64("2024-01-01"), np.arange(12))], "B"),
    ],
)
def test_clocks_of_many_kinds_and_they_go_on(cells: list[str], freq: str) -> None:
    found = times_of(np.array(cells, object))
    assert found is not None
    clock, at, _ = regular(*found, where="a")
    assert clock.freq == freq and at.tolist() == list(range(len(cells)))
    again = clock.times(0, len(cells))
    want = found[0] if clock.unit == "count" else found[0].astype("datetime64[ns]")
    assert (again == want).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["15min", "h", "D", "W"]), st.integers(2, 40), st.data())
def test_a_clock_is_found_again_whatever_rows_are_lost(
    start: int, word: str, count: int, data: st.DataObject
) -> None:
    size, unit = step_of(word)
    clock = Clock(start * 10**9, size, unit)
    lost = data.draw(st.sets(st.integers(1, max(1, count - 2)), max_size=max(0, (count - 4) // 4)))
    kept = np.array([i for i in range(count) if i not in lost])
    when = clock.times(0, count)[kept].astype(np.int64)
    found, at, _ = regular(when, "time", where="a", step=word)
    assert (found.times(0, count) == clock.times(0, count)).all() and at.tolist() == kept.tolist()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_series_or_says_why_not(text: str) -> None:
    try:
        for one in load(text):
            assert len(one)
    except Unreadable as error:
        assert error.reason


def test_windows_never_forecast_another_part() -> None:
    cuts = windows.parts(17420, (8640, 2880, 2880), 96)
    for part, count in (("train", 8209), ("val", 2785), ("test", 2785)):
        low, high = cuts[part]
        starts = windows.origins(low, high, history=336, horizon=96)
        assert len(starts) == count and starts.min() >= low and starts.max() + 96 == high
    assert windows.parts(50, (0.7, 0.1, 0.2), 10)["test"] == (40, 50)
    assert windows.parts(15, (0.7, 0.1, 0.2), 10)["train"] == (0, 15)
    with pytest.raises(ConfigError, match="17,420"):
        windows.parts(17420, (17000, 500, 500), 96)


def test_normalising_looks_at_what_is_seen_alone_and_a_constant_is_no_division_by_zero() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5, 3, (2, 12, 1))
    seen = np.zeros((2, 12, 1), bool)
    seen[:, :8] = True
    z, level = windows.normalise(values, seen, "mean")
    assert np.allclose(z[:, :8].mean(1), 0, atol=1e-6) and np.allclose(z[:, :8].std(1), 1, atol=1e-6)
    assert np.allclose(level[:, None, :, 0] + level[:, None, :, 1] * z, values, atol=1e-5)
    changed = values.copy()
    changed[:, 8:] += 100
    assert (windows.normalise(changed, seen, "mean")[1] == level).all()
    flat, level = windows.normalise(np.full((1, 6, 1), 7.0), np.ones((1, 6, 1), bool), "last")
    assert (flat == 0).all() and level[0, 0].tolist() == pytest.approx([7.0, windows.FLOOR])


def test_folded_rows_come_back() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 11, 2)).astype(np.float32)
    assert (windows.unfold(windows.fold(rows, 4), 11, 2) == rows).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-14.9, 14.9), min_size=1, max_size=30), st.floats(0.01, 100), st.integers(8, 4096))
def test_bins_are_right_to_half_a_bin(values: list[float], scale: float, count: int) -> None:
    x = np.array(values) * scale
    ids = bins.encode(x, scale, count)
    assert ids.min() >= 1 and ids.max() < count
    half = bins.LIMIT * scale / (count - 2)
    assert np.abs(bins.decode(ids, scale, count) - x).max() <= half * (1 + 1e-9)


def test_bins_are_those_of_the_reference() -> None:
    """MeanScaleUniformBins of Chronos, written out: centres from -15 to 15, edges between them."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 4, 50)
    x[7] = np.nan
    scale = np.nanmean(np.abs(x))
    centres = np.linspace(-15, 15, 1023)
    edges = np.concatenate(([-1e20], (centres[1:] + centres[:-1]) / 2, [1e20]))
    want = np.where(np.isnan(x), 0, np.searchsorted(edges, np.nan_to_num(x) / scale, side="right"))
    assert (bins.encode(x, bins.scale_of(x), 1024) == want).all()
