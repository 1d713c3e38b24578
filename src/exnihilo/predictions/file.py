"""Predict a file that may be larger than memory, and go on after a kill.

::

    predict_file(predictor, Path("in.jsonl"), Path("out.jsonl"), resume=True)

Predictions are appended in order, one JSON line a row: ``{"row": 1, "label": ...}``. A kill at any time
leaves whole lines and at most one that is cut; `resume` removes that one and goes on. A row that cannot be
predicted gets ``{"row": 7, "error": "..."}``. Beside the file stands ``OUT.state`` until it is complete: it
names the weights and the input, so that two runs are never mixed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from exnihilo import log
from exnihilo.config import DataConfig
from exnihilo.errors import DataError, ExNihiloError, UsageError
from exnihilo.infer.predict import Predictor
from exnihilo.interop.load import Loaded
from exnihilo.predictions.rows import read_rows

_EDGE = 1 << 20  # bytes of an input's beginning and end that identify it


def predict_file(
    predictor: Predictor,
    source: Path | None,
    out: Path | None,
    *,
    weights: str = "",
    resume: bool = False,
    force: bool = False,
    columns: Mapping[str, str] | None = None,
    reading: DataConfig | None = None,
    batch_tokens: int | None = None,
    trim: Callable[[dict[str, Any]], dict[str, Any]] = lambda prediction: prediction,
    write: Callable[[str], None] | None = None,
    progress: log.Progress | None = None,
) -> dict[str, Any]:
    """Predict each row of a file, in order, one JSON line each.

    Args:
        source: see `read_rows`; None is standard input.
        out: the file of predictions; None: each line goes to `write`.
        weights: what identifies the model, so that a resumed file holds one model's predictions only.
        resume: go on behind the last whole line of `out`.
        force: write over `out`.
        trim: what is kept of a prediction.

    Returns:
        "rows" in all, "errors", "resumed" (rows that were there), "seconds".

    Raises:
        UsageError: `out` exists, or was begun with another model or input.
        DataError: no rows at all, or not one could be predicted.
    """
    began = time.perf_counter()
    told = progress or log.Quiet()
    state = {"weights": weights, "input": _print_of(source), "format": 1}
    done = _begin(out, state, resume, force) if out is not None else 0
    rows = read_rows(source, predictor.inputs, columns=columns, reading=reading)
    if sum(1 for _ in islice(rows, done)) < done:
        raise UsageError(
            f"{out} has {done} predictions, {source or 'standard input'} fewer rows",
            expected="the input that it was begun with",
            next="give that one, or write to another --out",
        )
    ids: deque[Any] = deque()  # of the rows that were read ahead

    def passing() -> Iterator[Any]:
        for row in rows:
            ids.append(row.get("id") if isinstance(row, Mapping) else None)
            yield row

    told.start("predict", unit="rows")
    number, errors, first = done, 0, ""
    sink = out.open("a", encoding="utf-8", newline="\n") if out is not None else None
    try:
        for prediction in predictor.stream(
            passing(), batch_tokens=batch_tokens, progress=told, first=done + 1
        ):
            number += 1
            own = ids.popleft()
            if "error" in prediction:
                errors += 1
                first = first or f"row {number}: {prediction['error']}"
            else:
                prediction = trim(prediction)
            head = {"row": number} if own is None else {"row": number, "id": own}
            line = json.dumps({**head, **prediction}, ensure_ascii=False, default=_plain)
            if sink is not None:
                sink.write(line + "\n")
            elif write is not None:
                write(line)
    finally:
        told.stop()
        if sink is not None:
            sink.flush()
            os.fsync(sink.fileno())
            sink.close()
    if number == 0:
        raise DataError(
            f"{source or 'standard input'} has no rows",
            expected="at least one example",
            next="check the file",
        )
    if out is not None:
        _state_of(out).unlink(missing_ok=True)
    if errors and errors == number - done and not done:
        raise DataError(
            f"none of {errors} rows could be predicted; {first}",
            expected=f"rows with {', '.join(predictor.inputs)}",
            next='fields={ROLE = "COLUMN"} names other columns',
        )
    if errors:
        log.warn(f"{errors} of {number - done} rows could not be predicted; first: {first}")
    return {"rows": number, "errors": errors, "resumed": done, "seconds": time.perf_counter() - began}


def _state_of(out: Path) -> Path:
    return out.with_name(out.name + ".state")


def _begin(out: Path, state: Mapping[str, Any], resume: bool, force: bool) -> int:
    """Makes ready for appending; returns how many rows are there already."""
    path = _state_of(out)
    if out.exists() and not resume and not force:
        raise UsageError(
            f"{out} exists", expected="a new file", next="--resume goes on with it, --force writes over it"
        )
    if not out.exists() or not resume:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(b"")
            path.write_text(json.dumps(state), encoding="utf-8")
        except OSError as error:
            raise ExNihiloError(
                f"{out} cannot be written: {error.strerror or error}",
                expected="a file in a folder that exists",
                next="another --out",
            ) from error
        return 0
    rows = _repair(out)
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        for name in ("weights", "input"):
            if known.get(name) and state[name] and known[name] != state[name]:
                what = "other weights" if name == "weights" else "another input"
                raise UsageError(
                    f"{out} was begun with {what}",
                    expected="the run and the file that it was begun with",
                    next="write to another --out, or --force",
                )
    elif rows:
        log.say(f"{out} is complete, or was not begun by predict: its {rows} rows are kept")
    if rows:
        log.say(f"{out} has {rows} rows already; going on behind them")
    return rows


def _repair(out: Path) -> int:
    """Whole lines of a file of predictions; a last one that was cut is removed."""
    rows, good = 0, 0
    with out.open("rb") as file:
        for line in file:
            row = _row(line)
            if row is None and line.endswith(b"\n"):
                raise UsageError(
                    f"{out}, line {rows + 1} is no prediction", expected="a file that predict has written"
                )
            if row is None:
                break
            if row != rows + 1:
                raise UsageError(f"{out}, line {rows + 1} is of row {row}", expected="rows in their order")
            rows, good = rows + 1, good + len(line)
    if good < out.stat().st_size:
        os.truncate(out, good)
    return rows


def _row(line: bytes) -> int | None:
    """The row a line is of; None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    row = value.get("row") if isinstance(value, dict) else None
    return row if isinstance(row, int) else None


def _print_of(source: Path | None) -> str:
    """What identifies an input: its size, its beginning and its end; nothing for standard input."""
    if source is None or not source.is_file():
        return ""
    size = source.stat().st_size
    with source.open("rb") as file:
        head = file.read(_EDGE)
        file.seek(max(0, size - _EDGE))
        tail = file.read(_EDGE)
    return f"{size}-{hashlib.sha256(head + tail).hexdigest()[:16]}"


def weights_of(run: Loaded) -> str:
    """What identifies a run's weights, tokenizer and facts."""
    digest = hashlib.sha256(run.codec.hash.encode())
    digest.update(json.dumps(run.objective, sort_keys=True, default=str).encode())
    for name, tensor in run.model.state_dict().items():
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a prediction holds {type(value).__name__}, which JSON cannot")
