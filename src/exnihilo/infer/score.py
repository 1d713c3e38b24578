"""How likely a model finds given continuations, and which of several it would choose.

::

    log_likelihood(model, codec, "The fox lives in the", [" den.", " sea."])    # [-3.1, -7.9], nats
    choose(model, codec, [Probe("The fox lives in the", (" den.", " sea."), 0)]).accuracy

Prompt and continuation are encoded apart and joined as ids: text joined before encoding may merge across
the border, and then no count of tokens belongs to the continuation. So put the space where the codec puts
it, before a word.

Key: B rows, T positions, N continuation tokens of a batch, D model width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from exnihilo.errors import UsageError
from exnihilo.infer.decoder import Frozen
from exnihilo.infer.generate import Prompt, prompt_ids
from exnihilo.infer.interval import wilson
from exnihilo.kernels.linear_ce import token_logprobs

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

_BATCH_TOKENS = 4096  # of one forward, padding included


class Score(NamedTuple):
    """A continuation's log-probability in nats, with its length in tokens and UTF-8 bytes (0 if ids)."""

    logprob: float
    tokens: int
    bytes: int


class Probe(NamedTuple):
    """A choice between continuations of one prompt; `answer` is the index of the right one."""

    prompt: Prompt
    choices: Sequence[Prompt]
    answer: int


@dataclass(frozen=True)
class Choice:
    """What `choose` found.

    Attributes:
        accuracy: share of probes whose right continuation was the likeliest.
        low, high: its 95% Wilson interval.
        count: probes.
        chance: the accuracy of a blind guess.
        picks: the index chosen for each probe.
    """

    accuracy: float
    low: float
    high: float
    count: int
    chance: float
    picks: list[int]


def log_likelihood(
    model: Model, codec: Codec | None, prompt: Prompt, continuations: Sequence[Prompt]
) -> list[float]:
    """Summed log p(continuation | prompt) of each, in nats. BOS goes before a text prompt."""
    return [s.logprob for s in log_likelihoods(model, codec, [(prompt, c) for c in continuations])]


def log_likelihoods(model: Model, codec: Codec | None, pairs: Sequence[tuple[Prompt, Prompt]]) -> list[Score]:
    """`log_likelihood` of any (prompt, continuation) pairs, in batches of like length; one `Score` a pair,
    in order.

    Raises:
        UsageError: a continuation without tokens, or a pair longer than the context (with both counts).
    """
    rows, starts, sizes = [], [], []
    for number, (prompt, continuation) in enumerate(pairs):
        before, after = prompt_ids(codec, prompt), _ids(codec, continuation)
        if not before or not after:
            raise UsageError(
                f"pair {number}: {len(before)} prompt tokens and {len(after)} continuation tokens",
                expected="at least one of each",
                next='give ids that begin with BOS, or the text "", and a continuation that is not empty',
            )
        if len(before) + len(after) - 1 > model.config.context:
            raise UsageError(
                f"pair {number} has {len(before) + len(after)} tokens, "
                f"the model's context is {model.config.context}",
                expected=f"at most {model.config.context + 1} tokens, the last of which is only predicted",
                next="shorten the prompt",
            )
        rows.append([*before, *after])
        starts.append(len(before))
        sizes.append(len(continuation.encode("utf-8")) if isinstance(continuation, str) else 0)
    out: list[Score | None] = [None] * len(rows)
    frozen = Frozen(model)
    with frozen():
        for batch in _batches([len(r) for r in rows]):
            sums = _score(model, [rows[i] for i in batch], [starts[i] for i in batch])
            for i, total in zip(batch, sums, strict=True):
                out[i] = Score(total, len(rows[i]) - starts[i], sizes[i])
    return [s for s in out if s is not None]


def choose(
    model: Model,
    codec: Codec | None,
    probes: Sequence[Probe],
    by: Literal["sum", "token", "byte"] = "sum",
) -> Choice:
    """The share of probes whose right continuation the model finds likeliest.

    Args:
        probes: (prompt, choices, index of the right one).
        by: compare summed log-probabilities, or those per token or per byte, where choices differ in length.

    Raises:
        UsageError: no probes, a probe of fewer than two choices, an answer that is none of them.
    """
    if by not in ("sum", "token", "byte"):
        raise UsageError(f"by={by!r}", expected="sum, token or byte")
    if not probes:
        raise UsageError("no probes", expected="at least one")
    for number, (_, choices, answer) in enumerate(probes):
        if len(choices) < 2 or not 0 <= answer < len(choices):
            raise UsageError(
                f"probe {number}: answer {answer} of {len(choices)} choices",
                expected="two choices or more, and the index of the right one",
            )
    scores = iter(log_likelihoods(model, codec, [(p, c) for p, choices, _ in probes for c in choices]))
    picks = []
    for _, choices, _ in probes:
        values = [_value(next(scores), by) for _ in choices]
        picks.append(values.index(max(values)))
    right = sum(pick == answer for pick, (_, _, answer) in zip(picks, probes, strict=True))
    low, high = wilson(right, len(probes))
    chance = sum(1 / len(choices) for _, choices, _ in probes) / len(probes)
    return Choice(right / len(probes), low, high, len(probes), chance, picks)


def _value(score: Score, by: str) -> float:
    if by == "byte" and not score.bytes:
        raise UsageError("by='byte' with continuations given as ids", expected="texts", next="by='token'")
    return score.logprob / {"sum": 1, "token": score.tokens, "byte": score.bytes}[by]


def _ids(codec: Codec | None, continuation: Prompt) -> list[int]:
    if not isinstance(continuation, str):
        return [int(i) for i in continuation]
    if codec is None:
        raise UsageError("a text continuation without a codec", expected="ids", next="pass the codec")
    return codec.encode(continuation)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows that are read together: sorted by length, at most `_BATCH_TOKENS` padded positions."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > _BATCH_TOKENS:  # lengths[i] is the longest so far
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _score(model: Model, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[float]:
    """Summed log-probability of row[start:] for each row, right-padded: causal attention sees no pad."""
    device = next(model.parameters()).device
    longest = max(map(len, rows)) - 1
    inputs = torch.tensor([[*r[:-1], *[0] * (longest + 1 - len(r))] for r in rows], device=device)
    hidden_BTD = model({"tokens": inputs})
    row_N, at_N, target_N = [], [], []
    for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
        row_N += [b] * (len(row) - start)
        at_N += range(start - 1, len(row) - 1)
        target_N += row[start:]
    head: Any = model.heads["tokens"]
    index_N = torch.tensor(row_N, device=device)
    logp_N = token_logprobs(
        hidden_BTD[index_N, torch.tensor(at_N, device=device)],
        head.weight,
        torch.tensor(target_N, device=device),
        bias_V=head.bias,
    )
    return (
        torch.zeros(len(rows), dtype=torch.float64)
        .index_add_(0, index_N.cpu(), logp_N.cpu().double())
        .tolist()
    )
