"""Likelihoods against a literal transcription: one forward a token, softmax in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exnihilo import log
from exnihilo.codec.base import Codec
from exnihilo.errors import UsageError
from exnihilo.eval.likelihood import encode_pair, likelihoods, token_logprobs, windows
from exnihilo.model import Model


def literal(model: Model, seen: list[int], target: int) -> tuple[float, bool]:
    """log p(target | seen), and whether it is the likeliest."""
    with torch.no_grad():
        hidden = model({"tokens": torch.tensor([seen])})
        logits = model.heads["tokens"](hidden[0, -1]).double()  # type: ignore[operator]
    return float(logits.log_softmax(0)[target]), int(logits.argmax()) == target


def drawn(rng: np.random.Generator, vocabulary: int, count: int) -> list[int]:
    return rng.integers(5, vocabulary, count).tolist()


def test_rows_of_all_lengths_equal_one_forward_a_token(little: Model) -> None:
    rng, context = np.random.default_rng(0), little.config.context
    vocabulary = little.config.vocab_size or 0
    sizes = [
        (1, 1),
        (1, 7),
        (9, 3),
        (context, 1),
        (context + 20, 4),
        (30, 30),
        (1, 2 * context + 5),
        (7, context + 9),
    ]
    rows = [(drawn(rng, vocabulary, g), drawn(rng, vocabulary, p)) for g, p in sizes]
    shared = rows[2]
    rows.append((shared[0], [*shared[1][:-1], 5]))  # reads what the third row reads
    found = likelihoods(little, rows)
    tables = token_logprobs(little, rows)
    for (before, after), one, (logp_N, top_N) in zip(rows, found, tables, strict=True):
        ids, expected, greedy = [*before, *after], [], []
        # a row that fits, or whose continuation does, is one window; a longer one has windows of the context
        for n in range(len(before), len(ids)):
            if len(after) <= context:
                first = max(0, len(ids) - 1 - context)
            else:
                done = (n - len(before)) // context * context
                end = min(len(ids), len(before) + done + context)
                first = max(0, end - 1 - context)
            logp, top = literal(little, ids[first:n], ids[n])
            expected.append(logp)
            greedy.append(top)
        assert logp_N == pytest.approx(expected, abs=2e-4)
        assert top_N.tolist() == greedy
        assert one.logprob == pytest.approx(math.fsum(expected), abs=1e-2) and one.tokens == len(after)
        assert one.greedy == all(greedy) and one.cut == (len(ids) > context + 1)


def test_what_the_model_writes_is_greedy(little: Model, little_codec: Codec) -> None:
    from exnihilo.infer import generate

    [text] = generate(little, None, [[1, 50, 60]], temperature=0, max_new_tokens=6, eos=())
    [one, other] = likelihoods(little, [([1, 50, 60], text.ids), ([1, 50, 60], [*text.ids[:-1], 7])])
    assert one.greedy and one.logprob == pytest.approx(sum(text.logprobs), abs=1e-3)
    assert not other.greedy or text.ids[-1] == 7


@given(st.integers(1, 40), st.integers(1, 90), st.integers(2, 20), st.data())
def test_windows_predict_each_id_once(before: int, after: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(0, context))
    ids = list(range(before + after))
    found = windows(ids[:before], ids[before:], context, stride)
    told = [i for w in found for i in w.ids[len(w.ids) - w.predicted :]]
    assert told == ids[before:]
    for window in found:
        assert 1 <= window.predicted < len(window.ids) <= context + 1
        assert list(window.ids) == list(range(window.ids[0], window.ids[-1] + 1))
    if stride:
        for window in found[1:]:
            assert len(window.ids) - window.predicted > context - stride  # so much is seen before each


def test_pairs_are_cut_where_the_prompt_ends(little_codec: Codec) -> None:
    codec = little_codec
    for prompt, continuation in (
        ("The old fox", " lives"),
        ("The old fox ", "lives"),
        ("", "The"),
        ("x", "\n"),
    ):
        before, after = encode_pair(codec, prompt, continuation)
        assert before[0] == codec.bos_id
        assert codec.decode(before[1:]) + codec.decode(after) == prompt + continuation
    assert encode_pair(codec, "The old fox ", "lives") == encode_pair(codec, "The old fox", " lives")
    with pytest.raises(UsageError, match="no tokens"):
        encode_pair(codec, "The", "")


def test_nothing_given_or_predicted_is_refused(little: Model) -> None:
    with pytest.raises(UsageError, match="0 to be predicted"):
        likelihoods(little, [([1], [])])
    with pytest.raises(UsageError, match="0 ids given"):
        likelihoods(little, [([], [1])])
    with pytest.raises(UsageError, match="stride"):
        likelihoods(little, [([1], [1])], stride=1000)


def test_progress_adds_up_to_rows_or_tokens(little: Model) -> None:
    class Counted(log.Quiet):
        total = 0.0

        def advance(self, amount: float = 1) -> None:
            self.total += amount

    rows = [([1], [5] * n) for n in (1, 30, 300)]
    for by, expected in (("rows", 3), ("tokens", 331)):
        counted = Counted()
        token_logprobs(little, rows, progress=counted, by=by)  # type: ignore[arg-type]
        assert counted.total == expected
