"""What a text says depends on its own request: not on slots, order, chunks, neighbours or path."""

from __future__ import annotations

import gc
import os
import signal
import weakref

import numpy as np
import pytest
import torch

from exnihilo.errors import UsageError
from exnihilo.infer import Sampling, generate, native
from exnihilo.infer.engine import Engine
from exnihilo.infer.request import Completion, Request
from exnihilo.model import Model

PROMPTS = [[1, 5, 9, 40], [1], [1, 7, 8], [1, *range(20, 50)], [1, 60, 61, 62, 63, 64, 65, 66], [1, 2]]
PATHS = ("torch", "native")
WARM = Sampling(temperature=0.8)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and isinstance(why := native.library(), str):
        pytest.skip(why)
    return request.param


def requests(**options: object) -> list[Request]:
    given = {"max_new_tokens": 14, "sampling": WARM, "seed": 5, **options}
    return [Request(ids, number=10 * i, **given) for i, ids in enumerate(PROMPTS)]  # type: ignore[arg-type]


def same(a: Completion, b: Completion, exact: bool) -> None:
    assert (a.ids, a.reason) == (b.ids, b.reason)
    for x, y in ((a.logprobs, b.logprobs), (a.processed, b.processed), (a.raw, b.raw)):
        if exact:
            assert x == y
        else:
            np.testing.assert_allclose(x, y, atol=1e-4)


def test_slots_order_and_chunks_change_nothing(model, path):
    """Natively to the last bit."""
    wanted = Engine(model, slots=32, path=path).run(requests(n=3))
    exact = path == "native"
    for options in (
        {"slots": 1},
        {"slots": 2, "chunk": 3},
        {"slots": 5, "chunk": 1},
        {"slots": 4, "chunk": 7},
    ):
        engine = Engine(model, path=path, **options)  # type: ignore[arg-type]
        found = engine.run(requests(n=3)[::-1])[::-1]
        assert [len(row) for row in found] == [3] * len(PROMPTS)
        for a, b in zip(sum(found, []), sum(wanted, []), strict=True):
            same(a, b, exact)
        assert engine.active == engine.waiting == 0


def test_a_prompt_that_is_scored_is_what_a_forward_says(model, path):
    """Whatever the chunks, the slots, and what the cache holds already; several completions tell the same."""
    long = PROMPTS[3]
    with torch.no_grad():
        logp_TV = model.heads["tokens"].logits(model({"tokens": torch.tensor([long])}))[0].log_softmax(-1)
    expected = [float(logp_TV[t, i]) for t, i in enumerate(long[1:])]
    for options in ({"slots": 8}, {"slots": 2, "chunk": 4}, {"slots": 3, "chunk": 1}):
        engine = Engine(model, path=path, **options)  # type: ignore[arg-type]
        engine.run([Request(long, 4), Request([*long, 3], 4)])  # the cache holds them now
        asked = [
            Request(long, 6, WARM, n=5, seed=1, scored=True, top=2), Request(long, 6, WARM, n=5, seed=1),
            Request([7], 3, WARM, scored=True),
        ]  # fmt: skip
        told, untold, (single,) = engine.run(asked)
        for with_it, without in zip(told, untold, strict=True):
            assert (with_it.ids, without.prompt) == (without.ids, ())
            assert [s.id for s in with_it.prompt] == long and with_it.prompt[0].raw is None
            np.testing.assert_allclose([s.raw or 0.0 for s in with_it.prompt[1:]], expected, atol=1e-4)
            best = [int(logp_TV[t].argmax()) for t in range(len(long) - 1)]
            assert [s.top[0][0] for s in with_it.prompt[1:]] == best and not with_it.prompt[0].top
        assert [(s.id, s.raw) for s in single.prompt] == [(7, None)]
        handle = engine.add(Request(long, 4, WARM, n=5, scored=True))
        first = engine.step()
        engine.cancel(handle, 0)  # who read the prompt for all leaves
        while engine.active or engine.waiting:
            first += engine.step()
        heads = {t.index: t.prompt for t in reversed(first) if t.prompt}
        assert {1, 2, 3, 4} <= set(heads) and all(len(p) == len(long) for p in heads.values())
        np.testing.assert_allclose([s.raw or 0.0 for s in heads[4][1:]], expected, atol=1e-4)


def test_threads_change_nothing(make_model):
    if isinstance(why := native.library(), str):
        pytest.skip(why)
    model = make_model("qwen3")
    one, three = (Engine(model, threads=n, path="native").run(requests(n=2)) for n in (1, 3))
    assert one == three


def test_n_completions_are_n_requests_with_the_next_numbers(model, path):
    engine = Engine(model, slots=4, path=path)
    for request, group in zip(requests(n=3), engine.run(requests(n=3)), strict=True):
        for j, completion in enumerate(group):
            alone = Request(
                request.ids, request.max_new_tokens, WARM, seed=request.seed, number=request.number + j
            )
            same(engine.run([alone])[0][0], completion, path == "native")


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0), Sampling(1.4, top_k=20, top_p=0.9), Sampling(0.5)]
)
def test_both_paths_say_the_same(model, sampling):
    if isinstance(why := native.library(), str):
        pytest.skip(why)
    ours, theirs = (Engine(model, path=p).run(requests(sampling=sampling, n=2)) for p in PATHS)
    for a, b in zip(sum(ours, []), sum(theirs, []), strict=True):
        same(a, b, False)


def test_log_probabilities_are_those_of_a_forward(model, path):
    for request, (done,) in zip(requests(), Engine(model, path=path).run(requests()), strict=True):
        tokens = torch.tensor([[*request.ids, *done.ids]])
        with torch.no_grad():
            logits = model.heads["tokens"].logits(model({"tokens": tokens[:, :-1]}))[
                0, len(request.ids) - 1 :
            ]
        at = tokens[0, len(request.ids) :, None]
        for values, temperature in ((done.raw, 1.0), (done.logprobs, 0.8), (done.processed, 0.8)):
            wanted = (logits / temperature).log_softmax(-1).gather(1, at)[:, 0]
            np.testing.assert_allclose(values, wanted, atol=1e-4)


def test_stop_ids_end_a_text_and_are_kept(model, path):
    stops = frozenset(range(12))
    free = Engine(model, path=path).run(requests(max_new_tokens=40))
    for engine, asked in (
        (Engine(model, slots=3, path=path), requests(max_new_tokens=40, stop_ids=stops)),
        (Engine(model, slots=3, eos=stops, path=path), requests(max_new_tokens=40)),
    ):
        for (done,), (whole,) in zip(engine.run(asked), free, strict=True):
            hit = [i for i, token in enumerate(whole.ids) if token in stops]
            assert done.ids == whole.ids[: hit[0] + 1 if hit else None]
            assert done.reason == ("eos" if hit else "length")


def collect(engine: Engine, handles: dict[int, int], n: int) -> list[list[list[int]]]:
    out: list[list[list[int]]] = [[[] for _ in range(n)] for _ in handles]
    while engine.active or engine.waiting:
        for token in engine.step():
            out[handles[token.handle]][token.index].append(token.id)
    return out


def test_step_by_step_gives_what_run_gives(model, path):
    """Also where requests come while others are being continued."""
    wanted = [[c.ids for c in row] for row in Engine(model, path=path).run(requests(n=2))]
    engine = Engine(model, slots=3, chunk=4, path=path)
    handles = {}
    out: list[list[list[int]]] = [[[] for _ in range(2)] for _ in PROMPTS]
    todo = list(enumerate(requests(n=2)))
    while todo or engine.active or engine.waiting:
        if todo:
            number, request = todo.pop()
            handles[engine.add(request)] = number
        for token in engine.step():
            out[handles[token.handle]][token.index].append(token.id)
    assert out == wanted


def test_a_cancelled_request_frees_its_slots_and_harms_nobody(model, path):
    wanted = [[c.ids for c in row] for row in Engine(model, path=path).run(requests(n=2))]
    for at in range(6):
        engine = Engine(model, slots=4, chunk=5, path=path)
        handles = {engine.add(request): i for i, request in enumerate(requests(n=2))}
        out: list[list[list[int]]] = [[[] for _ in range(2)] for _ in PROMPTS]
        steps = 0
        while engine.active or engine.waiting:
            if steps == at:
                before = engine.active
                engine.cancel(0)
                engine.cancel(3)
                engine.cancel(3)
                engine.cancel(99)
                assert engine.active <= before
            for token in engine.step():
                assert steps < at or handles[token.handle] not in (0, 3)
                out[handles[token.handle]][token.index].append(token.id)
            steps += 1
        for number in (1, 2, 4, 5):
            assert out[number] == wanted[number]


def test_one_completion_of_several_can_be_cancelled(model, path):
    engine = Engine(model, slots=1, path=path)
    handle = engine.add(Request([1, 2], 6, n=3))
    engine.cancel(handle, 1)  # while it waits for a slot
    seen = [token.index for _ in range(40) for token in engine.step()]
    assert sorted(set(seen)) == [0, 2] and seen.count(0) == seen.count(2) == 6
    assert not engine.active and not engine.waiting


def test_what_slots_hold_is_reused(make_model, path):
    """A prompt that begins like an earlier text is read from there on, with the same result."""
    model = make_model("qwen3", context=96)
    head = [1, *range(10, 50)]
    asked = [Request([*head, i], 6, WARM, seed=1, number=i) for i in range(5)]
    fresh = [Engine(model, path=path).run([r])[0][0] for r in asked]
    engine = Engine(model, slots=2, path=path)
    read: list[int] = []
    forward = engine._step.forward

    def counted(tokens, slots, places, wanted):
        read.append(len(tokens))
        return forward(tokens, slots, places, wanted)

    engine._step.forward = counted  # type: ignore[method-assign]
    for request, wanted in zip(asked, fresh, strict=True):
        same(engine.run([request])[0][0], wanted, path == "native")
    assert read[0] == 42 and max(n for n in read[1:]) < 42


def test_refresh_reads_the_weights_again(make_model, path):
    model: Model = make_model("qwen3", seed=1)
    other: Model = make_model("qwen3", seed=2)
    engine = Engine(model, path=path)
    engine.run(requests())
    model.load_state_dict(other.state_dict())
    engine.refresh()
    for (a,), (b,) in zip(engine.run(requests()), Engine(other, path=path).run(requests()), strict=True):
        same(a, b, path == "native")
    engine.add(Request([1]))
    with pytest.raises(UsageError, match="1 requests unfinished"):
        engine.refresh()
    with pytest.raises(UsageError, match="1 requests unfinished"):
        engine.run([])


def test_progress_counts_completions(model, path):
    seen: list[tuple[int, int]] = []
    Engine(model, slots=3, path=path).run(requests(n=2), progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (12, 12) and [d for d, _ in seen] == sorted({d for d, _ in seen})


def test_bad_requests_are_refused_and_nothing_is_run(model, path):
    engine = Engine(model, path=path)
    for bad, said in (
        ({"ids": []}, "without ids"),
        ({"ids": [97]}, "id 97"),
        ({"ids": [-1]}, "id -1"),
        ({"ids": [1] * 48}, "48 tokens, the model's context is 48"),
        ({"ids": [1], "n": 0}, "n=0"),
        ({"ids": [1], "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"ids": [1], "seed": -1}, "seed=-1"),
        ({"ids": [1], "sampling": Sampling(logit_bias={97: 1.0})}, "logit_bias"),
    ):
        with pytest.raises(UsageError, match=said):
            engine.run([Request([1, 2]), Request(**bad)])  # type: ignore[arg-type]
        assert not engine.active and not engine.waiting
    assert engine.run([]) == []
    for options in ({"slots": 0}, {"chunk": 0}, {"threads": 0}):
        with pytest.raises(UsageError, match="=0"):
            Engine(model, **options)  # type: ignore[arg-type]


def test_texts_end_with_the_context(model, path):
    done = Engine(model, slots=2, path=path).run([Request([1] * n, 1000) for n in (1, 47, 30, 46)])
    assert [len(row[0].ids) for row in done] == [47, 1, 18, 2]


def test_a_model_that_is_not_plain_is_called_itself(make_model):
    model = make_model("qwen3").double()
    assert Engine(model).path == "torch"
    with pytest.raises(UsageError, match="float32"):
        Engine(model, path="native")
    with pytest.raises(UsageError, match="int8"):
        Engine(model, weights="int8")
    hooked = make_model("qwen3")
    hooked.trunk.blocks[0].register_forward_hook(lambda *_: None)
    assert Engine(hooked).path == "torch"


def test_int8_is_near(make_model):
    """Blocks of 32 with a scale: each product is off by about 1/254 of its largest input and weight."""
    if isinstance(why := native.library(), str):
        pytest.skip(why)
    model = make_model("qwen3")
    tokens = [1, *range(20, 40)]
    wanted, found = (
        Engine(model, path="native", weights=kind)
        ._step.forward(tokens, [0] * 21, range(21), range(21))
        .clone()
        for kind in ("float32", "int8")
    )
    error = (found - wanted).std() / wanted.std()
    assert 1e-4 < error < 0.03
    rows = [Engine(model, slots=n, weights="int8").run(requests(n=2)) for n in (1, 16)]
    assert rows[0] == rows[1]


def test_a_forked_process_ends_in_peace(make_model):
    """Its copy of the engine has no threads to wait for."""
    if isinstance(why := native.library(), str):
        pytest.skip(why)
    engine = Engine(make_model("qwen3"), threads=2, path="native")
    gc.collect()  # what other tests left is not the child's to end
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        step = weakref.ref(engine._step)
        del engine
        gc.collect()
        os._exit(0 if step() is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(engine.run([Request([1], 3)])[0][0].ids) == 3


def test_generate_takes_penalties_and_bias(model):
    plain = generate(model, None, [[1, 5]], temperature=0, max_new_tokens=12)[0].ids
    never = generate(model, None, [[1, 5]], temperature=0, max_new_tokens=12, logit_bias={plain[0]: -1e4})[
        0
    ].ids
    assert plain[0] not in never
    once = generate(model, None, [[1, 5]], temperature=0, max_new_tokens=12, presence_penalty=1e4)[0].ids
    assert len(set(once)) == 12
