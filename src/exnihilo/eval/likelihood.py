"""How likely a model finds texts behind others, of any length: what suites and the harness adapter rest on.

::

    rows = [encode_pair(codec, "The fox lives in the", " den.")]
    likelihoods(model, rows)[0]             # Likelihood(logprob=-3.1, greedy=False, tokens=2, cut=False)

Prompt and continuation are cut as lm-evaluation-harness cuts them: the whole text is encoded, and what is
behind the prompt's own ids is the continuation; white space at the end of a prompt belongs to the
continuation. So the figures are those that the harness gives. (`infer.score` encodes the two apart.)

What is longer than the context is read in windows: a row keeps its end, and a continuation that is longer
than the context itself is predicted part by part, each token once.

Reference: https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/api/model.py.

Key: B rows, T positions, N predicted tokens, C a chunk of them, D model width, V vocabulary
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from exnihilo import log
from exnihilo.errors import UsageError
from exnihilo.infer.decoder import Frozen

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

Row = tuple[Sequence[int], Sequence[int]]
"""(ids that are given, ids that are predicted); both at least one."""

BATCH_TOKENS = 8192  # of one forward, padding included
_LOGITS = 1 << 23  # numbers of logits that are held at a time


class Likelihood(NamedTuple):
    """What a model makes of a continuation.

    Attributes:
        logprob: summed, in nats.
        greedy: each of its tokens is the likeliest one at its place.
        tokens: how many it has.
        cut: the beginning of what is given did not fit the context.
    """

    logprob: float
    greedy: bool
    tokens: int
    cut: bool


class Window(NamedTuple):
    """One forward's part of a row: the model reads ids[:-1] and predicts the last `predicted` of ids."""

    ids: tuple[int, ...]
    predicted: int


def encode_pair(codec: Codec, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """([BOS] + ids of the prompt, ids of the continuation), cut as the harness does.

    Where the two merge so that nothing is left of the continuation, it is encoded alone.

    Raises:
        UsageError: an empty continuation.
    """
    text = prompt.rstrip()
    continuation = prompt[len(text) :] + continuation
    before, whole = codec.encode_batch([text, text + continuation])
    after = whole[len(before) :] or codec.encode(continuation)
    if not after:
        raise UsageError(f"the continuation {continuation!r} has no tokens", expected="text")
    return [codec.bos_id, *before], after


def windows(given: Sequence[int], predicted: Sequence[int], context: int, stride: int = 0) -> list[Window]:
    """Windows of at most context + 1 ids in which each predicted id is predicted once.

    Args:
        context: positions of the model.
        stride: ids that a window predicts, but for the first; so each has at least context - stride ids
            before it. 0: as many as fit.

    >>> [w.predicted for w in windows([1], [5, 6, 7, 8, 9], context=2)]
    [2, 2, 1]
    """
    ids, start = [*given, *predicted], len(given)
    if not given or not predicted:
        raise UsageError(
            f"{len(given)} ids given and {len(predicted)} to be predicted", expected="at least one of each"
        )
    if not 0 <= stride <= context:
        raise UsageError(f"stride={stride}", expected=f"0 to the model's context of {context}")
    out: list[Window] = []
    end = len(ids) if len(predicted) <= context else start + context
    done = start
    while True:
        part = tuple(ids[max(0, end - context - 1) : end])
        out.append(Window(part, end - done))
        if end >= len(ids):
            return out
        done, end = end, min(len(ids), end + (stride or context))


def likelihoods(
    model: Model, rows: Sequence[Row], *, stride: int = 0, progress: log.Progress | None = None
) -> list[Likelihood]:
    """The likelihood of each row's predicted ids, in order.

    Args:
        model: a decoder, any mode; used without gradients.
        rows: (given, predicted) ids, see `encode_pair`. Rows that share all they read share a forward.
        stride: see `windows`.
        progress: is told of each row.

    Raises:
        UsageError: a row without anything given or predicted, or a stride that cannot be.
    """
    tables = token_logprobs(model, rows, stride=stride, progress=progress)
    context = model.config.context
    return [
        Likelihood(
            float(np.sum(logp_N, dtype=np.float64)),
            bool(top_N.all()),
            len(logp_N),
            len(given) + len(predicted) > context + 1,
        )
        for (given, predicted), (logp_N, top_N) in zip(rows, tables, strict=True)
    ]


def token_logprobs(
    model: Model,
    rows: Sequence[Row],
    *,
    stride: int = 0,
    progress: log.Progress | None = None,
    by: Literal["rows", "tokens"] = "rows",
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each row: log-probabilities of its predicted ids, float32 (N,), and whether each was the likeliest.

    Arguments and errors as for `likelihoods`. by: what `progress` is told of, rows or predicted tokens.
    """
    context = model.config.context
    wanted: dict[tuple[int, ...], list[tuple[int, int, Window]]] = defaultdict(list)
    for number, (given, predicted) in enumerate(rows):
        for order, window in enumerate(windows(given, predicted, context, stride)):
            wanted[window.ids[:-1]].append((number, order, window))  # the last id is only predicted
    found: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = defaultdict(dict)
    left = [len(windows(given, predicted, context, stride)) for given, predicted in rows]
    frozen = Frozen(model)
    with frozen():
        for batch in _batches(list(wanted)):
            asked = [(b, one) for b, read in enumerate(batch) for one in wanted[read]]
            tables = _forward(model, batch, [(b, window) for b, (_, _, window) in asked])
            done = 0
            for (_, (number, order, window)), table in zip(asked, tables, strict=True):
                found[number][order] = table
                left[number] -= 1
                done += window.predicted if by == "tokens" else not left[number]
            if progress is not None:
                progress.advance(done)
    return [
        tuple(np.concatenate(column) for column in zip(*(found[n][o] for o in sorted(found[n])), strict=True))  # type: ignore[misc]
        for n in range(len(rows))
    ]


def _batches(reads: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """What is read together: sorted by length, the longest first: memory runs out at once or never."""
    batch: list[tuple[int, ...]] = []
    for read in sorted(reads, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(read)
    if batch:
        yield batch


def _forward(
    model: Model, reads: list[tuple[int, ...]], asked: list[tuple[int, Window]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probability and rank of the predicted ids of each (row of `reads`, window)."""
    device = next(model.parameters()).device
    longest = len(reads[0])
    tokens_BT = torch.tensor([[*r, *[0] * (longest - len(r))] for r in reads], device=device)
    hidden_BTD = model({"tokens": tokens_BT})  # right-padded: causal attention sees no pad
    head: Any = model.heads["tokens"]
    row_N: list[int] = []
    at_N: list[int] = []
    target_N: list[int] = []
    for b, window in asked:
        last = len(window.ids) - 1
        row_N += [b] * window.predicted
        at_N += range(last - window.predicted, last)
        target_N += window.ids[-window.predicted :]
    logps, tops = [], []
    size = max(1, _LOGITS // head.weight.shape[0])
    for n in range(0, len(row_N), size):
        part = slice(n, n + size)
        hidden_CD = hidden_BTD[torch.tensor(row_N[part]), torch.tensor(at_N[part])]
        logits_CV = (hidden_CD @ head.weight.T).float()
        if head.bias is not None:
            logits_CV += head.bias
        target_C = torch.tensor(target_N[part], device=device)
        chosen_C = logits_CV.gather(1, target_C[:, None])[:, 0]
        logps.append((chosen_C - logits_CV.logsumexp(1)).cpu())
        tops.append((logits_CV.argmax(1) == target_C).cpu())
    logp_N, top_N = torch.cat(logps).numpy(), torch.cat(tops).numpy()
    ends = np.cumsum([window.predicted for _, window in asked])[:-1]
    return list(zip(np.split(logp_N, ends), np.split(top_N, ends), strict=True))
