"""Settings that must stand before torch is imported; called by the command line and by the first verb used.

Two OpenMP threads that spin while they wait, beside one busy core, run ten times slower: waiting threads
sleep instead. Threads are counted by what this process may use (affinity and container quota), not by what
the machine has. Whatever the user set in the environment stays.
"""

from __future__ import annotations

import os
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


def prepare() -> None:
    """Set the thread environment; without effect on what is already set."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if cores() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
