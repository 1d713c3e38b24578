"""Rollouts as frozen records, and their parquet files: what was drawn, how it was scored, what it weighed.

::

    write(run / "rollouts", Drawn(number=12, version=12, records=[...], figures={...}))
    drawn = read(run / "rollouts", 12)           # the same records, bit for bit; None where there is no file

One file a batch, ``RUN/rollouts/batch-000012.parquet`` (of worker 3: ``batch-000012.w3.parquet``), one line a
completion; any reader of parquet opens it. Written aside and renamed, so a file is whole or not there.

    group example version reason text          which prompt of the batch, which task, whose weights, why it
    ended prompt completion mask logprobs            ids (the stop token included), 1 where the model drew
    the token,
                                               and the sampler's log-probabilities
    reward right error parts                   the sum of the weighted parts, whether it counts as right
    columns                                    per-token floats that the objective read: old_logp,
    advantage, ...
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exnihilo.errors import DataError

FOLDER = "rollouts"


@dataclass(frozen=True)
class Record:
    """One completion. Nothing of it changes once it is drawn and scored; what the trainer adds makes a new
    one.

    Attributes:
        group: the prompt's place in the batch, the same for all its completions.
        example: the task's number in the run's data.
        version: number of the batch that training had reached when its weights were taken.
        prompt, completion: ids; the completion holds the token that ended it.
        mask: 1 where the model drew the token, 0 where a tool's answer was put in.
        logprobs: the sampler's, at the sampler's temperature, nats; 0 where nothing was drawn.
        reason: "eos" (a stop token) or "length".
        text: the reply as the grader saw it.
        parts: the rewards by part, before their weights. reward: their weighted sum, and what length adds.
        right: whether the first part gave full marks. independent: the score of ``alarms.grader``. error:
            why there is no score; "" where there is one.
        columns: per-token floats beside: old_logp, advantage, ref_logp, is_weight, value, target.
    """

    group: int
    example: int
    version: int
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str
    text: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    reward: float = 0.0
    right: bool = False
    independent: float = 0.0
    error: str = ""
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def stopped(self) -> bool:
        """Whether it ended by itself."""
        return self.reason != "length"


@dataclass(frozen=True)
class Drawn:
    """A batch of rollouts: this worker's completions, a group's one after the other.

    Attributes:
        number: of the batch. version: of the oldest weights that drew it.
        records: by group, in the order of the batch.
        figures: sums over this worker that `rollout` reports.
    """

    number: int
    version: int
    records: tuple[Record, ...]
    figures: Mapping[str, float] = field(default_factory=dict)


FLOATS = pa.list_(pa.float64())
SCHEMA = pa.schema(
    [
        ("group", pa.int32()),
        ("example", pa.int64()),
        ("version", pa.int64()),
        ("prompt", pa.list_(pa.int32())),
        ("completion", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.int8())),
        ("logprobs", FLOATS),
        ("reason", pa.string()),
        ("text", pa.string()),
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("reward", pa.float64()),
        ("right", pa.bool_()),
        ("independent", pa.float64()),
        ("error", pa.string()),
        ("columns", pa.map_(pa.string(), FLOATS)),
    ]
)


def path_of(folder: Path, number: int, *, rank: int = 0, stage: str = "") -> Path:
    """The file of a batch.

    >>> path_of(Path("rollouts"), 7, rank=1).name
    'batch-000007.w1.parquet'
    """
    worker = f".w{rank}" if rank else ""
    return folder / f"batch-{number:06d}{worker}{'.' + stage if stage else ''}.parquet"


def number_of(path: Path) -> int:
    """The batch that a file holds.

    >>> number_of(Path("batch-000007.w1.parquet")), rank_of(Path("batch-000007.w1.parquet"))
    (7, 1)
    """
    return int(path.name.split(".")[0].removeprefix("batch-"))


def rank_of(path: Path) -> int:
    """The worker that wrote a file."""
    part = path.name.split(".")[1]
    return int(part[1:]) if part[:1] == "w" else 0


def write(folder: Path, drawn: Drawn, *, rank: int = 0, stage: str = "") -> Path:
    """Write a batch, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, drawn.number, rank=rank, stage=stage)
    about = {"number": drawn.number, "version": drawn.version, "figures": dict(drawn.figures)}
    table = pa.Table.from_pylist([_row(r) for r in drawn.records], SCHEMA)
    table = table.replace_schema_metadata({"exnihilo": json.dumps(about)})
    aside = path.with_suffix(".tmp")
    pq.write_table(table, aside, compression="zstd", write_statistics=False)
    os.replace(aside, path)
    return path


def read(folder: Path, number: int, *, rank: int = 0, stage: str = "") -> Drawn | None:
    """A batch as it was written; None where there is no file.

    Raises:
        DataError: the file cannot be read.
    """
    path = path_of(folder, number, rank=rank, stage=stage)
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[b"exnihilo"])
        records = tuple(_record(row) for row in table.to_pylist())
        return Drawn(int(about["number"]), int(about["version"]), records, dict(about["figures"]))
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is no file of rollouts: {error}",
            expected="a file as training wrote it",
            next="remove it: where the weights of that step are there, it is drawn again",
        ) from error


def _row(record: Record) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in SCHEMA.names}
    row["parts"] = list(record.parts.items())
    row["columns"] = list(record.columns.items())
    return row


def _record(row: Mapping[str, Any]) -> Record:
    lists = {name: tuple(row[name]) for name in ("prompt", "completion", "mask", "logprobs")}
    columns = {name: tuple(values) for name, values in row["columns"]}
    return Record(**{**row, **lists, "parts": dict(row["parts"]), "columns": columns})


def groups(records: Sequence[Record]) -> list[list[Record]]:
    """The records by group, in the order in which groups come.

    Raises:
        DataError: a group's records do not stand together, or do not share their prompt.
    """
    out: list[list[Record]] = []
    seen: set[int] = set()
    for record in records:
        if not out or out[-1][0].group != record.group:
            if record.group in seen:
                raise DataError(f"the records of group {record.group} are interleaved with others")
            seen.add(record.group)
            out.append([])
        elif out[-1][0].prompt != record.prompt:
            raise DataError(f"the records of group {record.group} have different prompts")
        out[-1].append(record)
    return out


def rewards(records: Sequence[Record]) -> np.ndarray:
    """The reward of each, float64."""
    return np.array([r.reward for r in records], np.float64)
