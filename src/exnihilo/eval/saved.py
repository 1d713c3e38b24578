"""What suites have found, kept in the run folder: ``RUN/suites.json``, the newest result of each question.

::

    keep(run, {"lambada": {"accuracy": 0.31, ...}}, weights="3f2a...", settings={"shots": 5})
    kept(run)                       # [{"suite": "lambada", "figures": {...}, "weights": ..., "when": ...}]
    rows(kept(run))                 # of a table: suite, figure, value, interval

A result takes the place of an older one of the same suite, data, settings and checkpoint. Reports and model
cards read it; a card shows only what was found with the weights that it describes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exnihilo import log
from exnihilo.errors import ModelError
from exnihilo.interop import files

NAME = "suites.json"
HEAD = ("suite", "figure", "value", "95% interval", "asked")
_MARKS = ("config.toml", "metrics.jsonl", "proof.json")  # of a run folder: trained here, or imported
_ENDS = ("_low", "_high")


def home(path: str | Path) -> tuple[Path, str] | None:
    """(run folder, checkpoint or "") that results of `path` belong to; None: it is no run folder."""
    path = Path(path)
    real, at = path.resolve(), ""
    if real.parent.name == "checkpoints":
        path, at = real.parent.parent, real.name
    return (path, at) if any((path / name).is_file() for name in _MARKS) else None


def keep(
    run: str | Path,
    suites: Mapping[str, Mapping[str, Any]],
    *,
    weights: str,
    settings: Mapping[str, Any] | None = None,
) -> Path | None:
    """Add results to those of a run; where to, or None: it is no run folder, or cannot be written (said).

    Args:
        run: the folder that was asked, or a checkpoint of it.
        suites: figures by suite, as `exnihilo.eval(..., suite=...)` returns them.
        weights: hash of what answered.
        settings: that the figures depend on.
    """
    found = home(run)
    if found is None:
        return None
    folder, at = found
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    added = [
        {
            "suite": name,
            "checkpoint": at,
            "settings": dict(settings or {}),
            "weights": weights,
            "when": when,
            "figures": dict(figures),
        }
        for name, figures in suites.items()
    ]
    mine = {_key(entry) for entry in added}
    try:
        old = [entry for entry in kept(folder) if _key(entry) not in mine]
        files.write(folder, {NAME: files.write_json({"results": [*old, *added]})})
    except ModelError as error:
        log.warn(f"the results are not kept in the run folder: {error.given}")
        return None
    return folder / NAME


def kept(run: str | Path, weights: str | None = None) -> list[dict[str, Any]]:
    """The results of a run, oldest first; with `weights` only those of these.

    Raises:
        ModelError: the file is broken.
    """
    found = home(run)
    path = (Path(run) if found is None else found[0]) / NAME
    if not path.is_file():
        return []
    listed: Any = files.read_json(path).get("results")
    results = [entry for entry in listed if _whole(entry)] if isinstance(listed, list) else []
    if not isinstance(listed, list) or len(results) < len(listed):
        raise ModelError(
            f"{path} holds no results of suites", expected="what exnihilo eval wrote", next="remove it"
        )
    return [entry for entry in results if weights is None or entry.get("weights") == weights]


def _whole(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("figures"), dict) and "suite" in entry


def rows(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str, str]]:
    """Results as rows under `HEAD`, one a figure; of paths only the names, since others read them."""
    for entry in results:
        figures: Mapping[str, Any] = entry["figures"]
        name = str(entry["suite"]) + (f" @ {entry['checkpoint']}" if entry.get("checkpoint") else "")
        told = [_short(figures["data"])] if "data" in figures else []
        told += [f"{key}={_short(value)}" for key, value in (entry.get("settings") or {}).items()]
        asked = ", ".join([*told, str(entry.get("when", ""))[:10]])
        for figure, value in figures.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or figure.endswith(_ENDS):
                continue
            low, high = (figures.get(figure + end) for end in _ENDS)
            between = "" if low is None or high is None else f"{low:,.4g} to {high:,.4g}"
            yield name, figure, f"{value:,.4g}", between, asked


def _short(value: Any) -> str:
    """A value without this machine's folders.

    >>> _short("folder/a.jsonl, hub:owner/name")
    'a.jsonl, hub:owner/name'
    """
    parts = str(value).split(", ")
    return ", ".join(part if part.startswith("hub:") else Path(part).name or part for part in parts)


def _key(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells results apart; the newest of each stays."""
    settings = entry.get("settings") or {}
    return (
        str(entry["suite"]),
        str(entry["figures"].get("data")),
        str(entry.get("checkpoint", "")),
        repr(sorted(settings.items())),
    )
