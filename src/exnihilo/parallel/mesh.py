"""The workers of a run, as torchrun starts them: one process a device, gloo on CPU, NCCL on GPU.

::

    world = World.start("auto")
    shares = world.gather({"tokens": 12})     # every worker's object, in the order of ranks
    path = world.first(make_folder)           # worker 0 does it, all get its result or its error

What crosses between workers beside tensors is JSON, never pickle. With one process nothing is sent.

Reference: https://docs.pytorch.org/docs/stable/elastic/run.html
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from exnihilo import errors
from exnihilo.errors import ConfigError, ExNihiloError

PATIENCE = timedelta(hours=24)  # worker 0 may prepare data for hours while the others wait


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that a configuration's name stands for; ``auto`` is CUDA, else MPS, else CPU.

    Raises:
        ConfigError: an unknown device, or one that this machine has not.
    """
    kind = name.split(":")[0]
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {name!r}", expected="auto, cpu, cuda, cuda:N or mps", next="device=auto")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not here:
        raise ConfigError(f"device {name!r} is not on this machine", expected="cpu", next="device=auto")
    device = torch.device(name)
    if kind == "cuda":
        index = device.index if device.index is not None else local_rank
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"device cuda:{index} of {torch.cuda.device_count()}",
                expected="fewer workers or another device",
            )
        return torch.device("cuda", index)
    return device


@dataclass
class World:
    """The workers of a run, seen from one of them."""

    rank: int
    size: int
    device: torch.device
    host: Any = None  # a gloo group for what is exchanged between processes' Python sides
    mesh: Any = None  # one-dimensional DeviceMesh over all workers

    @classmethod
    def start(cls, device: str = "auto") -> World:
        """Join the workers that torchrun started; alone where it did not."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        where = resolve_device(device, int(os.environ.get("LOCAL_RANK", "0")))
        if size == 1:
            return cls(0, 1, where)
        return cls(rank, size, where, *_join(where))

    @property
    def main(self) -> bool:
        """Whether this is worker 0, the only one that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every worker's JSON value, in the order of ranks."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([data.numel()]), group=self.host)
        longest = int(max(int(n) for n in lengths))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: data.numel()] = data
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.host)
        return [json.loads(bytes(p[: int(n)].tolist())) for p, n in zip(parts, lengths, strict=True)]

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over the workers, key by key (a worker may lack keys), always in the order of ranks."""
        out: dict[str, float] = {}
        for part in self.gather(dict(values)):
            for key, value in part.items():
                out[key] = out.get(key, 0.0) + value
        return dict(sorted(out.items()))

    def first(self, action: Callable[[], Any]) -> Any:
        """Worker 0 acts; all return its (JSON) result, or raise its error."""
        if self.size == 1:
            return action()
        answer: dict[str, Any] = {}
        failure: BaseException | None = None
        if self.main:
            try:
                answer = {"result": action()}
            except ExNihiloError as error:
                failure = error
                answer = {"error": [type(error).__name__, error.given, error.expected, error.next]}
            except Exception as error:  # told to the others, then raised here
                failure = error
                answer = {"error": ["ExNihiloError", f"{type(error).__name__}: {error}", "", ""]}
        answer = self.gather(answer)[0]
        if failure is not None:
            raise failure
        if "error" in answer:
            name, given, expected, next = answer["error"]
            raise getattr(errors, name, ExNihiloError)(given, expected=expected, next=next)
        return answer["result"]


@cache
def _join(device: torch.device) -> tuple[Any, Any]:
    """(host group, mesh), once a process: a group that is left cannot be joined again."""
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_leave)
    host = dist.new_group(backend="gloo", timeout=PATIENCE)
    return host, init_device_mesh(device.type, (dist.get_world_size(),))


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
