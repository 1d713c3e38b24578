"""What a run is probed with: examples of its own data (or others), as its objective encodes them.

::

    rows = texts(codec, ["The old fox ..."], 8, 64)                 # beginnings of texts, one length
    rows = encoded(objective, codec, model, examples, 8)            # sounds, pictures, series, pairs ...
    rows = of_dataset(objective, dataset, codec, model, 2)          # documents of a validation split

Key: N examples, T positions
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo import data as datas
from exnihilo import log
from exnihilo.config import DataConfig, RunConfig
from exnihilo.data import collate
from exnihilo.data.base import Noted
from exnihilo.errors import DataError, UsageError
from exnihilo.objective import draws
from exnihilo.objective.base import Columns, Example, Item, Look, Objective
from exnihilo.probe.rows import Rows
from exnihilo.probe.tasks import Task, parse

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data.dataset import Dataset
    from exnihilo.model.model import Model

MOST = 20_000  # examples that are looked through for long enough ones
GOLD = frozenset({"label", "labels", "answers", "tags", "spans", "score", "events"})


# text ----------------------------------------------------------------------------------------------


def texts(
    codec: Codec, given: Iterable[str], count: int, length: int, *, encoder: bool = False
) -> np.ndarray:
    """Token ids (N, T) of the beginnings of the first `count` texts that are long enough.

    A single shorter text gives a shorter row.

    Raises:
        DataError: no text is long enough.
    """
    out: list[list[int]] = []
    ids: list[int] = []
    longest, seen = 0, 0
    for text in given:
        ids = codec.encode(text)
        seen += 1
        if encoder and codec.cls_id is not None and codec.sep_id is not None:
            ids = [codec.cls_id, *ids[: length - 2], codec.sep_id]
        else:
            ids = [codec.bos_id, *ids]
        longest = max(longest, len(ids))
        if len(ids) >= length:
            out.append(ids[:length])
        if len(out) == count:
            break
    if not out and seen == 1 and longest > 1:
        return np.array([ids], np.int64)
    if not out:
        raise DataError(
            f"none of {seen:,} texts has {length} tokens; the longest has {longest}",
            expected="longer texts, or a smaller length",
            next=f"length={max(2, longest)}",
        )
    return np.array(out, np.int64)


# any modality --------------------------------------------------------------------------------------


def encoded(
    objective: Objective, codec: Codec, model: Model, examples: Iterable[Example], count: int
) -> Rows:
    """The first `count` examples that can be read, as the objective encodes them, with what it draws.

    What cannot be read is left out and counted by reason.

    Raises:
        DataError: none can.
    """
    items: list[Item] = []
    more: list[Item] = []  # further windows of the same examples
    lost: Counter[str] = Counter()
    for example in examples:
        [found] = objective.encode_many([example], codec)
        if not found:
            lost[(found.note if isinstance(found, Noted) else "") or "nothing to read"] += 1
        items += found[:1]
        more += found[1 :: max(1, len(found) // count)]
        if len(items) == count:
            break
    room = count - len(items)
    items += [more[i * len(more) // room] for i in range(room)] if len(more) >= room > 0 else more[:room]
    if lost:
        log.warn(
            f"probe: left out {', '.join(f'{n} {why}' for why, n in lost.most_common(5))} "
            f"({sum(lost.values())} of {sum(lost.values()) + len(items)} examples)"
        )
    if not items:
        raise DataError(
            f"none of {sum(lost.values()):,} examples can be read",
            expected=f"examples with {', '.join(objective.asks or objective.roles)}",
            next="data=PATH",
        )
    made = [drawn(objective, codec, item, n) for n, item in enumerate(items)]
    return Rows.of(made, tuple(model.config.inputs))


def drawn(objective: Objective, codec: Codec, item: Item, number: int) -> dict[str, np.ndarray]:
    """The columns of an item, (T, ...), with what is drawn where it is evaluated."""
    length = len(np.asarray(item["tokens"]))
    columns = collate.of_items([[(0, 0, length)]], [item], row=length, pad_id=codec.pad_id)

    def batch(ids: np.ndarray) -> Columns:
        return {name: np.repeat(value, len(ids), 0) for name, value in columns.items()}

    ids = np.array([number])
    if draws.draws(objective):
        keys = [draws.generator(draws.EVAL_SEED, 0, number)]
        look = Look(number + 1, ids, batch, codec, training=False)
        columns = objective.draw(columns, keys, look)
    return {name: value[0] for name, value in collate.simplify(columns).items()}


def of_dataset(objective: Objective, dataset: Dataset, codec: Codec, model: Model, count: int) -> Rows:
    """Documents of a data set: of `count` rows, evenly spread, the longest one of each."""
    wanted = min(count, dataset.rows)
    ids = np.arange(wanted) * dataset.rows // max(1, wanted)
    columns = draws.draw(objective, dataset, ids, codec=codec)
    items: list[Mapping[str, np.ndarray]] = []
    for b in range(len(ids)):
        doc = columns["doc"][b]
        best = max(set(doc[doc >= 0].tolist()), key=lambda d: int((doc == d).sum()), default=None)
        if best is None:
            continue
        at = np.flatnonzero(doc == best)
        part = {n: v[b, at] for n, v in columns.items() if v.ndim > 1 and v.shape[1] == len(doc)}
        items.append({n: v for n, v in part.items() if n not in ("doc", "pos", "source")})
    return Rows.of(items, tuple(model.config.inputs))


# where they come from ------------------------------------------------------------------------------


def examples(run: Path, data: Any, objective: Objective | None) -> Iterator[Example]:
    """Those of `data`, as ``data=`` of `train`; else of the run's own validation split."""
    side, val = "val", None
    if data is not None:
        config, side = RunConfig.model_validate({"data": data}).data, "train"
    else:
        config, val = own(run)
    reading: dict[str, Any] = {"roles": ("text",)}
    if objective is not None:
        reading = {"roles": objective.roles, "extras": objective.extras, "view": objective.view}
        if data is not None:  # others need not say what is to be found out
            asked = tuple(objective.asks) or tuple(r for r in objective.roles if r not in GOLD)
            reading["roles"] = asked or objective.roles
    found = datas.examples(config, val, side, **reading)  # type: ignore[arg-type]
    yield from islice(found, MOST)


def one(objective: Objective, text: str) -> Example:
    """The example that a user's one text, or path, is.

    Raises:
        UsageError: the training type reads several.
    """
    asked = tuple(objective.asks) if not callable(objective.asks) else ()
    asked = asked or tuple(role for role in objective.roles if role not in GOLD)
    if len(asked) != 1:
        raise UsageError(
            f"one text for a model that reads {', '.join(asked) or 'none'}",
            expected="data=PATH with these columns",
            next="exnihilo probe RUN, or exnihilo probe RUN data=PATH",
        )
    return {asked[0]: text}


def own(run: Path) -> tuple[DataConfig, DataConfig | None]:
    """The data of a run folder, by its config.toml.

    Raises:
        UsageError: there is none.
    """
    held = _config(run)
    if held is None:
        raise UsageError(
            f"{run} does not say what it was trained on",
            expected="data=PATH, or a text",
            next='e.g. exnihilo probe RUN data=books/ or exnihilo probe RUN "a text"',
        )
    parts = {key: held[key] for key in ("data", "val") if key in held}
    config = RunConfig.model_validate(parts)
    return config.data, config.val


def task_of(run: Path, data: Any, context: int) -> Task | None:
    """The task whose truth is known, if ``data=recall:TASK`` is asked for or is what the run was trained on:
    of several lengths the longest that the model can read."""
    if data is not None:
        sources = [source.path for source in RunConfig.model_validate({"data": data}).data.sources]
    else:
        held = (_config(run) or {}).get("data") or {}
        sources = [str(source.get("path", "")) for source in held.get("sources") or []]
    found = [parse(path) for path in sources]
    tasks = [task for task, _ in filter(None, found) if task.length <= context]
    if None in found or len({task.name for task in tasks}) != 1:
        return None
    return max(tasks, key=lambda task: task.length)


def _config(run: Path) -> Mapping[str, Any] | None:
    import tomllib

    path = next((p / "config.toml" for p in (run, *run.parents) if (p / "config.toml").exists()), None)
    return None if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
