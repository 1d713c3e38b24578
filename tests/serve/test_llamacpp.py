"""The llama.cpp backend: the engine's promises hold on it, and its file is proven and kept by content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import ModelError, UsageError
from exnihilo.infer.engine import Engine
from exnihilo.infer.request import Request
from exnihilo.infer.sampling import Sampling
from exnihilo.interop.load import Loaded
from exnihilo.model import build
from exnihilo.serve.settings import Settings

pytest.importorskip("gguf", reason="needs the extra 'gguf'")
pytest.importorskip("llama_cpp", reason="needs the extra 'llamacpp'")

from exnihilo.serve import llamacpp  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    codec = codecs.train(CodecConfig(kind="bytes"), ["text"])
    config = ModelConfig(
        depth=2, width=64, heads=4, kv_heads=2, mlp_width=96, context=64, vocab_size=codec.vocab_size
    )
    model, generator = build(config, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return Loaded(model.eval(), codec, tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path))
    return tmp_path / "gguf"


def prompts(n: int, lengths: tuple[int, ...] = (1, 4, 9, 20, 33)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randint(5, 261, (lengths[i % len(lengths)],), generator=generator).tolist() for i in range(n)
    ]


def test_it_says_what_our_engine_says(run: Loaded) -> None:
    """Greedy and drawn, of mixed lengths, more texts than slots, prefixes shared, n > 1."""
    engine = llamacpp.build(run, Settings(slots=5, threads=1))
    assert engine.path.startswith("llama.cpp, model-f32")
    asked = [Request(p, 12, Sampling(temperature=0)) for p in prompts(11)]
    same = [7, 8, 9, 10, 11, 12, 13]
    asked += [Request([*same, i], 10, Sampling(temperature=0.8, top_p=0.9), n=3, seed=i) for i in (20, 30)]
    asked += [Request(same, 8, Sampling(repetition_penalty=1.3, logit_bias={40: 2.0}), n=2)]
    mine = Engine(run.model, slots=5, eos={run.codec.eos_id}).run(asked)
    theirs = engine.run(asked)
    for a, b in zip(mine, theirs, strict=True):
        assert [c.ids for c in a] == [c.ids for c in b]
        for x, y in zip(a, b, strict=True):
            assert x.raw == pytest.approx(y.raw, abs=2e-3) and x.reason == y.reason
    again = engine.run(asked[:11])  # what slots hold of earlier texts is used, or written over
    assert [c.ids for (c,) in again] == [c.ids for (c,) in mine[:11]]


def test_constraints_and_alternatives_are_the_engines_own(run: Loaded) -> None:
    pytest.importorskip("llguidance", reason="needs the extra 'structured'")
    from exnihilo.infer.structure import constraint

    kept = constraint({"regex": "[a-f]{4}[0-9]{2}"}, run.codec)
    ids = [1, *run.codec.encode("hey")]
    asked = [
        Request(
            ids, 12, Sampling(), seed=seed, constraint=kept, top=3, stop_ids=frozenset({run.codec.eos_id})
        )
        for seed in range(4)
    ]
    mine = Engine(run.model, slots=2, threads=1).run(asked)
    theirs = llamacpp.build(run, Settings(slots=2, threads=1)).run(asked)
    for (a,), (b,) in zip(mine, theirs, strict=True):
        assert a.ids == b.ids and len(a.top) == len(b.top) == len(b.ids)
        for x, y in zip(a.top, b.top, strict=True):
            assert [i for i, _ in x] == [i for i, _ in y]
            assert [p for _, p in x] == pytest.approx([p for _, p in y], abs=1e-4)
        text = run.codec.decode(b.ids)
        assert len(text) == 6 and set(text[:4]) <= set("abcdef") and text[4:].isdigit()


def test_texts_that_come_and_go_do_not_touch_others(run: Loaded) -> None:
    engine = llamacpp.build(run, Settings(slots=3, threads=1))
    asked = [Request(p, 14, Sampling(temperature=0)) for p in prompts(6)]
    alone = [c.ids for (c,) in Engine(run.model, slots=1, eos={run.codec.eos_id}).run(asked)]
    handles = {engine.add(r): i for i, r in enumerate(asked)}
    cut = next(h for h, i in handles.items() if i == 1)
    said: dict[int, list[int]] = {i: [] for i in range(6)}
    steps = 0
    while engine.active or engine.waiting:
        for token in engine.step():
            said[handles[token.handle]].append(token.id)
        steps += 1
        if steps == 5:
            engine.cancel(cut)
    assert {i: ids for i, ids in said.items() if i != 1} == {i: ids for i, ids in enumerate(alone) if i != 1}
    assert said[1] == alone[1][: len(said[1])] and len(said[1]) < 14


def test_the_file_is_kept_by_content(run: Loaded, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = llamacpp.proven(run, "f32")
    before = first.stat().st_mtime_ns
    assert llamacpp.proven(run, "f32") == first and first.stat().st_mtime_ns == before
    assert llamacpp.proven(run, "q8_0") != first
    with torch.no_grad():
        weight = dict(run.model.named_parameters())["trunk.blocks.0.mlp.up.weight"]
        kept = weight.clone()
        weight.mul_(1.01)
    try:
        assert llamacpp.proven(run, "f32") != first
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    first.parent.joinpath("proof.json").write_text('{"proved": false}')
    assert llamacpp.proven(run, "f32") == first and first.stat().st_mtime_ns != before
    monkeypatch.setattr(llamacpp, "_KEPT", 1)
    llamacpp.proven(run, "f16")
    assert len(list(cache.iterdir())) == 1


def test_what_it_cannot_obey_is_refused(run: Loaded) -> None:
    with pytest.raises(UsageError, match="device=cuda"):
        llamacpp.build(run, Settings(device="cuda"))
    with pytest.raises(UsageError, match="slots=257"):
        llamacpp.build(run, Settings(slots=257))
    pieces = codecs.train(CodecConfig(kind="wordpiece", vocab_size=60, lowercase=True), ["a b c"])
    bert = build(ModelConfig(family="bert", depth=1, width=32, heads=2, context=16, vocab_size=60), seed=0)
    with pytest.raises(ModelError, match="encoder"):
        llamacpp.build(Loaded(bert, pieces, run.path), Settings())


def test_structures_over_http_are_those_of_the_native_backend(
    runs: dict[str, Path], serving: Callable[..., Any]
) -> None:
    """Each kind of response_format, whole and streamed, and a prompt that is told of."""
    pytest.importorskip("llguidance", reason="needs the extra 'structured'")
    schema = {
        "type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["n"], "additionalProperties": False,
    }  # fmt: skip
    forms = [
        {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        {"type": "regex", "regex": "[0-9]{3}-[a-f]{2}"},
        {"type": "choice", "choice": ["yes", "no", "perhaps"]},
        {"type": "grammar", "grammar": 'start: "a" ("b" | "c")+ "d"'},
    ]
    asked: dict[str, Any] = {"model": "talk", "max_tokens": 60, "seed": 3}
    said: list[list[Any]] = []
    for backend in ("exnihilo", "llama.cpp"):
        with (
            serving([runs["talk"]], Settings(slots=4, reload=0, backend=backend, threads=1)) as server,
            server.client() as client,
        ):
            found: list[Any] = []
            for form in forms:
                body = {**asked, "response_format": form, "messages": [{"role": "user", "content": "Hi"}]}
                reply = client.post("/v1/chat/completions", json=body)
                assert reply.status_code == 200, reply.text
                choice = reply.json()["choices"][0]
                found.append((choice["message"]["content"], choice["finish_reason"]))
                streamed = client.post("/v1/chat/completions", json={**body, "stream": True}).text
                parts = [json.loads(x[6:]) for x in streamed.splitlines() if x.startswith("data: {")]
                text = "".join(p["choices"][0]["delta"].get("content") or "" for p in parts if p["choices"])
                assert text == found[-1][0]
            echoed = client.post(
                "/v1/completions",
                json={**asked, "prompt": "Once", "max_tokens": 0, "echo": True, "logprobs": 0},
            ).json()["choices"][0]
            assert echoed["text"] == "Once" and len(echoed["logprobs"]["tokens"]) == 4
            found.append([round(p, 3) for p in echoed["logprobs"]["token_logprobs"]])
            said.append(found)
    native, other = said
    assert native[:4] == other[:4] and native[4] == pytest.approx(other[4], abs=2e-3)
    assert json.loads(native[0][0]).keys() == {"n"} and native[2][0] in ("yes", "no", "perhaps")
