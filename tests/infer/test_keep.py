"""Engines that are kept answer with the weights of now; threads are measured once."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator

import pytest
import torch

from exnihilo.infer import generate, keep, native, stream, tune
from exnihilo.infer.engine import Engine

pytestmark = pytest.mark.skipif(isinstance(native.library(), str), reason="no C compiler")


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many engines were made."""
    made: list[int] = []

    class Counted(Engine):
        def __init__(self, *args: object, **options: object) -> None:
            made.append(1)
            super().__init__(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(keep, "Engine", Counted)
    keep._kept.clear()
    yield made
    keep._kept.clear()


def test_an_engine_is_used_again_until_the_weights_change(make_model, bytes_codec, count):
    model = make_model("qwen3", vocab=bytes_codec.vocab_size)
    first = generate(model, bytes_codec, ["a"], seed=1, max_new_tokens=5)
    assert generate(model, bytes_codec, ["a"], seed=1, max_new_tokens=5) == first and len(count) == 1
    for change in (
        lambda p: p.add_(0.01),
        lambda p: p.data.view(-1)[3].mul_(2.0),  # past the version counter
        lambda p: p.data.copy_(torch.randn_like(p)),
    ):
        before = len(count)
        with torch.no_grad():
            change(model.trunk.blocks[0].mlp.down.weight)
        found = generate(model, bytes_codec, ["a"], seed=1, max_new_tokens=5)
        assert len(count) == before + 1
        fresh = Engine(model, eos={bytes_codec.eos_id})
        from exnihilo.infer.request import Request

        (wanted,) = fresh.run([Request(found[0].prompt_ids, 5, seed=1)])[0]
        assert found[0].ids == wanted.ids


def test_more_texts_need_another_engine_and_hooks_none_that_is_kept(make_model, bytes_codec, count):
    model = make_model("qwen3", vocab=bytes_codec.vocab_size)
    generate(model, bytes_codec, ["a"], max_new_tokens=2)
    generate(model, bytes_codec, ["a"] * 3, max_new_tokens=2)
    generate(model, bytes_codec, ["a"] * 2, max_new_tokens=2)
    assert len(count) == 2
    hook = model.trunk.blocks[0].register_forward_hook(lambda *a: None)
    generate(model, bytes_codec, ["a"], max_new_tokens=2)
    hook.remove()
    assert len(count) == 3


def test_streams_at_once_have_engines_of_their_own(make_model, bytes_codec, count):
    model = make_model("qwen3", vocab=bytes_codec.vocab_size)
    wanted = [generate(model, bytes_codec, [p], max_new_tokens=6)[0].text for p in ("a", "b")]
    streams = [stream(model, bytes_codec, p, max_new_tokens=6) for p in ("a", "b")]
    texts = ["", ""]
    open_ = {0, 1}
    while open_:
        for i in sorted(open_):
            piece = next(streams[i], None)
            if piece is None:
                open_.discard(i)
            else:
                texts[i] += piece
    assert texts == wanted
    # one that is closed in the middle leaves nothing behind
    half = stream(model, bytes_codec, "a", max_new_tokens=6)
    next(half)
    half.close()
    assert generate(model, bytes_codec, ["b"], max_new_tokens=6)[0].text == wanted[1]


def test_a_kept_engine_does_not_keep_its_model(make_model, bytes_codec, count):
    model = make_model("qwen3", vocab=bytes_codec.vocab_size)
    generate(model, bytes_codec, ["a"], max_new_tokens=2)
    there = weakref.ref(model)
    del model
    gc.collect()
    assert there() is None and not keep._kept


def test_a_mark_sees_each_byte():
    for size in (1, 15, 16, 17, 100):
        tensor = torch.zeros(size)
        seen = {native.mark([tensor])}
        for i in range(size):
            changed = tensor.clone()
            changed[i] = 1.0
            seen.add(native.mark([changed]))
        assert len(seen) == size + 1
    assert native.mark([torch.zeros(3), torch.ones(3)]) != native.mark([torch.ones(3), torch.zeros(3)])


def test_threads_are_measured_once_and_change_nothing(make_model, tmp_path, monkeypatch):
    from exnihilo.infer.request import Request

    model = make_model("qwen3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(tune, "cache_folder", lambda: tmp_path)
    said: list[str] = []
    monkeypatch.setattr(tune.log, "say", said.append)
    wanted = Engine(model, slots=20, threads=1).run([Request([1, 2], 9, n=20)])
    first = Engine(model, slots=20)
    assert any("decode step of 1 row" in s for s in said) and any("decode step of 16 rows" in s for s in said)
    (note,) = (tmp_path / "native").glob("threads-*.json")
    kept = json.loads(note.read_text())
    assert set(kept["1"]["ms"]) == {"1", "2"} and kept["1"]["threads"] in (1, 2)
    assert isinstance(kept["torch"], bool)
    count = len(said)
    note.write_text(json.dumps({**kept, "1": {"threads": 1}, "16": {"threads": 2}, "torch": False}))
    again = Engine(model, slots=20)
    assert len(said) == count and again.path == "native, float32, 1 to 2 threads"
    assert first.run([Request([1, 2], 9, n=20)]) == again.run([Request([1, 2], 9, n=20)]) == wanted
    note.write_text("{")  # unreadable: measured anew
    Engine(model, slots=20)
    assert len(said) > count
    note.write_text(json.dumps({**kept, "torch": True}))  # as if the model itself had been faster
    assert Engine(model, slots=20).path == "torch"
