"""Environments: what answers a model that calls tools, and how their answers become a part of a rollout.

::

    environment = create("calculator")
    environment.reply([{"role": "user", "content": "..."},
                       {"role": "assistant", "content": "<calculator>12 * 7</calculator>"}])
    # {"role": "tool", "content": "84"}; None where the last message calls nothing: the episode is over

A model calls a tool at the end of its message, in one of two ways::

    <calculator>12 * 7</calculator>
    <tool_call>{"name": "calculator", "arguments": {"expression": "12 * 7"}}</tool_call>

`converse` plays episodes: it goes on from the ids that were drawn, never from their text, and puts the
tool's turn behind them as ids (tokens in, tokens out). What the tool said has mask 0: nobody is trained on
it. A call that cannot be answered gets an error as its answer, from which the model can learn; it never
ends a run.

One's own environment is a subclass in a file, ``environment=my.py:Shop``: trusted, and run in this process.

Format of the second way: Hermes function calling, as Qwen's chat models use it.
Key: no tensors
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from exnihilo.codec.chat import END
from exnihilo.errors import UsageError, nearest

if TYPE_CHECKING:
    from exnihilo.codec.chat import Chat

Message = Mapping[str, Any]
Tool = Callable[[Mapping[str, Any]], str]
"""Arguments of a call to its answer; raises ValueError with what is wrong with them."""

LONGEST = 2000  # characters of a tool's answer
_CALL = re.compile(r"<tool_call>\s*(\{.*\})\s*</tool_call>\s*\Z", re.DOTALL)
_SHORT = re.compile(r"<([A-Za-z_]\w*)>([^<>]*)</\1>\s*\Z")


class Environment:
    """Tools by name, and what they answer. Subclasses give `tools`; one without tools overrides `reply`.

    Attributes:
        tools: name -> function of the call's arguments.
        shorthand: name -> the one argument that ``<name>...</name>`` gives.
        turns: answers that an episode has at most.
    """

    tools: Mapping[str, Tool] = {}
    shorthand: Mapping[str, str] = {}
    turns: ClassVar[int] = 4

    def reply(self, messages: Sequence[Message]) -> dict[str, str] | None:
        """The tool's message to the last assistant message; None where it calls nothing.

        Args:
            messages: of the episode so far, the task's prompt first.
        """
        if not messages or messages[-1]["role"] != "assistant":
            return None
        found = call(str(messages[-1]["content"]), self.shorthand)
        if found is None:
            return None
        name, arguments = found
        return {"role": "tool", "content": self._answer(name, arguments)[:LONGEST]}

    def _answer(self, name: str, arguments: Mapping[str, Any] | str) -> str:
        if isinstance(arguments, str):
            return f"error: {arguments}"
        tool = self.tools.get(name)
        if tool is None:
            return f"error: there is no tool {name!r:.40}; there is: {', '.join(sorted(self.tools))}"
        try:
            return tool(arguments)
        except (ValueError, ArithmeticError, KeyError, TypeError) as error:
            told = " ".join(str(error).split()) or type(error).__name__
            return f"error: {told}"


def call(text: str, shorthand: Mapping[str, str]) -> tuple[str, Mapping[str, Any] | str] | None:
    """(name, arguments) of the call that a message ends with; arguments are a text where they are wrong.

    >>> call("So <calculator>3 + 4</calculator>", {"calculator": "expression"})
    ('calculator', {'expression': '3 + 4'})
    """
    short = _SHORT.search(text)
    if short is not None and short[1] in shorthand:
        return short[1], {shorthand[short[1]]: short[2].strip()}
    begun = text.rfind("<tool_call>")
    found = _CALL.match(text, begun) if begun >= 0 else None
    if found is None:
        return None
    try:
        said = json.loads(found[1])
    except (ValueError, RecursionError) as error:
        return "", f"the call is no JSON: {error}"
    name, arguments = said.get("name"), said.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return "", 'a call is {"name": text, "arguments": object}'
    return name, arguments


# the calculator -----------------------------------------------------------------------------------------


class Calculator(Environment):
    """One tool, ``calculator``: + - * / and parentheses on numbers, exactly. Nothing is run."""

    def __init__(self) -> None:
        self.tools = {"calculator": _calculate}
        self.shorthand = {"calculator": "expression"}


def _calculate(arguments: Mapping[str, Any]) -> str:
    text = arguments.get("expression")
    if not isinstance(text, str):
        raise ValueError('calculator takes {"expression": text}')
    return written(value_of(text))


def value_of(text: str) -> Fraction:
    """The value of an expression of numbers, + - * / and parentheses.

    Raises:
        ValueError: it is none. ZeroDivisionError: it divides by 0.

    >>> value_of("(1.5 + 2) * 2")
    Fraction(7, 1)
    """
    text = text.replace("×", "*").replace("÷", "/").replace("−", "-").strip()
    if not text or len(text) > 200 or not re.fullmatch(r"[\d+\-*/(). ]+", text, re.ASCII):
        raise ValueError("an expression of numbers, + - * / and ( ), at most 200 characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text:.40} is no expression") from error
    return _value(tree, text)


def _value(node: ast.AST, text: str) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(ast.get_source_segment(text, node) or "0")  # 0.1 as it is written
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _value(node.operand, text)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, text), _value(node.right, text)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            if right == 0:
                raise ZeroDivisionError("division by 0")
            return left / right
    raise ValueError("only + - * / and ( )")


def written(value: Fraction) -> str:
    """A value as a calculator shows it: whole numbers as such, others with up to ten decimals.

    >>> written(Fraction(84)), written(Fraction(7, 2)), written(Fraction(-1, 3))
    ('84', '3.5', '-0.3333333333')
    """
    if value.denominator == 1:
        return str(value.numerator)
    digits = round(abs(value) * 10**10)
    whole, rest = divmod(digits, 10**10)
    text = f"{whole}.{rest:010d}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 and digits else text


_KNOWN: dict[str, Callable[[], Environment]] = {"calculator": Calculator}


def names() -> tuple[str, ...]:
    """The built-in environments."""
    return tuple(sorted(_KNOWN))


def create(spec: str) -> Environment:
    """An environment by name, or ``FILE.py:CLASS``.

    Raises:
        UsageError: there is none of that name, or the file has no such class.

    >>> type(create("calculator")).__name__
    'Calculator'
    """
    path, colon, name = spec.rpartition(":")
    if colon and path.endswith(".py"):
        return _own(path, name)
    if spec not in _KNOWN:
        raise UsageError(
            f"environment {spec!r}", expected=nearest(spec, _KNOWN), next="one's own is FILE.py:CLASS"
        )
    return _KNOWN[spec]()


def _own(path: str, name: str) -> Environment:
    if not Path(path).is_file():
        raise UsageError(f"environment {path}:{name}: there is no file {path}", expected="FILE.py:CLASS")
    spec = importlib.util.spec_from_file_location("exnihilo_own_environment", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, name)()
    except Exception as error:  # whatever a user's file raises while it is imported
        raise UsageError(
            f"environment {path}:{name}: {type(error).__name__}: {error}",
            expected="a class that takes nothing",
        ) from error
    if not callable(getattr(made, "reply", None)):
        raise UsageError(f"environment {path}:{name} has no reply(messages)", expected="an Environment")
    return made


# episodes -----------------------------------------------------------------------------------------------


class Drawn(Protocol):
    """What a sampler gives: ids with the stop token, the log-probability of each, and why it ended."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def reason(self) -> str: ...


@dataclass(frozen=True)
class Episode:
    """A completion of several turns; it has what a completion of one turn has.

    Attributes:
        ids: all behind the prompt: what the model drew, the tools' turns, the headers between them.
        mask: 1 where the model drew the token, else 0.
        logprobs: the sampler's; 0 where mask is 0.
        reason: "eos", or "length" where a limit ended it.
        text: the last assistant message: what is graded.
        messages: the turns behind the prompt.
        calls: answers that tools gave.
    """

    ids: list[int]
    mask: list[int]
    logprobs: list[float]
    reason: str
    text: str
    messages: tuple[Message, ...]
    calls: int


More = Callable[[Sequence[int], Sequence[Sequence[int]], Sequence[int], int], Sequence[Drawn]]
"""(numbers of the episodes, ids to go on from, new tokens at most of each, turn) -> one `Drawn` each."""


def converse(
    environment: Environment,
    chat: Chat,
    tasks: Sequence[Sequence[Message]],
    prompts: Sequence[Sequence[int]],
    first: Sequence[Drawn],
    more: More,
    *,
    max_new_tokens: int,
    context: int,
) -> list[Episode]:
    """Play episodes to their end, all of them a turn at a time.

    Args:
        environment: answers the calls.
        chat: of the model's codec.
        tasks: the messages of each episode's prompt (repeat them for each completion).
        prompts: their ids.
        first: what the model said to them.
        more: draws the next turn of those that go on.
        max_new_tokens: that the model draws in an episode, over all its turns.
        context: positions of the model; a turn of a tool that leaves no room ends the episode ("length").

    Returns:
        One `Episode` a prompt, in order.
    """
    open_ones = [_Open(t, p, d, chat) for t, p, d in zip(tasks, prompts, first, strict=True)]
    for turn in range(1, environment.turns + 1):
        going = [i for i, one in enumerate(open_ones) if one.goes_on(environment, max_new_tokens, context)]
        if not going:
            break
        starts = [[*open_ones[i].prompt, *open_ones[i].ids] for i in going]
        left = [max_new_tokens - sum(open_ones[i].mask) for i in going]
        for i, drawn in zip(going, more(going, starts, left, turn), strict=True):
            open_ones[i].said(drawn)
    return [one.episode() for one in open_ones]


class _Open:
    """An episode that is being played."""

    def __init__(self, task: Sequence[Message], prompt: Sequence[int], first: Drawn, chat: Chat) -> None:
        self.chat, self.task, self.prompt = chat, list(task), list(prompt)
        self.end = chat.codec.token_id(END)
        self.turns: list[Message] = []
        self.ids: list[int] = []
        self.mask: list[int] = []
        self.logprobs: list[float] = []
        self.calls, self.reason, self.text = 0, "eos", ""
        self.said(first)

    def said(self, drawn: Drawn) -> None:
        """Add what the model drew."""
        self.ids += drawn.ids
        self.mask += [1] * len(drawn.ids)
        self.logprobs += drawn.logprobs
        self.reason, self.text = drawn.reason, self.chat.reply(drawn.ids)
        self.turns.append({"role": "assistant", "content": self.text})

    def goes_on(self, environment: Environment, most: int, context: int) -> bool:
        """Ask the environment, and put its answer behind; False where the episode is over."""
        if (
            self.reason == "length"
            or not self.ids
            or self.ids[-1] != self.end
            or self.turns[-1]["role"] == "tool"
        ):
            return False
        answer = environment.reply([*self.task, *self.turns])
        if answer is None:
            return False
        behind = tool_turn(self.chat, answer)
        if sum(self.mask) >= most or len(self.prompt) + len(self.ids) + len(behind) >= context:
            self.reason = "length"  # it was called, and there is no room to go on
            return False
        self.turns.append(answer)
        self.calls += 1
        self.ids += behind
        self.mask += [0] * len(behind)
        self.logprobs += [0.0] * len(behind)
        return True

    def episode(self) -> Episode:
        return Episode(
            self.ids, self.mask, self.logprobs, self.reason, self.text, tuple(self.turns), self.calls
        )


def tool_turn(chat: Chat, message: Message) -> list[int]:
    """Ids behind an assistant's terminator: the line break, the tool's turn, and the next reply's header."""
    begin = len(chat.render([]).ids)
    return [*chat.codec.encode("\n"), *chat.prompt([message])[begin:]]
