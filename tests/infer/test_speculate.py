"""Speculation changes the time and nothing else; the likeliest ids are those of a forward."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from exnihilo.errors import UsageError
from exnihilo.infer import Sampling, native
from exnihilo.infer.engine import Engine
from exnihilo.infer.request import Request
from exnihilo.infer.speculate import Lookup, Speculator, Trial
from exnihilo.model import Model

PROMPTS = [[1, 5, 9, 40], [1], [1, 7, 8, 7, 8, 7, 8, 7], [1, *range(20, 50)]]
SAMPLINGS = [
    Sampling(temperature=0),
    Sampling(temperature=0.3),
    Sampling(0.9, top_k=12, top_p=0.9),
    Sampling(0.5, repetition_penalty=1.2, frequency_penalty=0.1, logit_bias={3: 2.0}),
]


@pytest.fixture(params=["native", "torch"])
def path(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and isinstance(why := native.library(), str):
        pytest.skip(why)
    return request.param


class Always(Trial):
    """No measuring: always with guesses."""

    def begin(self) -> bool:
        return True


def near(model: Model, make_model, scale: float) -> Model:
    """A model like another one: its draft."""
    other = make_model("qwen3", context=model.config.context)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale)
    return other


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "warm", "filtered", "penalised"])
@pytest.mark.parametrize("how", ["lookup", "near", "far", "same"])
def test_texts_are_those_without_speculation(make_model, path, sampling, how):
    """To the last bit natively: also log-probabilities, ends by stop ids, and the likeliest ids."""
    if path == "torch" and (how not in ("lookup", "near") or sampling.temperature == 0.3):
        pytest.skip("nothing that the others do not show")
    model = make_model("qwen3", context=96)
    asked = [
        Request(ids, 40 if path == "native" else 20, sampling, n=2, seed=3, number=10 * i, top=2 * (i % 2))
        for i, ids in enumerate(PROMPTS)
    ]
    guess = {"near": 0.01, "far": 0.3, "same": 0.0}
    draft = "lookup" if how == "lookup" else near(model, make_model, guess[how])
    plain = Engine(model, slots=3, path=path, eos={2, 11})  # type: ignore[arg-type]
    fast = Engine(model, slots=3, path=path, eos={2, 11}, speculate=draft, draft_tokens=4)  # type: ignore[arg-type]
    assert fast._drafts is not None
    fast._drafts._trial = Always()
    wanted, found = plain.run(asked), fast.run(asked)
    for a, b in zip(sum(wanted, []), sum(found, []), strict=True):
        assert (a.ids, a.reason) == (b.ids, b.reason)
        assert len(b.top) in (0, len(b.ids))
        if path == "native":
            assert a == b
    drafted, right = fast.drafts
    assert right <= drafted
    if how == "same":
        # the draft model sees no penalties' effect only where a constraint would bind: it draws alike
        assert drafted and right == drafted
    assert fast.run(asked) == found or path == "torch"  # slots are used again


def test_step_gives_several_tokens_in_order(make_model, path):
    model = make_model("qwen3", context=96)
    request = Request([1, 7, 8, 7, 8, 7], 30, Sampling(temperature=0))
    (wanted,) = Engine(model, path=path).run([request])[0]
    engine = Engine(model, slots=2, path=path, speculate=model)
    handle = engine.add(request)
    seen = []
    while engine.active or engine.waiting:
        seen.append(engine.step())
    tokens = [t for step in seen for t in step]
    assert [t.id for t in tokens] == wanted.ids and {t.handle for t in tokens} == {handle}
    assert [t.reason for t in tokens] == [None] * (len(tokens) - 1) + ["length"]
    assert max(map(len, seen)) > 1


def test_a_constraint_holds_under_speculation(make_model, bytes_codec):
    if importlib.util.find_spec("llguidance") is None:
        pytest.skip("the extra structured is not installed")
    from exnihilo.infer.structure import constraint

    model = make_model("qwen3", vocab=bytes_codec.vocab_size, context=96)
    shape = constraint({"regex": "(ab|cd){4,20}!"}, bytes_codec)
    asked = [
        Request([1, i], 60, seed=i, constraint=shape, stop_ids=frozenset({bytes_codec.eos_id}))
        for i in range(4)
    ]
    plain = Engine(model).run(asked)
    for how in ("lookup", model):
        engine = Engine(model, speculate=how)  # type: ignore[arg-type]
        assert engine._drafts is not None
        engine._drafts._trial = Always()
        assert [c.ids for (c,) in engine.run(asked)] == [c.ids for (c,) in plain]


def test_a_draft_model_of_a_shorter_context_drafts_as_far_as_it_can(make_model, path):
    model, short = make_model("qwen3", context=96), make_model("qwen3", context=24)
    asked = [Request(ids, 60, Sampling(temperature=0)) for ids in PROMPTS]
    found = Engine(model, path=path, speculate=short).run(asked)
    assert [c.ids for (c,) in found] == [c.ids for (c,) in Engine(model, path=path).run(asked)]


def test_refresh_and_cancel_with_drafts(make_model):
    model = make_model("qwen3")
    engine = Engine(model, slots=2, speculate=model)
    handle = engine.add(Request([1, 2], 20))
    for _ in range(3):
        engine.step()
    engine.cancel(handle)
    assert engine.active == 0
    engine.refresh()
    (again,) = engine.run([Request([1, 2], 20)])[0]
    assert again.ids == Engine(model).run([Request([1, 2], 20)])[0][0].ids


def test_bad_options_are_refused(make_model):
    model = make_model("qwen3")
    for options, said in (
        ({"speculate": "yes"}, "speculate='yes'"),
        ({"speculate": make_model("qwen3", vocab=50)}, "vocabulary of 50"),
        ({"draft_tokens": 0}, "draft_tokens=0"),
    ):
        with pytest.raises(UsageError, match=said):
            Engine(model, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="top=-1"):
        Engine(model).run([Request([1], top=-1)])
    with pytest.raises(UsageError, match="top=98"):
        Engine(model).run([Request([1], top=98)])


def test_a_lookup_goes_on_as_before():
    """By hand: 1 2 3 4 1 2 3 -> 4 1 2 3, into its own guess."""
    from exnihilo.infer.board import Board

    board, lookup = Board(1, 50), Lookup(1)
    request = Request([1, 2, 3, 4, 1, 2, 3])
    board.seat(0, request, 0, 10, frozenset())
    lookup.seat(0, request, 0, 10, frozenset())
    assert lookup.guess(board, [0], [6]) == [[4, 1, 2, 3, 4, 1]]
    board.ids_SN[0, 0], board.made_S[0] = 9, 1
    assert lookup.guess(board, [0], [6]) == [[]]


def test_a_trial_takes_the_faster_way_and_asks_again():
    clock = [0.0]
    trial = Trial(clock=lambda: clock[0], window=4)
    ways = []
    for i in range(400):
        way = trial.begin()
        slow = way if i < 200 else not way  # guesses cost more at first, then less
        clock[0] += 3.0 if slow else 1.0
        trial.end(tokens=1)
        ways.append(way)
    assert set(ways[:8]) == {True, False}
    assert sum(ways[20:120]) < 20 and sum(ways[300:]) > 80


def test_the_likeliest_ids_are_those_of_a_forward(make_model, path):
    model = make_model("qwen3")
    request = Request([1, 5, 9], 8, Sampling(temperature=0.8), top=4)
    engine = Engine(model, path=path)
    (done,) = engine.run([request])[0]
    ids = torch.tensor([[*request.ids, *done.ids]])
    with torch.no_grad():
        logits = model.heads["tokens"].logits(model({"tokens": ids[:, :-1]}))[0, len(request.ids) - 1 :]
    best = logits.log_softmax(-1).topk(4)
    assert [[i for i, _ in top] for top in done.top] == best.indices.tolist()
    np.testing.assert_allclose([[p for _, p in top] for top in done.top], best.values, atol=1e-4)
    handle = engine.add(request)
    tokens = [t for _ in range(12) for t in engine.step()]
    assert [t.top for t in tokens] == done.top and tokens[0].handle == handle
    assert isinstance(Engine(model, speculate="lookup")._drafts, Speculator)
