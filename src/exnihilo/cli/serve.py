"""The verb `serve`: models over HTTP, with OpenAI's interface and a web page, until a signal ends it."""

from __future__ import annotations

import os
from pathlib import Path

from exnihilo.cli.actions import Figures, out
from exnihilo.cli.parse import Arguments, Option, Verb
from exnihilo.errors import UsageError

KEYS = "EXNIHILO_API_KEYS"


def serve(a: Arguments) -> Figures:
    """`exnihilo serve RUN [RUN...]`."""
    from exnihilo import api

    settings = {name: value for name, value in a.options.items() if name != "keys"}
    settings |= {name: tuple(settings[name]) for name in ("cors", "hosts") if name in settings}
    keys = _keys(a.options.get("keys"))
    if keys:
        settings["api_keys"] = keys
    page, log = "no_page" not in a.flags, "log" in a.flags

    def started(address: str) -> None:
        out(a, f"{address}/v1 answers as OpenAI's interface" + (f"; the page: {address}/" if page else ""))

    how = api.serve(a.positionals, page=page, log=log, started=started, **settings)
    return {**how, "broken": bool(how["cut"])}


def _keys(path: str | None) -> tuple[str, ...]:
    """Keys of a file (one a line), and of the environment; never of the command line, which others can
    read."""
    words = os.environ.get(KEYS, "").split(",")
    if path is not None:
        try:
            words += Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"keys={path} cannot be read: {error}",
                expected="a file with an API key a line",
                next="check keys=FILE",
            ) from error
    keys = tuple(word.strip() for word in words if word.strip())
    if path is not None and not keys:
        raise UsageError(
            f"keys={path} holds no key", expected="a file with an API key a line", next="write one into it"
        )
    return keys


VERB = Verb(
    "serve",
    "answer over HTTP: OpenAI's interface, encoder tasks, a web page",
    "exnihilo serve RUN [RUN...] [port=8000] [KEY=VALUE ...]",
    serve,
    positionals=("RUN",),
    required=1,
    endless=True,
    options={
        "host": Option("where to listen (127.0.0.1: this machine only)"),
        "port": Option("0 takes any free one (8000)", int, least=0, most=65535),
        "keys": Option(f"a file with an API key a line, of which a request must bring one; also ${KEYS}"),
        "cors": Option("an origin whose pages may ask, e.g. https://example.org; may be repeated", many=True),
        "hosts": Option("a name that may stand in the Host header; may be repeated", many=True),
        "slots": Option("texts that a model writes at a time (32)", int, least=1),
        "queue": Option("texts that may wait; above it requests get 429 (256)", int, least=1),
        "max_new_tokens": Option("of one text, at most (2048)", int, least=1),
        "max_n": Option("texts of one request, at most (32)", int, least=1),
        "max_inputs": Option("texts of one request to an encoder, at most (2048)", int, least=1),
        "body_bytes": Option("of a request, at most (2097152)", int, least=1),
        "timeout": Option("seconds that a request may take, waiting included (300)", float, least=0.001),
        "read_timeout": Option("seconds for a request to arrive (30)", float, least=0.001),
        "write_timeout": Option("seconds that a reader may let an answer wait (30)", float, least=0.001),
        "drain": Option("seconds for requests to finish at the end (30)", float, least=0),
        "reload": Option(
            "seconds between looks for newer checkpoints (5); 0: on SIGHUP alone", float, least=0
        ),
        "ready_after": Option("seconds after which readiness is tried anew (30)", float, least=0.001),
        "device": Option("auto, cpu, cuda or mps"),
        "weights": Option("int8: rounded, a quarter of the memory traffic", choices=("float32", "int8")),
        "threads": Option("of the CPU, for decoding (measured)", int, least=1),
        "chunk": Option("tokens of prompts read beside each step (256)", int, least=1),
        "backend": Option("what decodes", choices=("exnihilo", "llama.cpp")),
    },
    flags={
        "no_page": "without the web page",
        "log": "a line a request on standard error",
        "json": "the last line of standard output is one JSON object that says how it ended",
    },
    examples=(
        "exnihilo serve runs/chat",
        "exnihilo serve runs/chat runs/sentiment port=9000 slots=64 --log",
        "exnihilo serve runs/gpt/checkpoints/step-00000100 runs/gpt    # two checkpoints, side by side",
    ),
)
