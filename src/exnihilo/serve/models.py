"""The models that a server serves, by name; newer checkpoints take the place of older ones while it runs.

::

    shelf = Shelf.open(["runs/chat", "runs/sentiment"], Settings())
    served = shelf.get("chat")              # KeyError: there is none of this name
    served.worker.submit(job)               # a decoder; an encoder has served.batcher
    shelf.reload()                          # names of those that a newer checkpoint was found for

A model's name is the last part of its path, with more of it where two would be equal; a checkpoint is
``run@step-00000100``. Where a run got a newer checkpoint it is loaded beside the old one; requests that come
then get the new one, and the old one finishes what it has begun. What cannot be loaded is said, and the old
one stays.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exnihilo import log
from exnihilo.errors import ExNihiloError, UsageError
from exnihilo.interop import hf
from exnihilo.model.family import find
from exnihilo.predictions.run import Run, load_run
from exnihilo.serve.batcher import Batcher
from exnihilo.serve.errors import ApiError
from exnihilo.serve.settings import Settings
from exnihilo.serve.worker import Motor, Worker

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.codec.chat import Chat
    from exnihilo.serve.metrics import Metrics


@dataclass(frozen=True, eq=False)
class Served:
    """A model that answers.

    Attributes:
        name: by which requests ask for it.
        kind: a decoder writes (`worker`), an encoder answers (`batcher`).
        loaded: model, codec and what it was trained for.
        codec: its tokenizer.
        chat: how its conversations are rendered; None: it was not taught any.
        created: when its weights were written, in seconds since 1970.
        path: the folder its weights came from.
        task: what it was trained for, e.g. ``causal_lm``; None: nothing says it.
    """

    name: str
    kind: Literal["decoder", "encoder"]
    loaded: Run
    codec: Codec
    chat: Chat | None
    created: int
    path: Path
    task: str | None
    worker: Worker | None = None
    batcher: Batcher | None = None

    @property
    def context(self) -> int:
        """Tokens that the model sees at a time."""
        return self.loaded.model.config.context

    @property
    def desk(self) -> Worker | Batcher:
        """Where its requests go."""
        found = self.worker or self.batcher
        assert found is not None
        return found


class Shelf:
    """Models by name. Make one by `open`."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings, self.metrics = settings, metrics
        self._models: dict[str, Served] = {}
        self._sources: dict[
            str, tuple[Path, object]
        ] = {}  # name -> what was given, and its state when loaded
        self._old: list[Served] = []  # replaced, finishing
        self._lock = threading.Lock()
        self._refused: dict[str, object] = {}  # states that could not be loaded
        self.draining = False

    @classmethod
    def open(
        cls, paths: Sequence[str | Path], settings: Settings | None = None, *, metrics: Metrics | None = None
    ) -> Shelf:
        """Load models.

        Args:
            paths: run folders, checkpoints of runs, Hugging Face folders.
            settings: slots, device, weights and so on.
            metrics: that count; default: none do.

        Raises:
            UsageError: none given, one given twice, or one that cannot be served.
            ExNihiloError: as `load`.
        """
        if not paths:
            raise UsageError("no run to serve", expected="at least one", next="exnihilo serve RUN [RUN...]")
        shelf = cls(settings or Settings(), metrics)
        try:
            for name, path in named(paths).items():
                state = state_of(path)
                shelf._models[name] = shelf._load(name, path)
                shelf._sources[name] = (path, state)
        except BaseException:
            shelf.close()
            raise
        if metrics is not None:
            metrics.watch(shelf)
        return shelf

    def get(self, name: str) -> Served:
        """A model by its name.

        Raises:
            KeyError: there is none.
        """
        return self._models[name]

    def all(self) -> list[Served]:
        """Every model, in the order they were given."""
        return list(self._models.values())

    def reload(self) -> list[str]:
        """Take on newer checkpoints; the names of the models that changed. Takes as long as loading does: not
        for the event loop's thread."""
        changed = []
        with self._lock:
            self._old = [served for served in self._old if not served.desk.join(0)]
            for name, (path, before) in list(self._sources.items()):
                now = state_of(path)
                if now is None or now == before or self._refused.get(name) == now:
                    continue
                try:
                    fresh = self._load(name, path)
                except (ExNihiloError, OSError) as error:
                    self._refused[name] = now  # not tried again until it changes
                    log.warn(f"{name}: a newer checkpoint cannot be loaded, the older one stays: {error}")
                    continue
                old, self._models[name] = self._models[name], fresh
                self._sources[name] = (path, now)
                old.desk.retire()
                self._old.append(old)
                changed.append(name)
                if self.metrics is not None:
                    self.metrics.reloads.labels(name).inc()
                log.say(f"{name}: now {fresh.path} (was {old.path})")
        return changed

    def abort(self, error: ApiError) -> int:
        """End every request with an error; how many there were."""
        return sum(served.desk.abort(error) for served in (*self.all(), *self._old))

    def close(self, seconds: float = 5.0) -> None:
        """Let go of all models; requests still there end with 503."""
        self.abort(ApiError("the server is going down", status=503, code="shutting_down"))
        for served in (*self.all(), *self._old):
            served.desk.join(seconds)

    def _load(self, name: str, path: Path) -> Served:
        """A model, ready to answer."""
        from exnihilo.parallel import resolve_device

        run = load_run(path, device=resolve_device(self.settings.device))
        model, task = run.model, (run.objective or {}).get("objective")
        writes = "tokens" in model.heads and not find(model.config.family).encoder
        common: dict[str, Any] = {
            "name": name,
            "loaded": run,
            "codec": run.codec,
            "created": _created(run.path),
            "path": run.path,
            "task": task if isinstance(task, str) else None,
        }
        queue = self.settings.queue
        if not writes:
            predictor = run.predictor(weights=self.settings.weights)
            batcher = Batcher(name, predictor, queue=queue)
            log.say(f"{name}: {predictor.path}")
            return Served(kind="encoder", chat=None, batcher=batcher, **common)
        worker = Worker(
            name,
            run.codec,
            lambda: build_engine(run, self.settings),
            queue=queue,
            context=model.config.context,
            observer=self.metrics,
        )
        chat = hf.chat_of(run.codec, model.config, run.objective)
        if worker.engine is not None:
            log.say(f"{name}: {worker.engine.path}; {worker.slots} slots of {model.config.context} tokens")
        return Served(kind="decoder", chat=chat, worker=worker, **common)


def build_engine(run: Run, settings: Settings) -> Motor:
    """What decodes, as the settings say.

    Raises:
        ExNihiloError: what was asked for cannot be had here.
    """
    if settings.backend == "llama.cpp":
        from exnihilo.serve import llamacpp

        return llamacpp.build(run, settings)
    from exnihilo.infer.engine import Engine

    return Engine(
        run.model,
        slots=settings.slots,
        eos={run.codec.eos_id},
        threads=settings.threads,
        weights=settings.weights,
        chunk=settings.chunk,
    )


def named(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Paths by the shortest names that tell them apart.

    Raises:
        UsageError: one was given twice.

    >>> list(named(["runs/a", "old/a", "runs/b/checkpoints/step-00000100"]))
    ['runs/a', 'old/a', 'b@step-00000100']
    """
    whole = [Path(path) for path in paths]
    parts = []
    for path in whole:
        real = path.resolve()
        if real.parent.name == "checkpoints":
            parts.append([*real.parent.parent.parts[1:-1], f"{real.parent.parent.name}@{real.name}"])
        else:
            parts.append(list(real.parts[1:]) or ["model"])
    out: dict[str, Path] = {}
    for mine, path in zip(parts, whole, strict=True):
        size = 1
        while size < len(mine) and sum(other[-size:] == mine[-size:] for other in parts) > 1:
            size += 1
        name = "/".join(mine[-size:])
        if name in out:
            raise UsageError(f"{path} was given twice", expected="each run once", next="leave one out")
        out[name] = path
    return out


def state_of(path: Path) -> object:
    """What changes when a run gets a newer checkpoint; None: nothing is there (any more)."""
    found: list[tuple[str, int, int]] = []
    places = [path / "model.safetensors"]
    try:
        steps = sorted(p for p in (path / "checkpoints").glob("step-*") if (p / "manifest.json").is_file())
        places += [step / "manifest.json" for step in steps[-1:]]
        for place in places:
            if place.is_file():
                status = place.stat()
                found.append((str(place), status.st_mtime_ns, status.st_size))
    except OSError:  # removed while we look
        return None
    return tuple(found) or None


def _created(path: Path) -> int:
    """When the weights were written."""
    weights = path / "model.safetensors"
    try:
        return int((weights if weights.is_file() else path).stat().st_mtime)
    except OSError:
        return 0
