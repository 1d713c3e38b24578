"""A run folder as one self-contained HTML page: figures, loss curve, samples, data, settings.

Everything is inside the file (the picture as a data URI, no script, no outside asset), everything that came
from data is escaped: jinja2 in its sandbox with autoescape. A part that the folder lacks is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2.sandbox import SandboxedEnvironment

from exnihilo.errors import ExNihiloError
from exnihilo.eval import saved
from exnihilo.report import plot, stages
from exnihilo.report.folder import RunFolder, open_run

_LONGEST = 2_000  # characters of one sample


def write(path: Path, out: Path | None = None) -> Path:
    """Write the page of the run folder `path` to `out` (default ``path/report.html``); returns where it
    lies."""
    target = out if out is not None else path / "report.html"
    text = html(open_run(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExNihiloError(
            f"{target} cannot be written: {error}", expected="a writable folder", next="out=FILE.html"
        ) from error
    return target


def html(run: RunFolder) -> str:
    """The page as text."""
    environment = SandboxedEnvironment(autoescape=True, trim_blocks=False)
    template = environment.from_string(
        resources.files("exnihilo.report").joinpath("template.html").read_text("utf-8")
    )
    extra = _quickstart(run.path)
    floor = extra.get("floor_nats")
    chance = chance_of(run)
    shape = plot.curves(run.train, run.val)
    picture = ""
    objective = run.config.objective if run.config is not None else ""
    if objective in stages.POST:
        png, _ = stages.picture(run, objective)
        picture = stages.uri(png) if png else ""
    elif shape.train or shape.val:
        picture = stages.uri(plot.png(shape, floor=floor, chance=chance, title=run.path.name))
    return template.render(
        overview=stages.overview(run.path),
        sections=stages.sections(run.path),
        title=run.path.name or "run",
        subtitle=_subtitle(run),
        tiles=_tiles(run),
        picture=picture,
        picture_text=", ".join(f"{name} {value}" for name, value in _tiles(run)),
        tables=[*extra.get("tables", []), *_suites(run.path)],
        samples=samples(run.path),
        data=rows_of(run.data),
        events=[(f"step {row.get('step', '')}", _event(row)) for row in run.events],
        config=run.config_text,
        env=rows_of(run.env),
        env_line=str(run.env.get("device") or run.env.get("cpu") or "versions and hardware"),
    )


def chance_of(run: RunFolder) -> float | None:
    """ln V: the loss of a model that knows nothing."""
    size = run.config.model.vocab_size if run.config is not None else None
    return math.log(size) if size else None


def _subtitle(run: RunFolder) -> str:
    if run.config is None:
        return str(run.path)
    sources = ", ".join(source.path for source in run.config.data.sources)
    return f"recipe {run.config.recipe}, {run.config.objective} on {sources}; {run.path}"


def _tiles(run: RunFolder) -> list[tuple[str, str]]:
    known = [
        ("validation loss, nats a token", run.last("val_loss"), "{:.4f}"),
        ("bits a byte", run.last("val_bpb"), "{:.4f}"),
        ("bits a token", run.last("val_bits_per_token"), "{:.4f}"),
        ("training loss", run.last("loss"), "{:.4f}"),
        ("tokens seen", run.last("tokens"), "{:,.0f}"),
        ("steps", run.last("step"), "{:,.0f}"),
        ("seconds", run.last("seconds"), "{:,.0f}"),
        ("tokens a second", run.last("tokens_per_s"), "{:,.0f}"),
    ]
    return [
        (name, form.format(value))
        for name, value, form in known
        if value is not None and math.isfinite(value)
    ]


def samples(path: Path) -> list[dict[str, str]]:
    """Texts of ``samples/``, in order of their names; long ones are cut, and say so."""
    folder = path / "samples"
    found = []
    for file in sorted(folder.glob("*")) if folder.is_dir() else []:
        if file.is_file() and file.suffix in (".txt", ".md"):
            text = file.read_text(encoding="utf-8", errors="replace")
            cut = text[:_LONGEST] + (
                f" ... ({len(text) - _LONGEST:,} more characters)" if len(text) > _LONGEST else ""
            )
            found.append({"when": file.stem.replace("-", " "), "text": cut})
    return found


def rows_of(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as rows of a two-column table."""
    rows: list[tuple[str, str]] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            rows += rows_of(inner, f"{prefix}{name}.")
        elif isinstance(inner, float):
            rows.append((f"{prefix}{name}", f"{inner:,.6g}"))
        elif isinstance(inner, int) and not isinstance(inner, bool):
            rows.append((f"{prefix}{name}", f"{inner:,}"))
        else:
            text = inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
            rows.append((f"{prefix}{name}", text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."))
    return rows


def _event(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in row.items() if name not in ("kind", "step"))


def _suites(path: Path) -> list[dict[str, Any]]:
    """What `exnihilo eval --suite` found, as a table; none where nothing was asked."""
    found = list(saved.rows(saved.kept(path)))
    note = "exnihilo eval --suite; each result is of the weights of its day"
    return [{"title": "Suites", "note": note, "head": saved.HEAD, "rows": found}] if found else []


def _quickstart(path: Path) -> dict[str, Any]:
    """Figures that the quickstart measured, where this folder is one."""
    file = path / "quickstart.json"
    if not file.is_file():
        return {}
    figures = json.loads(file.read_text(encoding="utf-8"))
    return {"floor_nats": figures.get("floor_nats"), "tables": figures.get("tables", [])}
