"""Settings that must stand before torch is imported; called by the command line and by the first verb used.

Two OpenMP threads that spin while they wait, beside one busy core, run ten times slower: waiting threads
sleep instead. Threads are counted by what this process may use (affinity and container quota), not by what
the machine has. Whatever the user set in the environment stays.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path


def cores() -> int:
    """CPU cores this process may use: affinity, capped by the container's quota (cgroup v2 or v1)."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        count = os.cpu_count() or 1
    quota = _quota()
    return max(1, min(count, quota)) if quota else count


def _quota() -> int | None:
    def read(path: str) -> str:
        try:
            return Path(path).read_text().strip()
        except OSError:
            return ""

    both = read("/sys/fs/cgroup/cpu.max").split()
    if len(both) != 2:
        both = [read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")]
    try:
        quota, period = int(both[0]), int(both[1])
    except ValueError:  # "max", or no such file
        return None
    return max(1, -(-quota // period)) if quota > 0 and period > 0 else None


def quiet(seconds: float = 0.06) -> bool:
    """Whether nearly all cores are idle just now; False where the system does not say.

    Threads that sleep between two products lose a third of the speed of small models on a quiet machine;
    threads that spin lose more beside one busy core. So they spin briefly, and only where nobody is at work.
    """

    def ticks() -> tuple[int, int] | None:
        try:
            with open("/proc/stat") as file:
                numbers = [int(n) for n in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        return numbers[3] + numbers[4], sum(numbers)

    before = ticks()
    time.sleep(seconds)
    after = ticks()
    if before is None or after is None or after[1] <= before[1]:
        return False
    cores_busy = (1 - (after[0] - before[0]) / (after[1] - before[1])) * (os.cpu_count() or 1)
    return cores_busy < 0.5


def prepare() -> None:
    """Set the thread environment; without effect on what is already set."""
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        if quiet():
            os.environ["GOMP_SPINCOUNT"] = "2000"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if cores() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def keep_memory() -> None:
    """Let glibc keep freed memory for the next step instead of handing it back to the system.

    A training step frees and takes the same buffers again; given back, each page costs a fault when it is
    next touched: up to 65,000 faults a step, 1 to 5% of its time. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ctypes.c_int(-3), ctypes.c_int(1 << 30))  # M_MMAP_THRESHOLD: below, no mapping of its own
        mallopt(ctypes.c_int(-1), ctypes.c_int((1 << 31) - 1))  # M_TRIM_THRESHOLD: never trim the heap's top


def one_thread() -> None:
    """Let PyTorch's operations in the calling thread use this thread alone; others are not touched.

    A thread that prepares batches beside one that trains would else start a team of its own for each
    transform, as large as the trainer's: on two cores a step then takes twice as long. Elsewhere than with
    GNU OpenMP and MKL on Linux nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    import torch

    torch.get_num_threads()  # a thread takes the process's number when it first asks: that must lie behind
    symbols = ctypes.CDLL(torch._C.__file__)
    for name in ("omp_set_num_threads", "MKL_Set_Num_Threads_Local"):
        function = getattr(symbols, name, None)
        if function is not None:
            function(ctypes.c_int(1))
