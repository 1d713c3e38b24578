"""Forecasts of files: the series of a table go on behind their last row, in its own times, with quantiles.

    ask(run, "ETTh1.csv", out="next.csv")      # series,channel,time,0.1,...,0.9

A run of `forecasting` says quantiles; one of `series_tokens` draws paths, whose quantiles are said. A .csv or
.tsv has a row for each moment of each channel, a .jsonl one for each channel.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.codec.series import bins, windows
from exnihilo.codec.series.clock import Clock
from exnihilo.errors import DataError, ExNihiloError, UsageError
from exnihilo.interop.load import Loaded

if TYPE_CHECKING:
    from exnihilo.predictions.run import Run

FORECASTERS = ("forecasting", "series_tokens")
PATHS = 100
"""Paths that are drawn of a series of tokens."""
_DECILES = tuple(i / 10 for i in range(1, 10))
_SHOWN = 6  # numbers of a line on a terminal


def reads(run: Loaded) -> bool:
    """Whether a run continues series."""
    return (run.objective or {}).get("objective") in FORECASTERS


def ask(
    run: Run,
    examples: Any,
    *,
    file: str | Path | None,
    out: str | Path | None,
    force: bool = False,
    seed: int = 0,
) -> Any:
    """Forecasts of a file, of a row of numbers, or of a list of them.

    Args:
        examples: a file's name, JSON, a mapping with a role ``series``, or a list of these.
        file: a file instead of examples.
        out: a .csv, .tsv or .jsonl to write.

    Returns:
        {"forecasts": [...]} (a list of these for a list), or with `out` "rows", "series", "errors" and "out".

    Raises:
        UsageError: `out` is there already, or has another suffix.
        DataError: a series that cannot be read.
    """
    given = str(file) if file is not None else examples
    many = isinstance(given, Sequence) and not isinstance(given, (str, tuple))
    if out is not None:
        _check(Path(out), force)
    found = [_forecast(run, one, seed) for one in (given if many else [given])]
    if out is None:
        return found if many else found[0]
    rows = [row for prediction in found for row in prediction["forecasts"]]
    count = _write(Path(out), rows)
    return {"rows": count, "errors": 0, "series": len(rows), "out": str(out)}


def _forecast(run: Run, given: Any, seed: int) -> dict[str, Any]:
    if isinstance(given, tuple):
        given = given[0] if len(given) == 1 else given
    example = dict(given) if isinstance(given, Mapping) else {"series": given}
    if not isinstance(example.get("series"), str):
        example["series"] = json.dumps(example.get("series"), default=lambda value: value.tolist())
    example.pop("part", None)
    if (run.objective or {}).get("objective") == "series_tokens":
        return paths(run, example, seed=seed)
    predictor = run.predictor()
    [answer] = predictor.answers([example])
    if answer.error is not None:
        raise answer.error
    return predictor.objective.decode(answer.example, answer.items, answer.outputs)


def paths(run: Run, example: Mapping[str, Any], *, count: int = PATHS, seed: int = 0) -> dict[str, Any]:
    """Sampled continuations of each channel, and the deciles of them.

    Returns:
        {"forecasts": [{"series", "channel", "time", "0.1", ..., "paths"}]}; paths are (count, horizon).
    """
    from exnihilo.infer import generate
    from exnihilo.objective.forecasting import written
    from exnihilo.objective.series_tokens import SeriesTokens
    from exnihilo.predictions.run import objective_of

    objective = objective_of(run)
    assert isinstance(objective, SeriesTokens)
    c, codec = objective.config, run.codec
    ids = objective.bins_of(codec)
    barred = {i: -1e9 for i in range(codec.vocab_size) if i >= ids or i == bins.MISSING}
    found: list[dict[str, Any]] = []
    for table in objective.tables(example):
        series, clock = table.series, table.series.clock or Clock()
        start = np.array([len(table.values)])
        for channel, name in enumerate(series.channels):
            column_L1 = table.values[:, [channel]]
            past_L = windows.cut(column_L1, start, history=c.history, rows=c.history)[0, :, 0]
            if np.isnan(past_L).all():
                raise DataError(
                    f"series {series.name!r}, channel {name!r}: none of its last {c.history} values is there",
                    next="a longer options.history",
                )
            scale = bins.scale_of(past_L)
            prompt = [int(codec.bos_id or 0), *bins.encode(past_L, scale, ids).tolist()]
            how: dict[str, Any] = {"max_new_tokens": c.horizon, "seed": seed, "eos": (), "logit_bias": barred}
            made = generate(run.model, codec, [prompt] * count, **how)
            mean, std = table.moments[channel]
            drawn = np.array([bins.decode(np.array(g.ids), scale, ids) for g in made]) * std + mean
            quantiles = np.quantile(drawn, _DECILES, axis=0)
            row: dict[str, Any] = {"series": series.name, "channel": name}
            row["time"] = written(clock.times(len(series), c.horizon), clock)
            row |= {f"{q:g}": values.tolist() for q, values in zip(_DECILES, quantiles, strict=True)}
            found.append({**row, "paths": drawn.tolist()})
    return {"forecasts": found}


def lines(prediction: Mapping[str, Any]) -> Iterator[str]:
    """Forecasts for a terminal: the first moments of each channel.

    >>> list(lines({"forecasts": [{"series": "a", "channel": "x", "time": [3], "0.1": [1.0], "0.9": [2.0]}]}))
    ['a x', '  time  0.1  0.9', '  3     1    2']
    """
    for row in prediction["forecasts"]:
        names = [name for name in row if name not in ("series", "channel", "paths")]
        table = [names] + [
            [f"{row[n][i]:.4g}" if isinstance(row[n][i], float) else str(row[n][i]) for n in names]
            for i in range(min(_SHOWN, len(row["time"])))
        ]
        widths = [max(len(line[i]) for line in table) for i in range(len(names))]
        yield f"{row['series']} {row['channel']}".strip()
        for line in table:
            yield "  " + "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        if (more := len(row["time"]) - _SHOWN) > 0:
            yield f"  and {more} more; --out FILE.csv writes all"
    if missing := prediction.get("missing"):
        yield f"{missing:,} values of the series are missing: masked, not filled"


def _check(out: Path, force: bool) -> None:
    if out.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise UsageError(
            f"out={out}", expected="a name that ends in .csv, .tsv or .jsonl", next=f"{out.stem}.csv"
        )
    if out.exists() and not force:
        raise UsageError(f"{out} exists", expected="a new file", next="--force writes over it")


def _write(out: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """Writes forecasts; returns how many rows."""
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    count = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "w", encoding="utf-8", newline="") as file:
            if out.suffix.lower() == ".jsonl":
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
            else:
                writer = csv.writer(
                    file, delimiter="\t" if out.suffix.lower() == ".tsv" else ",", lineterminator="\n"
                )
                names = [name for name in rows[0] if name != "paths"] if rows else []
                writer.writerow(names)
                for row in rows:
                    for i in range(len(row["time"])):
                        cells = [row[n] if n in ("series", "channel") else row[n][i] for n in names]
                        writer.writerow(cells)
                        count += 1
        os.replace(aside, out)
    except OSError as error:
        raise ExNihiloError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
    return count
