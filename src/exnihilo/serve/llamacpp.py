"""``serve RUN --backend llama.cpp``: the same server; llama.cpp computes, on a GGUF file that was proven.

::

    engine = build(run, settings)       # Engine whose step is llama.cpp's

The file is written and proved at first use and kept in the cache, by the content of weights and tokenizer and
the release of llama-cpp-python: a proof holds for what it was made with. Weights are f32, or q8_0 where the
settings ask for int8. A proof that fails refuses the backend; nothing is served that llama.cpp reads
differently. Sampling, penalties, seeds, structured output and stops are the engine's own.
"""

from __future__ import annotations

import hashlib
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.errors import MissingExtra, UsageError
from exnihilo.infer import llamacpp
from exnihilo.infer.engine import Engine
from exnihilo.interop import gguf, gguf_proof
from exnihilo.interop.files import read_json

if TYPE_CHECKING:
    from exnihilo.interop.load import Loaded
    from exnihilo.serve.settings import Settings

_KINDS = {"float32": "f32", "int8": "q8_0"}
_KEPT = 8  # files in the cache; the ones longest unused go


def build(run: Loaded, settings: Settings) -> Engine:
    """An engine for a run, computing with llama.cpp.

    Raises:
        MissingExtra: llama-cpp-python is not installed.
        UsageError: a device that is not the CPU.
        ModelError: llama.cpp has no name for the model or its tokenizer, or the proof failed.
    """
    if not llamacpp.available():
        raise MissingExtra.of("llama-cpp-python", llamacpp.EXTRA)
    if settings.device not in ("auto", "cpu"):
        raise UsageError(
            f"backend=llama.cpp with device={settings.device}",
            expected="device=cpu",
            next="leave device out, or use backend=exnihilo",
        )
    kind = _KINDS[settings.weights]
    file = llamacpp.LlamaFile(proven(run, kind))
    step = llamacpp.LlamaStep(file, settings.slots, run.model.config.context, settings.threads)
    return Engine(run.model, slots=settings.slots, eos={run.codec.eos_id}, chunk=settings.chunk, step=step)


def proven(run: Loaded, kind: str, folder: Path | None = None) -> Path:
    """The GGUF file of a run, from the cache, or written and proved now.

    Args:
        run: a decoder with its tokenizer.
        kind: f32, f16 or q8_0.
        folder: of the cache; default: the user's.

    Raises:
        ModelError: as `build`.
    """
    from exnihilo.parallel.notes import cache_folder
    from exnihilo.proof import HARD, publish
    from exnihilo.train.lineage import weights_hash

    gguf.check(run.model.config)
    content = (weights_hash(run.model), run.codec.hash, repr(run.model.config), *_releases())
    key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:24]
    whole = folder or cache_folder() / "gguf"
    place = whole / f"{key}-{kind}"
    path = place / f"model-{kind}.gguf"
    if path.is_file() and (place / "proof.json").is_file() and read_json(place / "proof.json").get("proved"):
        place.touch()
        return path
    log.say(f"llama.cpp: writing {run.path.name} as a GGUF file ({kind}) and proving it")

    def write(aside: Path) -> None:
        gguf.export_gguf(run, aside, kind)

    def prove(aside: Path) -> dict[str, Any]:
        return gguf_proof.prove_gguf(run, aside / path.name, HARD, HARD, kind)

    proof = publish(place, write, prove, force=True)
    for line in proof["lines"]:
        log.say(f"  {line}")
    _forget(whole)
    return path


def _releases() -> tuple[str, ...]:
    return tuple(version(name) for name in ("exnihilo", "gguf", "llama-cpp-python"))


def _forget(whole: Path) -> None:
    """Keep the cache small; what another process has open stays readable to it."""
    found = sorted((p for p in whole.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in found[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
