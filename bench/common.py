"""What every benchmark shares: one JSON row a line (commit, device, threads), interleaving, medians,
ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """Real data sets: EXNIHILO_DATA, or shared/data beside the repository."""
    return Path(os.environ.get("EXNIHILO_DATA", ROOT.parent / "shared" / "data"))


def commit() -> str:
    """The short hash of the checkout, with + where it holds uncommitted changes."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "src") else "")


def device_name() -> str:
    """The accelerator, or the processor with its core count."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [s.split(":", 1)[1].strip() for s in cpuinfo.read_text().splitlines() if "model name" in s]
        model = names[0] if names else model
    return f"{model} x{os.cpu_count()}"


def row(bench: str, **figures: Any) -> None:
    """Print one row."""
    import torch

    about = {"bench": bench, "commit": commit(), "device": device_name(), "threads": torch.get_num_threads()}
    print(json.dumps({**about, **figures}), flush=True)


def note(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def interleave(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender, in turn: A B C, A B C ... The first round is a warm-up and is not
    counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds + 1):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if i:
                seconds[name].append(time.perf_counter() - start)
        note(f"round {i}/{rounds}")
    return seconds


class Contender:
    """One side of a comparison in a process of its own, which does one step when asked.

    So each side has the allocator, threads and caches that its own users have, and still they take turns. The
    process is this very script with ``--serve NAME``; see `serve`.
    """

    def __init__(self, name: str, arguments: Sequence[str] = ()) -> None:
        self.name = name
        command = [sys.executable, sys.argv[0], "--serve", name, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about: dict[str, Any] = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries print, too
                return json.loads(line)
        raise SystemExit(f"{self.name}: the process ended with {self.process.wait()}")

    def step(self) -> float:
        """Seconds of one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return float(self._read()["seconds"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(step: Callable[[], float], about: Mapping[str, Any]) -> None:
    """The other end of a `Contender`: tell about it, then do a step a line of standard input."""
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": step()}), flush=True)


def turns() -> Any:
    """The other end of a `Contender` where Transformers' Trainer, or one of TRL's, makes the loop: a callback
    that does a step a line of standard input, as `serve`."""
    import torch
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        begin = 0.0

        def wait(self) -> bool:
            told = sys.stdin.readline()
            self.begin = time.perf_counter()
            return bool(told)

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            print(json.dumps({"threads": torch.get_num_threads()}), flush=True)
            self.wait()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            print(json.dumps({"seconds": time.perf_counter() - self.begin}), flush=True)
            if not self.wait():
                control.should_training_stop = True

    return Turns()


def median(values: list[float]) -> float:
    return statistics.median(values)


def matmul_peak(rows: int = 4096, inner: int = 256, columns: int = 1024) -> float:
    """FLOP/s of this machine's best float32 matrix product, as PyTorch runs it (best of 20)."""
    import torch

    best = 0.0
    for shape in ((rows, inner, columns), (2048, 2048, 2048)):
        a, b = torch.randn(shape[0], shape[1]), torch.randn(shape[1], shape[2])
        for i in range(13):
            start = time.perf_counter()
            torch.mm(a, b)
            if i >= 3:
                best = max(best, 2 * shape[0] * shape[1] * shape[2] / (time.perf_counter() - start))
    return best
