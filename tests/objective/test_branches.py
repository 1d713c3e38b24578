"""Branches of one prompt: their layout, and that each is as if it stood in a row of its own.

Key: B rows, R tokens of a row, D model width
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from exnihilo.config import ModelConfig
from exnihilo.data import collate, packing
from exnihilo.errors import DataError
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.objective._branches import branch_sums, inputs, lay, runs, spread, token_logps

VOCAB = 60
IDS = st.lists(st.integers(0, VOCAB - 1), min_size=0, max_size=6)
PROMPTS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5)


def model(family: str, dropout: float = 0.0) -> Model:
    config = ModelConfig(
        family=family, depth=2, width=32, heads=4, vocab_size=VOCAB, context=64, dropout=dropout
    )
    return build(config, seed=1).double()


def rows(items: Sequence[dict], row: int | None = None) -> dict[str, Tensor]:
    """Items packed into rows; each alone without `row`."""
    lengths = np.array([len(i["tokens"]) for i in items])
    if row is None:
        pieces, row = [[(i, 0, int(n))] for i, n in enumerate(lengths)], int(lengths.max())
    else:
        plan = packing.plan(lengths, row, overlap=0, max_padding=1.0)
        pieces = [plan.pieces(r) for r in range(plan.rows)]
    columns = collate.of_items(pieces, items, row=row, pad_id=0)
    return {k: torch.from_numpy(v) for k, v in columns.items()}


def alone(net: Model, prompt: list[int], reply: list[int]) -> Tensor:
    """log p of each token of a reply, by a row that holds nothing else and all logits."""
    tokens = torch.tensor([prompt + reply])
    logits = net.heads["tokens"].logits(net({"tokens": tokens[:, :-1]}))
    found = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[0, :, 0]
    return found[len(prompt) - 1 :]


def groups(seed: int, count: int, longest: int) -> list[tuple[list[int], list[list[int]]]]:
    g = np.random.default_rng(seed)

    def ids(n: int) -> list[int]:
        return g.integers(0, VOCAB, n).tolist()

    return [
        (
            ids(int(g.integers(1, longest))),
            [ids(int(g.integers(1, longest))) for _ in range(g.integers(1, 4))],
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize(("longest", "row"), [(9, None), (9, 60), (30, 200), (30, 450)])
def test_a_shared_stem_equals_separate_rows(family: str, longest: int, row: int | None) -> None:
    net, made = model(family), groups(3, 5 if row is None else 12, longest)
    batch = rows([lay(p, rs) for p, rs in made], row)
    weight = torch.randn(sum(len(rs) for _, rs in made), generator=torch.Generator().manual_seed(0)).double()
    found = branch_sums(token_logps(net, batch), batch)
    # packing reorders pieces: each branch is known again by its tokens
    told = {
        tuple(batch["tokens"].flatten()[(runs(batch).index_BR == m).flatten()].tolist()[1:]): m
        for m in range(len(found.sums_M))
    }
    order = [told[tuple(r)] for _, rs in made for r in rs]
    want = torch.stack([alone(net, p, r).sum() for p, rs in made for r in rs])
    torch.testing.assert_close(found.sums_M[order], want, rtol=1e-9, atol=1e-9)
    assert found.counts_M[order].tolist() == [len(r) for _, rs in made for r in rs]
    params = [p for p in net.parameters()]
    got = torch.autograd.grad((found.sums_M[order] * weight).sum(), params, allow_unused=True)
    expected = torch.autograd.grad((want * weight).sum(), params, allow_unused=True)
    for a, b, p in zip(got, expected, params, strict=True):
        a, b = (torch.zeros_like(p) if x is None else x for x in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_masked_tokens_are_read_and_not_counted() -> None:
    net = model("qwen3")
    prompt, reply = [1, 2, 3], [4, 5, 6, 7]
    batch = rows([lay(prompt, [reply, reply], masks=[[1, 0, 0, 1], [0, 0, 0, 0]])])
    logp, entropy = token_logps(net, batch, temperature=0.5, entropy=True)
    tokens = torch.tensor([prompt + reply])
    logits = net.heads["tokens"].logits(net({"tokens": tokens[:, :-1]}))[0, 2:] / 0.5
    whole = logits.log_softmax(-1)
    first = int((batch["mask"][0] > 0).nonzero()[0])
    torch.testing.assert_close(logp[0, first], whole[0, 4])
    torch.testing.assert_close(entropy[0, first], -(whole[0].exp() * whole[0]).sum())
    assert (logp[batch["mask"] == 0] == 0).all() and not entropy.requires_grad
    found = branch_sums(logp, batch)
    assert found.counts_M.tolist() == [2, 0] and float(found.sums_M[1].detach()) == 0
    torch.testing.assert_close(found.sums_M[0], whole[0, 4] + whole[3, 7])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PROMPTS, st.lists(IDS, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_layout_and_sums_are_what_they_say(made: list[tuple[list[int], list[list[int]]]]) -> None:
    items = [lay(p, rs) for p, rs in made]
    for (prompt, replies), item in zip(made, items, strict=True):
        tokens, branch = np.asarray(item["tokens"]), np.asarray(item["branch"])
        position = np.arange(len(tokens)) - np.asarray(item["back"])
        for number, reply in enumerate(replies, 1):
            seen = (branch == 0) | (branch == number)
            assert tokens[seen].tolist() == prompt + reply
            assert position[seen].tolist() == list(range(len(prompt) + len(reply)))
            assert np.asarray(item["mask"])[branch == number].tolist() == [0] + [1] * len(reply)
        marks = spread([[float(i) for i in r] for r in replies], len(prompt))
        assert len(marks) == len(tokens)
        assert (marks == np.where(np.asarray(item["mask"]) > 0, tokens, 0)).all()
    if not all(len(np.asarray(i["tokens"])) for i in items):
        return
    batch = rows(items)
    values = torch.randn(
        batch["tokens"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    found = branch_sums(values, batch)
    at = 0
    for b, (_, replies) in enumerate(made):
        for number, reply in enumerate(replies, 1):
            mine = (batch["branch"][b] == number) & (batch["doc"][b] >= 0)
            torch.testing.assert_close(found.sums_M[at], values[b][mine & (batch["mask"][b] > 0)].sum())
            assert int(found.counts_M[at]) == len(reply) and int(found.number_M[at]) == number
            assert int(found.piece_M[at]) == b
            assert int(found.last_M[at]) == b * values.shape[1] + int(mine.nonzero()[-1])
            at += 1
    assert at == len(found.sums_M)


def test_rows_without_doc_and_pos_are_one_piece() -> None:
    item = lay([1, 2, 3], [[4, 5], [6, 7, 8]])
    whole = rows([item])
    plain = {k: v for k, v in whole.items() if k not in ("doc", "pos")}
    for a, b in zip(branch_sums(torch.ones(1, 9), plain), branch_sums(torch.ones(1, 9), whole), strict=True):
        assert a.tolist() == b.tolist()
    assert inputs(plain)["pos"].tolist() == inputs(whole)["pos"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]


def test_what_cannot_be_laid_out_is_refused() -> None:
    for bad in (([], [[1]]), ([1], [])):
        with pytest.raises(DataError, match="at least one of each"):
            lay(*bad)
    with pytest.raises(DataError, match="mask"):
        lay([1], [[1, 2]], masks=[[1]])
