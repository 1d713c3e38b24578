"""Compiles one grammar in a process of its own, so that one that crashes or never ends harms nobody else.

Run by structure.py as a script, without the rest of the package; reads a JSON object from standard input::

    {"grammar": "...", "specials": ["<|eos|>"], "seconds": 10, "bytes": 2000000000, "limits": {...}}

and writes what is wrong with the grammar, or nothing, to standard output.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

STACK = 2 << 20  # bytes: less than any thread that compiles the grammar afterwards has


class Tokens:
    """256 bytes, and the special tokens by their names."""

    bos_token_id = None

    def __init__(self, specials: list[str]) -> None:
        names = specials or ["<|end|>"]
        self.tokens = [*(bytes([i]) for i in range(256)), *(s.encode() for s in names)]
        self.special_token_ids = list(range(256, len(self.tokens)))
        self.eos_token_id = 256

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def check(asked: dict[str, Any]) -> str:
    """What is wrong with a grammar; empty: nothing."""
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

    tokenizer = LLTokenizer(TokenizerWrapper(Tokens(asked["specials"])), slices=[])
    limits = LLParserLimits(**asked["limits"])
    matcher = LLMatcher(tokenizer, asked["grammar"], log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error()


def bounded(seconds: int, room: int) -> None:
    """Let the system end this process when it takes too much."""
    try:
        import resource
    except ImportError:  # not POSIX: the parent's clock is left
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (room, room))


def main() -> None:
    """Check what standard input says."""
    asked = json.loads(sys.stdin.read())
    bounded(asked["seconds"], asked["bytes"])
    found: list[str] = []
    threading.stack_size(STACK)
    thread = threading.Thread(target=lambda: found.append(check(asked)))
    thread.start()
    thread.join()
    sys.stdout.write(found[0] if found else "it cannot be compiled")


if __name__ == "__main__":
    main()
