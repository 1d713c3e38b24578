"""Rollouts from a server that speaks vLLM's protocol: a stub on loopback, with a model of its own behind it.

The stub answers what vLLM answers to the requests that are sent, from the weights in the folder that it
serves: so tokens, log-probabilities and the reading of new weights are real, and each way in which a server
can be the wrong one is one switch of it.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from exnihilo.codec import train as train_codec
from exnihilo.config import CodecConfig, ModelConfig, RolloutConfig, RunConfig
from exnihilo.errors import ConfigError, TrainError
from exnihilo.interop import hf
from exnihilo.model import build
from exnihilo.nn.layout import Attention
from exnihilo.objective import registry
from exnihilo.parallel.mesh import World
from exnihilo.train.source import vllm
from exnihilo.train.source.base import Parts
from exnihilo.train.source.tasks import Tasks
from exnihilo.train.source.weights import Weights

CODEC = train_codec(CodecConfig(kind="bytes"), ["a"])
SHAPE = ModelConfig(depth=1, width=32, heads=2, context=48, vocab_size=CODEC.vocab_size)
PROMPT = [CODEC.bos_id, *CODEC.encode("2+2=")]


class Stub(ThreadingHTTPServer):
    """Serves a folder as vLLM would. Switches say what is wrong with it."""

    daemon_threads = False  # closing waits for the last answer

    def __init__(self, folder: Path, **wrong: Any) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.wrong = folder, wrong
        self.seen: list[tuple[str, Any]] = []
        self.model: Any = None
        self.failures = int(wrong.get("failures", 0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def logits(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            hidden = self.model({"tokens": torch.tensor([ids])}, Attention.CAUSAL)[0]
            return hidden @ self.model.heads["tokens"].weight.T

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, heat = list(body["prompt"]), float(body["temperature"])
        choices = []
        for index in range(int(body.get("n", 1))):
            generator = torch.Generator().manual_seed((int(body.get("seed", 0)) + index) % 2**31)
            ids, logps, reason = list(prompt), [], "length"
            for _ in range(int(body["max_tokens"])):
                logits = self.logits(ids)[-1]
                drawn = int(torch.multinomial((logits / heat).softmax(-1), 1, generator=generator))
                if self.wrong.get("strips") and len(ids) > len(prompt):
                    drawn = body["stop_token_ids"][0] if "stop_token_ids" in body else drawn
                said = logits if self.wrong.get("raw") else logits / heat
                logps.append(float(said.log_softmax(-1)[drawn]))
                ids.append(drawn)
                if drawn in body.get("stop_token_ids", ()):
                    reason = "stop"
                    break
            out = ids[len(prompt) :]
            if self.wrong.get("strips") and reason == "stop":
                out, logps = out[:-1], logps[:-1]
            choice: dict[str, Any] = {
                "index": index, "text": CODEC.decode(out), "finish_reason": reason,
                "logprobs": {"token_logprobs": logps}, "token_ids": out, "prompt_token_ids": prompt,
            }  # fmt: skip
            if "prompt_logprobs" in body:
                scores = self.logits(prompt).log_softmax(-1)
                told = [{str(i): {"logprob": float(scores[t, i])}} for t, i in enumerate(prompt[1:])]
                choice["prompt_logprobs"] = [None, *told]
            if self.wrong.get("text_only"):
                del choice["token_ids"]
            if self.wrong.get("retokenises"):
                choice["prompt_token_ids"] = [0, *prompt]
            choices.append(choice)
        return {"choices": choices[::-1]}  # no order is promised


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Stub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._do(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._do(json.loads(self.rfile.read(length)) if length else None)

    def _do(self, body: Any) -> None:
        stub = self.server
        stub.seen.append((self.path, body))
        if stub.failures:
            stub.failures -= 1
            return self._say(503, {"error": "busy"})
        if self.path == "/version":
            return self._say(200, {"version": stub.wrong.get("version", "0.11.2")})
        if self.path == "/v1/models":
            root = stub.wrong.get("root", str(stub.folder))
            return self._say(
                200, {"data": [{"id": "it", "root": root, "max_model_len": stub.wrong.get("room", 48)}]}
            )
        if self.path == "/tokenize":
            ids = CODEC.encode(body["prompt"])
            return self._say(200, {"tokens": [i + bool(stub.wrong.get("shifted")) for i in ids]})
        if self.path == "/collective_rpc" and not stub.wrong.get("plain"):
            assert body == {"method": "reload_weights"}
            if stub.model is None or not stub.wrong.get("deaf"):
                stub.model = hf.load(stub.folder)[0]
            return self._say(200, {})
        if self.path == "/reset_prefix_cache" and not stub.wrong.get("plain"):
            return self._say(200, None)
        if self.path == "/v1/completions":
            return self._say(200, stub.complete(body))
        return self._say(404, {"detail": "Not Found"})

    def _say(self, code: int, value: Any) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    servers: list[Stub] = []

    def start(**wrong: Any) -> tuple[Stub, Any, vllm.Vllm]:
        stub = Stub(tmp_path / "served", **wrong)
        servers.append(stub)
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        return (stub, *client(tmp_path, stub.url, **wrong.get("rollout", {})))

    yield start
    for stub in servers:
        stub.shutdown()
        stub.server_close()


def client(run: Path, url: str, world: World | None = None, **rollout: Any) -> tuple[Any, vllm.Vllm]:
    model = build(SHAPE, heads=("tokens",), seed=5)
    how = RolloutConfig(engine="vllm", url=url, **{"group": 3, "max_new_tokens": 4, **rollout})
    config = RunConfig(objective="rlvr", grader="exact", model=SHAPE, rollout=how)
    parts = Parts(
        config=config, run=run, world=world or World(0, 1, torch.device("cpu")), model=model,
        objective=registry.create("rlvr"), codec=CODEC, tasks=Tasks([], context=8),
        weights=Weights(model, SHAPE, heads=("tokens",)),
    )  # fmt: skip
    return model, vllm.Vllm(parts, patience=0.3, pause=0.01)


def test_tokens_go_in_and_tokens_come_out_with_the_trainers_log_probabilities(serve: Any) -> None:
    stub, model, sampler = serve(failures=1)
    prompts = [PROMPT, [*PROMPT, 40]]
    found = sampler.draw(model, prompts, [{}, {}], seed=7, places=[0, 5])
    assert [len(group) for group in found] == [3, 3]
    for prompt, group in zip(prompts, found, strict=True):
        for one in group:
            ids = [*prompt, *one.ids]
            logp = vllm._logits(model, ids).log_softmax(-1)
            ours = [float(logp[len(prompt) - 1 + i, t]) for i, t in enumerate(one.ids)]
            assert one.logprobs == pytest.approx(ours, abs=1e-4)
            assert (one.reason == "eos") == (one.ids[-1] in sampler.stops) and len(one.ids) <= 4
    asked = [body for path, body in stub.seen if path == "/v1/completions" and body.get("n") == 3]
    assert [body["prompt"] for body in sorted(asked, key=lambda b: len(b["prompt"]))] == prompts
    for body in asked:  # nothing of the server's defaults cuts or bends the distribution
        assert (body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (
            1.0,
            -1,
            0.0,
            1.0,
        )
        assert body["return_token_ids"] and set(body["stop_token_ids"]) == set(sampler.stops)
    again = sampler.draw(model, prompts, [{}, {}], seed=7, places=[0, 5])
    assert [[c.ids for c in g] for g in again] == [[c.ids for c in g] for g in found]
    other = sampler.draw(model, prompts, [{}, {}], seed=8, places=[0, 5])
    assert [[c.ids for c in g] for g in other] != [[c.ids for c in g] for g in found]
    sampler.close()


def test_new_weights_reach_the_server_once_for_each_update(serve: Any) -> None:
    stub, model, sampler = serve()
    sampler.draw(model, [PROMPT], [{}], seed=1, places=[0])
    sampler.draw(model, [PROMPT], [{}], seed=2, places=[0])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    (group,) = sampler.draw(model, [PROMPT], [{}], seed=3, places=[0])
    told = [path for path, _ in stub.seen if path in ("/collective_rpc", "/reset_prefix_cache")]
    assert told == ["/collective_rpc", "/reset_prefix_cache"] * 2
    logp = vllm._logits(model, [*PROMPT, *group[0].ids]).log_softmax(-1)
    assert group[0].logprobs[0] == pytest.approx(float(logp[len(PROMPT) - 1, group[0].ids[0]]), abs=1e-4)
    sampler.close()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"version": "0.8.5"}, "0.8.5"),
        ({"root": "somewhere/else"}, "somewhere/else"),
        ({"room": 16}, "16 tokens"),
        ({"shifted": True}, "tokenizer"),
        ({"plain": True}, "VLLM_SERVER_DEV_MODE"),
        ({"text_only": True}, "no token ids"),
        ({"retokenises": True}, "other ids than it was sent"),
        ({"raw": True, "rollout": {"temperature": 0.5}}, "processed_logprobs"),
        ({"failures": 99}, "no vLLM server"),
    ],
)
def test_a_server_that_is_the_wrong_one_is_named(serve: Any, wrong: dict[str, Any], words: str) -> None:
    _, model, sampler = serve(**wrong)
    with pytest.raises(TrainError, match=words) as caught:
        sampler.draw(model, [PROMPT], [{}], seed=1, places=[0])
    assert caught.value.next
    sampler.close()


def test_a_server_with_old_weights_is_found(serve: Any) -> None:
    _, model, sampler = serve(deaf=True)
    sampler.draw(model, [PROMPT], [{}], seed=1, places=[0])
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5).add_(0.3 * torch.randn_like(p))
    with pytest.raises(TrainError, match="otherwise than the trainer"):
        sampler.draw(model, [PROMPT], [{}], seed=2, places=[0])
    sampler.close()


def test_a_stop_token_that_is_stripped_is_an_error(serve: Any) -> None:
    _, model, sampler = serve(strips=True)
    with pytest.raises(TrainError, match="ended by itself ends with id"):
        sampler.draw(model, [PROMPT], [{}], seed=1, places=[0])
    sampler.close()


def test_processed_log_probabilities_at_another_temperature_pass(serve: Any) -> None:
    _, model, sampler = serve(rollout={"temperature": 0.5})
    (group,) = sampler.draw(model, [PROMPT], [{}], seed=1, places=[0])
    logp = (vllm._logits(model, [*PROMPT, *group[0].ids]) / 0.5).log_softmax(-1)
    assert group[0].logprobs[0] == pytest.approx(float(logp[len(PROMPT) - 1, group[0].ids[0]]), abs=1e-4)
    sampler.close()


def test_nobody_there_and_settings_that_cannot_be(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    model, sampler = client(tmp_path, url)
    with pytest.raises(TrainError, match="no vLLM server") as caught:
        sampler.draw(model, [PROMPT], [{}], seed=1, places=[0])
    assert "vllm serve" in caught.value.next
    sampler.close()
    with pytest.raises(ConfigError, match="staleness"):
        client(tmp_path, url, world=World(0, 2, torch.device("cpu")), staleness=1)
    with pytest.raises(ConfigError, match="URL"):
        client(tmp_path, "localhost:8000")
