"""The verb `chat`: a conversation in the terminal, or of lines from standard input.

A reply streams as it is written. Ctrl-C stops a reply, which stays as far as it came; at the prompt it
leaves, as Ctrl-D does. What a model writes cannot steer the terminal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from exnihilo.cli.actions import Figures, out
from exnihilo.cli.parse import Arguments
from exnihilo.errors import UsageError

if TYPE_CHECKING:
    from exnihilo.infer.chat import Conversation

COMMANDS = {
    "/reset": "forget the conversation",
    "/system TEXT": "another system message; forgets the conversation",
    "/help": "these commands",
    "/exit": "leave (also Ctrl-D)",
}


def chat(a: Arguments) -> Figures:
    """`exnihilo chat RUN ["MESSAGE"]`."""
    from exnihilo import api

    run, message = a.positionals[0], a.positional(1)
    talk = api.chat(run, **a.options)
    if message is not None:
        _answer(a, talk, message)
    else:
        _turns(a, talk, run)
    return {"run": run, "messages": talk.messages, "finish_reason": talk.finish_reason}


def _turns(a: Arguments, talk: Conversation, run: str) -> None:
    """Messages until the input ends."""
    terminal = sys.stdin.isatty()
    if terminal:
        out(
            a,
            f"{run}: context {talk.model.config.context} tokens. /help lists commands; Ctrl-C stops a reply.",
        )
    while True:
        try:
            text = _line(a, terminal)
        except (EOFError, KeyboardInterrupt):  # at the prompt both mean: enough
            if terminal:
                out(a)
            return
        if not text.strip():
            continue
        if text.startswith("/"):
            if not _command(a, talk, text.strip()):
                return
            continue
        try:
            _answer(a, talk, text)
        except UsageError as error:  # one message that does not fit does not end the conversation
            print(f"error: {error}", file=sys.stderr)
            if not terminal:
                raise


def _line(a: Arguments, terminal: bool) -> str:
    """The next message, edited as a shell edits a line where there is a terminal."""
    if terminal and "json" not in a.flags:
        try:
            import readline  # noqa: F401  (makes input() edit and remember)
        except ImportError:  # not built into every Python: lines are then edited by the terminal alone
            pass
        return input("> ")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _answer(a: Arguments, talk: Conversation, text: str) -> None:
    """Prints a reply as it grows."""
    pieces = talk.say(text)
    try:
        for piece in pieces:
            out(a, piece, end="")
    except KeyboardInterrupt:
        pieces.close()
        out(a, " (stopped)", end="")
    out(a)
    if talk.finish_reason == "length":
        print("(the reply is cut: max_new_tokens, or the context is full)", file=sys.stderr)
    if talk.forgotten:
        print(f"(the oldest {talk.forgotten} messages no longer fit the context)", file=sys.stderr)


def _command(a: Arguments, talk: Conversation, text: str) -> bool:
    """Obeys a command; whether the conversation goes on."""
    name, _, rest = text.partition(" ")
    if name in ("/exit", "/quit"):
        return False
    if name == "/reset" and not rest:
        talk.reset()
        out(a, "(a new conversation)")
    elif name == "/system":
        talk.reset(rest.strip())
        out(a, "(a new conversation)" if rest.strip() else "(a new conversation, without a system message)")
    else:
        if name != "/help":
            out(a, f"{name} is no command; a message that begins with / is written with a space before it")
        for command, what in COMMANDS.items():
            out(a, f"{command:<14} {what}")
    return True
