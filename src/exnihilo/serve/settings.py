"""What a server obeys: where it listens, who may ask, and how much.

::

    settings = Settings(port=8000, api_keys=("secret",), slots=32)

Each value is checked when the settings are made; docs/serve.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from exnihilo.errors import UsageError, nearest

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_COUNTS = (
    "slots queue max_new_tokens max_n max_inputs body_bytes threads chunk".split()
)  # whole numbers, 1 or above
_SECONDS = ("timeout", "read_timeout", "write_timeout", "drain", "ready_after")


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        host, port: where it listens; loopback by default. Port 0: any free one.
        api_keys: of which a request must bring one, as ``Authorization: Bearer KEY``; empty: anyone.
        cors: origins (``https://example.org``) whose pages may ask; empty: none; ``*``: all.
        hosts: names that a request's Host header may have. Empty: on loopback only loopback's own names
            (so that a foreign page cannot reach the server through a name of its own), elsewhere any.
        slots: texts that a decoder writes at a time.
        queue: texts, or encoder examples, that may wait for a model; above it requests get 429.
        max_new_tokens: of one text; a request for more gets 400.
        max_n: texts of one request (prompts times n).
        max_inputs: texts of one request to an encoder.
        body_bytes: of a request.
        timeout: seconds that a request may take, its waiting included.
        read_timeout: seconds for a request's head to arrive, and as long again for its body.
        write_timeout: seconds that a reader may let a piece of the answer wait.
        drain: seconds that requests get to finish when the server is told to end.
        reload: seconds between looks for newer checkpoints; 0: only on SIGHUP.
        ready_after: seconds after which `/health/ready` has a token decoded anew.
        device: where models go: auto, cpu, cuda or mps.
        weights: float32, or int8: a quarter of the memory traffic, rounded (on CPUs).
        threads: of the CPU a decoder uses; None: what is measured to be fastest.
        chunk: tokens of prompts that are read beside each step.
        backend: what decodes: exnihilo, or llama.cpp on a GGUF file that was proven.
        page: whether the web page is served.
        log: a line a request on standard error.

    Raises:
        UsageError: a value that cannot be obeyed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    slots: int = 32
    queue: int = 256
    max_new_tokens: int = 2048
    max_n: int = 32
    max_inputs: int = 2048
    body_bytes: int = 2 << 20
    timeout: float = 300.0
    read_timeout: float = 30.0
    write_timeout: float = 30.0
    drain: float = 30.0
    reload: float = 5.0
    ready_after: float = 30.0
    device: str = "auto"
    weights: Literal["float32", "int8"] = "float32"
    threads: int | None = None
    chunk: int = 256
    backend: Literal["exnihilo", "llama.cpp"] = "exnihilo"
    page: bool = True
    log: bool = False

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if name == "threads" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise _bad(name, value, "a whole number, 1 or above")
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port < 65536:
            raise _bad("port", self.port, "a whole number from 0 to 65535")
        for name in (*_SECONDS, "reload"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and name not in ("reload", "drain")):
                raise _bad(name, value, "seconds, above 0" + " or 0" * (name in ("reload", "drain")))
        for name in ("api_keys", "cors", "hosts"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(x, str) and x.strip() == x != "" for x in value):
                raise _bad(name, "***" if name == "api_keys" else value, "a list of words, none empty")
            object.__setattr__(self, name, tuple(value))
        if not self.host:
            raise _bad("host", self.host, "an address or a name, such as 127.0.0.1")
        for name, known in (("weights", ("float32", "int8")), ("backend", ("exnihilo", "llama.cpp"))):
            if getattr(self, name) not in known:
                raise _bad(name, getattr(self, name), " or ".join(known))

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK or self.host.startswith("127.")

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names that a Host header may have; empty: any."""
        return self.hosts or ((*LOOPBACK, self.host) if self.local else ())


def of(given: Mapping[str, Any]) -> Settings:
    """Settings from names and values.

    Raises:
        UsageError: a name that there is not, with the nearest; a value that cannot be obeyed.

    >>> of({"slots": 4}).slots
    4
    """
    known = [entry.name for entry in fields(Settings)]
    for name in given:
        if name not in known:
            raise UsageError(
                f"serve takes no {name!r}", expected=nearest(name, known), next="exnihilo serve --help"
            )
    return Settings(**given)


def _bad(name: str, value: object, expected: str) -> UsageError:
    return UsageError(
        f"{name}={value!r}", expected=expected, next=f"exnihilo serve --help says more of {name}"
    )
