"""The one contract of training that every objective goes through: sums over counts, whatever the layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo.codec import train as train_codec
from exnihilo.config import CodecConfig
from exnihilo.data import collate, packing
from exnihilo.model.model import Model
from exnihilo.nn.layout import Attention
from exnihilo.objective import draws, preludes
from exnihilo.objective._branches import token_logps
from exnihilo.objective.base import Item, Objective
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from tests.contract.conftest import Case

PAD = train_codec(CodecConfig(kind="waves"), ()).pad_id
LABELS = frozenset(
    {"targets", "label", "tag", "start", "end", "score", "mask"}
)  # columns that say what is learnt


def column(item: Item, name: str) -> np.ndarray:
    """A column of an item, a number of it at each of its tokens."""
    value = np.asarray(item[name])
    return value if value.ndim else np.full(len(np.asarray(item["tokens"])), value)


def lay_out(items: Sequence[Item], row: int, *, packed: bool) -> dict[str, np.ndarray]:
    """Rows of the items, without drawing: several a row, or each alone and padded."""
    lengths = np.array([len(np.asarray(i["tokens"])) for i in items], np.int64)
    if packed:
        plan = packing.plan(lengths, row, overlap=0, max_padding=1.0)
        pieces = [plan.pieces(r) for r in range(plan.rows)]
    else:
        pieces = [[(i, 0, int(n))] for i, n in enumerate(lengths)]
    return collate.of_items(pieces, items, row=row, pad_id=PAD)


class Memory:
    """Rows in memory, as `draw` looks at a data set."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns, self.rows = columns, len(columns["tokens"])

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v[np.asarray(rows)] for k, v in self.columns.items()}


def drawn(case: Case, step: int = 0) -> list[Item]:
    """The items as one step sees them: each drawn alone in its row, so that any layout holds the same."""
    objective, items = case.objective, case.items()
    data = Memory(lay_out(items, 128, packed=False))
    columns = draws.draw(objective, data, np.arange(len(items)), codec=case.codec, seed=1, step=step)
    sizes = (columns["doc"] >= 0).sum(1)
    kept = [k for k, v in columns.items() if k not in ("doc", "pos") and v.ndim > 1]
    return [{k: columns[k][i, : sizes[i]] for k in kept} for i in range(len(items))]


def tensors(columns: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in columns.items()}


def batch_of(objective: Objective, items: Sequence[Item], row: int, *, packed: bool) -> dict[str, Tensor]:
    """A batch of drawn items, with the columns that the objective reads."""
    columns = tensors(lay_out(items, row, packed=packed))
    return {k: v for k, v in columns.items() if k in objective.columns}


def loss_of(objective: Objective, model: Model, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """As the loop does it: counts over all micro-batches first, then sums divided once."""
    counts = [objective.counts(b) for b in batches]
    terms = [k for k in counts[0] if "@" not in k]
    total = {k: sum((c[k] for c in counts), torch.zeros(())) for k in terms}
    loss = torch.zeros((), dtype=torch.float64)
    known: dict[str, Tensor] = {}
    if objective.preludes:
        known = preludes.means(*preludes.add(model, objective, batches), "cpu")
    for batch in [{**b, **known} for b in batches]:
        sums = objective.sums(model, batch)
        for k in terms:
            loss = loss + objective.weights.get(k, 1.0) * sums[k] / total[k]
    return loss


def grads(objective: Objective, model: Model, batches: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    params = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss_of(objective, model, batches), params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


def alike(want: Sequence[Tensor], got: Sequence[Tensor], name: str = "", atol: float = 1e-10) -> None:
    for a, b in zip(want, got, strict=True):
        assert torch.isfinite(b).all()
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-8, msg=lambda m: f"{name}: {m}")


def test_encode_is_pure_and_its_columns_are_of_one_length(case: Case):
    objective = case.objective
    first, again = case.items(), case.items()
    assert len(first) >= len(case.examples) - 1  # nothing but "a" may have nothing to teach
    for a, b in zip(first, again, strict=True):
        assert a.keys() == b.keys() == first[0].keys()
        if objective.attention is Attention.FULL:
            assert len(np.asarray(a["tokens"])) <= case.length
        for key, value in a.items():
            assert np.array_equal(value, b[key], equal_nan=np.asarray(value).dtype.kind == "f")
            if isinstance(value, np.ndarray):
                assert len(value) == len(np.asarray(a["tokens"]))
    example = case.examples[2]
    alone, many = (
        objective.encode(example, case.codec),
        objective.encode_many([example], case.codec)[0],
    )
    for a, b in zip(alone if isinstance(alone, list) else [alone], many, strict=True):
        assert all(np.array_equal(a[k], b[k], equal_nan=np.asarray(a[k]).dtype.kind == "f") for k in a)


def test_draw_is_a_function_of_seed_step_and_row(case: Case):
    objective = case.objective
    data = Memory(lay_out(case.items(), 128, packed=True))
    ids = np.arange(data.rows)

    def at(rows: np.ndarray, step: int) -> dict[str, np.ndarray]:
        return draws.draw(objective, data, rows, codec=case.codec, seed=1, step=step)

    before = {k: v.copy() for k, v in data.columns.items()}
    whole = at(ids, 3)
    for k, v in data.columns.items():
        np.testing.assert_array_equal(v, before[k], err_msg=f"{k} was changed in place")
    for part in (ids[::-1], ids[:1], ids[-1:]):
        for k, v in at(part, 3).items():
            np.testing.assert_array_equal(v, whole[k][part], err_msg=k)
    for k, v in objective.draw(
        data.batch(ids[:0]), [], draws.Look(data.rows, ids[:0], data.batch, case.codec)
    ).items():
        assert len(v) == 0, k
    if draws.draws(objective) and objective.supervised is False:
        assert any(not np.array_equal(v, at(ids, 4)[k]) for k, v in whole.items())


def test_counts_and_sums_have_the_same_keys_and_columns_are_declared(case: Case):
    objective = case.objective
    batch = batch_of(objective, drawn(case), 128, packed=True)
    counts, sums = objective.counts(batch), objective.sums(case.model(), batch)
    assert counts.keys() == sums.keys() and any("@" not in k for k in counts)
    assert all(v.ndim == 0 and v.item() > 0 for v in counts.values())
    source = torch.arange(len(batch["tokens"])) % 2
    sliced = {**batch, "source": source} if "source" in objective.columns else batch
    counts, more = objective.counts(sliced), objective.sums(case.model(), sliced)
    assert counts.keys() == more.keys()
    for k, v in sums.items():
        slices = [more[f"{k}@{s}"] for s in (0, 1) if f"{k}@{s}" in more]
        if slices:
            torch.testing.assert_close(torch.stack(slices).sum(), v.detach())


def test_one_batch_equals_micro_batches_in_loss_and_gradient(case: Case):
    objective = case.objective
    model = case.model()
    batch = batch_of(objective, drawn(case), 128, packed=False)
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(len(batch["tokens"]))]
    torch.testing.assert_close(loss_of(objective, model, [batch]), loss_of(objective, model, rows))
    alike(grads(objective, model, [batch]), grads(objective, model, rows))


def test_alone_padded_packed_and_reordered_are_the_same(case: Case):
    objective = case.objective
    model, items = case.model(), drawn(case)
    want = grads(objective, model, [batch_of(objective, items, 128, packed=False)])
    assert any(bool(g.any()) for g in want)
    variants = {
        "packed": [batch_of(objective, items, 128, packed=True)],
        "reordered": [batch_of(objective, items[::-1], 128, packed=False)],
        "packed, reordered": [batch_of(objective, items[::-1], 120, packed=True)],
        "longer rows": [batch_of(objective, items, 129, packed=False)],
        "alone": [batch_of(objective, [i], len(np.asarray(i["tokens"])), packed=False) for i in items],
    }
    for name, batches in variants.items():
        alike(want, grads(objective, model, batches), name)


def test_rows_of_one_document_need_neither_doc_nor_pos(case: Case):
    objective = case.objective
    model, items = case.model(), drawn(case)
    for item in items[:4]:
        full = lay_out([item], len(np.asarray(item["tokens"])), packed=False)
        plain = {k: v for k, v in tensors(collate.simplify(full)).items() if k in objective.columns}
        whole = {k: v for k, v in tensors(full).items() if k in objective.columns}
        assert "doc" not in plain
        counts = objective.counts(plain)
        assert {k: float(v) for k, v in counts.items()} == {
            k: float(v) for k, v in objective.counts(whole).items()
        }
        for k, v in objective.sums(model, plain).items():
            torch.testing.assert_close(v, objective.sums(model, whole)[k], atol=1e-10, rtol=1e-8)


def test_padding_has_no_influence_whatever_it_holds(case: Case):
    objective = case.objective
    model = case.model()
    batch = batch_of(objective, drawn(case), 128, packed=False)
    chance = torch.Generator().manual_seed(0)
    noise = torch.randint(0, case.codec.vocab_size, batch["tokens"].shape, generator=chance)
    dirty = {**batch, "tokens": batch["tokens"].where(batch["doc"] >= 0, noise)}
    alike(grads(objective, model, [batch]), grads(objective, model, [dirty]), atol=1e-12)


def test_a_row_of_padding_alone_gives_zero_and_no_nan(case: Case):
    objective = case.objective
    model = case.model()
    batch = batch_of(objective, drawn(case), 128, packed=False)
    empty = {
        k: torch.full_like(v[:1], -1) if k == "doc" else torch.zeros_like(v[:1]) for k, v in batch.items()
    }
    both = {k: torch.cat((batch[k], empty[k])) for k in batch}
    alike(grads(objective, model, [batch]), grads(objective, model, [both]), atol=1e-12)
    for k, v in objective.sums(model, empty).items():
        assert float(v.detach()) == 0 == float(objective.counts(empty)[k]), k


def test_ignored_targets_give_zero_gradient(case: Case):
    objective = case.objective
    if not LABELS & objective.columns:
        pytest.skip("the data is the label: nothing but padding can be ignored")
    model = case.model()
    batch = batch_of(objective, drawn(case), 128, packed=True)
    ignored = {k: torch.full_like(v, IGNORE) if k in LABELS else v for k, v in batch.items()}
    sums, counts = objective.sums(model, ignored), objective.counts(ignored)
    for k, v in sums.items():
        if k.startswith("replaced"):
            continue  # whether a token was replaced is known without a label
        assert float(v.detach()) == 0 == float(counts[k]), k
        if v.requires_grad:
            found = torch.autograd.grad(v, list(model.parameters()), allow_unused=True, retain_graph=True)
            assert not any(bool(g.any()) for g in found if g is not None), k


def test_swapping_segments_changes_the_output(case: Case):
    objective = case.objective
    if "segment" not in objective.columns:
        pytest.skip("one segment")
    model = case.model()
    batch = batch_of(objective, drawn(case), 128, packed=True)
    swapped = {**batch, "segment": 1 - batch["segment"]}
    assert not torch.allclose(loss_of(objective, model, [batch]), loss_of(objective, model, [swapped]))
    assert any(
        not torch.allclose(a, b)
        for a, b in zip(grads(objective, model, [batch]), grads(objective, model, [swapped]), strict=True)
    )


def test_one_batch_can_be_overfitted(case: Case):
    objective = case.objective
    model = case.model().float().train()
    batch = batch_of(objective, drawn(case), 128, packed=True)
    batch = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def figure() -> float:
        """What falls: the loss; of rewards, whose loss is a gradient's only, minus what they should raise."""
        if objective.needs == "rollout":
            return -float((token_logps(model, batch) * batch["advantage"]).sum().detach())
        return loss_of(objective, model, [batch]).item()

    first = figure()
    for _ in range(120 if "generator" in objective.heads else 80):
        optimizer.zero_grad()
        loss_of(objective, model, [batch]).backward()
        optimizer.step()
        if objective.needs == "rollout" and figure() < first - 10:
            break  # what is driven away has no floor
    assert figure() < (first - 10 if objective.needs == "rollout" else first / 3)
