"""Completions from a vLLM server, and the weights that go to it after each update.

    exnihilo train rlvr init=runs/sft data=tasks.jsonl grader=number run=runs/rl \\
        rollout.engine=vllm rollout.url=http://127.0.0.1:8000
    VLLM_SERVER_DEV_MODE=1 vllm serve runs/rl/served --logprobs-mode processed_logprobs

The run writes the model it starts from to ``RUN/served`` (``rollout.folder=`` names another place, such as
one in memory), says the second line, and waits for the server. Tokens go in and tokens come out: prompts are
sent as ids, and ids are asked back beside the text, so nothing is ever tokenised again. The distribution is
not cut: what the server's own defaults would change (top-k, top-p, penalties) is sent with each request.

After an update the folder is written anew, and the server told to read it again: ``/collective_rpc`` with
``reload_weights``, then ``/reset_prefix_cache``: both are there in the server's development mode alone. Then
one prompt is scored on both sides: a server whose log-probabilities are not the trainer's has other weights,
and the run ends with both numbers rather than learning from them.

The server's arithmetic is not the trainer's forward: tokens get truncated importance weights (`ahead`).

Protocol: https://docs.vllm.ai/en/latest/serving/openai_compatible_server/ (completions, tokenize),
https://docs.vllm.ai/en/latest/features/sleep_mode/ (reloading). 0.11 or later.

Key: T positions, V vocabulary
"""

from __future__ import annotations

import http.client
import json
import math
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import log
from exnihilo.codec.chat import chat
from exnihilo.errors import ConfigError, TrainError
from exnihilo.infer.request import Completion
from exnihilo.interop import hf
from exnihilo.nn.layout import Attention
from exnihilo.objective.rlvr import talks
from exnihilo.train.lineage import weights_hash
from exnihilo.train.source.base import Parts

if TYPE_CHECKING:
    from exnihilo.model.model import Model

OLDEST = (0, 11)  # the first version that gives token ids back for prompts and completions, and reloads
WAIT = 600.0  # seconds for the server to be there
SECONDS = 600.0  # of one request
TRIES = 3  # of one request
AT_ONCE = 64  # requests under way
CLOSE = 0.25  # mean |Δ log p| of a scored prompt: rounding of half precision, not other weights
PROBE = "The quick brown fox: 12 + 30 = 42?\n"
SERVED = "served"


class Server:
    """A vLLM server, as far as rollouts need it.

    Args:
        url: e.g. http://127.0.0.1:8000.

    Attributes:
        name: of the model it serves.
    """

    def __init__(self, url: str, *, patience: float = WAIT, pause: float = 1.0) -> None:
        if not re.match(r"https?://", url):
            raise ConfigError(
                f"rollout.url={url}", expected="a URL", next="rollout.url=http://127.0.0.1:8000"
            )
        self.url, self.patience, self.pause = url.rstrip("/"), patience, pause
        self.name = ""

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, post: bool | None = None) -> Any:
        """One request; what it answers, JSON, or None where it answers nothing.

        Connections that break and errors of the server are tried again.

        Raises:
            TrainError: it cannot be reached, or refuses.
        """
        data = None if body is None else json.dumps(body).encode()
        method = "POST" if (post if post is not None else data is not None) else "GET"
        headers = {"Content-Type": "application/json"}
        for turn in range(TRIES):
            request = urllib.request.Request(self.url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                    text = answer.read().decode("utf-8")
                return json.loads(text) if text.strip() else None
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read().decode("utf-8", "replace")[:300]
                if error.code < 500 or turn + 1 == TRIES:
                    raise self._refused(path, error.code, said) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if turn + 1 == TRIES:
                    raise TrainError(
                        f"the server at {self.url} does not answer {path}: {error}",
                        expected="a vLLM server that is up",
                        next="start it again, then resume the run",
                    ) from error
            time.sleep(self.pause * 2**turn)
        raise AssertionError  # the last turn returns or raises

    def _refused(self, path: str, code: int, said: str) -> TrainError:
        development = path.startswith(("/collective_rpc", "/reset_prefix_cache")) and code == 404
        return TrainError(
            f"the server at {self.url} answers {path} with {code}: {said}",
            expected="the endpoints of the development mode" if development else "200",
            next="start it with VLLM_SERVER_DEV_MODE=1" if development else "see the server's log",
        )

    def open(self, folder: Path, codec: Any, context: int) -> None:
        """Wait until it is there, and check that it is what this run needs.

        Raises:
            TrainError: it does not come up, is too old, serves another model or context, or tokenises
                differently.
        """
        version = self._wait(folder)
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST:
            raise TrainError(
                f"the server at {self.url} is vLLM {version}",
                expected=f"{'.'.join(map(str, OLDEST))} or later: it gives token ids back",
                next="update it",
            )
        models = self.ask("/v1/models")["data"]
        here = [m for m in models if _same(m.get("root"), folder)]
        if not here:
            served = ", ".join(str(m.get("root") or m.get("id")) for m in models) or "nothing"
            raise TrainError(
                f"the server at {self.url} serves {served}",
                expected=f"{folder}: its weights are read again from there",
                next=_command(folder) + ", or rollout.folder= the folder it serves",
            )
        self.name = str(here[0]["id"])
        room = here[0].get("max_model_len")
        if room is not None and int(room) < context:
            raise TrainError(
                f"the server's context is {room} tokens, the model's {context}",
                expected="at least as many",
                next=f"start it with --max-model-len {context}",
            )
        body = {"model": self.name, "prompt": PROBE, "add_special_tokens": False}
        theirs, ours = self.ask("/tokenize", body)["tokens"], [int(i) for i in codec.encode(PROBE)]
        if theirs != ours:
            raise TrainError(
                f"the server's tokenizer is another one: {PROBE!r} is {theirs[:8]} there, {ours[:8]} here",
                expected="the same token ids",
                next=f"serve {folder} with the tokenizer that is in it",
            )

    def _wait(self, folder: Path) -> str:
        began, told = time.monotonic(), False
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/version", timeout=10) as answer:
                    return str(json.loads(answer.read())["version"])
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                if time.monotonic() - began > self.patience:
                    raise TrainError(
                        f"no vLLM server at {self.url} after {self.patience:.0f} s: {error}",
                        expected="one that answers /version",
                        next=_command(folder),
                    ) from error
                if not told:
                    log.say(f"waiting for a vLLM server at {self.url}: {_command(folder)}")
                    told = True
                time.sleep(min(self.pause, 5.0))

    def complete(self, ids: Sequence[int], **options: Any) -> list[dict[str, Any]]:
        """The choices of a completion request, by index, each with the ids of the prompt and of the
        completion.

        Raises:
            TrainError: ids do not come back, or those of the prompt are not those that were sent.
        """
        body = {
            "model": self.name,
            "prompt": [int(i) for i in ids],
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "skip_special_tokens": False,
            "return_token_ids": True,
            **options,
        }
        answer = self.ask("/v1/completions", body)
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        for choice in choices:
            sent, got = choice.get("prompt_token_ids") or answer.get("prompt_token_ids"), list(map(int, ids))
            if sent is None or choice.get("token_ids") is None:
                raise TrainError(
                    f"the server at {self.url} gives no token ids back",
                    expected="token_ids and prompt_token_ids: text cannot be tokenised back without loss",
                    next=f"vLLM {'.'.join(map(str, OLDEST))} or later",
                )
            if list(map(int, sent)) != got:
                raise TrainError(
                    f"the server read other ids than it was sent: {list(sent)[:8]} for {got[:8]} "
                    f"({len(sent)} and {len(got)} of them)",
                    expected="prompts taken as they are",
                    next="check its tokenizer and truncation settings",
                )
        return choices

    def reload(self) -> None:
        """Have it read its folder again, and forget what the old weights computed."""
        self.ask("/collective_rpc", {"method": "reload_weights"})
        self.ask("/reset_prefix_cache", post=True)


class Vllm:
    """Draws completions from a server; see `sampler.Sampler`.

    Raises:
        ConfigError: several workers with rollouts ahead: both would talk to each other at once.
    """

    foreign = True

    def __init__(self, parts: Parts, *, patience: float = WAIT, pause: float = 1.0) -> None:
        how, world = parts.config.rollout, parts.world
        if how.staleness and world.size > 1:
            raise ConfigError(
                f"rollout.engine=vllm with rollout.staleness={how.staleness} on {world.size} workers",
                expected="rollout.staleness=0, or one worker",
                next="rollout.staleness=0",
            )
        self.parts, self.how, self.world = parts, how, world
        self.folder = Path(how.folder).absolute() if how.folder else (parts.run / SERVED).absolute()
        assert how.url is not None
        self.server = Server(how.url, patience=patience, pause=pause)
        self._chat = chat(parts.codec) if talks(parts.codec) else None
        stops = self._chat.stop_ids if self._chat is not None else {parts.codec.eos_id}
        self.stops = frozenset(stops)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vllm")
        self._held: str | None = None  # hash of the weights that the server has
        self._open = False

    def draw(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        examples: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        places: Sequence[int],
    ) -> list[list[Completion]]:
        """`rollout.group` completions of each prompt, drawn with seeds that follow from (seed, place)."""
        del examples
        self._bring(model, prompts[0] if prompts else None)
        seeds = [(seed + place * 0x9E3779B97F4A7C15) % 2**63 for place in places]
        return list(self._pool.map(self._group, prompts, seeds))

    def text(self, completion: Completion) -> str:
        """The reply as a grader sees it."""
        ids = completion.ids
        if self._chat is not None:
            return self._chat.reply(ids)
        return self.parts.codec.decode(ids[:-1] if ids and ids[-1] in self.stops else ids)

    def close(self) -> None:
        """End the threads; the server stays."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # weights ------------------------------------------------------------------------------------

    def _bring(self, model: Model, prompt: Sequence[int] | None) -> None:
        """The server has the model's weights when this returns. With several workers all must call."""
        now = weights_hash(model)
        if now == self._held:
            return

        def act() -> None:
            self._write(model)
            if not self._open:
                self.server.open(self.folder, self.parts.codec, self.parts.config.model.context)
            self.server.reload()

        name: list[str] = self.world.first(lambda: [act(), self.server.name][1:])
        self.server.name = name[0]
        if prompt is not None:
            self._same_weights(model, prompt)
            if not self._open:
                self._same_temperature(model, prompt)
        self._held, self._open = now, True

    def _write(self, model: Model) -> None:
        """The model's folder, file by file whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        if free < size:
            raise TrainError(
                f"{self.folder} has {free / 1e6:.0f} MB free, the model takes {size / 1e6:.0f} MB",
                expected="room for the weights that the server reads",
                next="rollout.folder= a folder with room",
            )
        hf.save(model, self.parts.codec, self.folder)

    def _same_weights(self, model: Model, prompt: Sequence[int]) -> None:
        """Score a prompt on both sides.

        Raises:
            TrainError: the server's weights are others.
        """
        ids = list(prompt)
        if len(ids) < 2:
            return
        choice = self.server.complete(ids, max_tokens=1, temperature=1.0, prompt_logprobs=0, logprobs=0)[0]
        told = choice.get("prompt_logprobs") or []
        theirs = [float(each[str(i)]["logprob"]) for each, i in zip(told, ids, strict=True) if each]
        ours_TV = _logits(model, ids).log_softmax(-1)
        ours = [float(ours_TV[t, i]) for t, i in enumerate(ids[1:])]
        gaps = [abs(a - b) for a, b in zip(theirs, ours, strict=True)]
        if not (math.fsum(gaps) / len(gaps) <= CLOSE):
            raise TrainError(
                f"the server scores a prompt otherwise than the trainer: mean |Δ log p| "
                f"{math.fsum(gaps) / len(gaps):.3g} (limit {CLOSE}), log p of the whole "
                f"{math.fsum(theirs):.3f} and {math.fsum(ours):.3f}",
                expected="the weights that were just written",
                next=f"check that it serves {self.folder} and reads it again",
            )

    def _same_temperature(self, model: Model, prompt: Sequence[int]) -> None:
        """Whether it says log-probabilities at the temperature it draws at: its default is not to.

        Raises:
            TrainError: it says those of temperature 1.
        """
        heat = self.how.temperature
        if heat == 1:
            return
        choice = self.server.complete(prompt, max_tokens=1, temperature=heat, logprobs=0, seed=1)[0]
        token, theirs = int(choice["token_ids"][0]), float(choice["logprobs"]["token_logprobs"][0])
        logits_V = _logits(model, list(prompt))[-1]
        at_heat = float((logits_V / heat).log_softmax(-1)[token])
        plain = float(logits_V.log_softmax(-1)[token])
        if abs(theirs - plain) < abs(theirs - at_heat):
            raise TrainError(
                f"the server says log-probabilities of temperature 1 ({theirs:.4f}), it draws at {heat:g} "
                f"({at_heat:.4f})",
                expected="log-probabilities of what is drawn from",
                next="start it with --logprobs-mode processed_logprobs, or rollout.temperature=1",
            )

    # completions --------------------------------------------------------------------------------

    def _group(self, prompt: Sequence[int], seed: int) -> list[Completion]:
        room = self.parts.config.model.context - len(prompt)
        limit = min(self.how.max_new_tokens, room)
        choices = self.server.complete(
            prompt,
            n=self.how.group,
            max_tokens=limit,
            temperature=self.how.temperature,
            logprobs=0,
            seed=seed,
            stop_token_ids=sorted(self.stops),
        )
        if len(choices) != self.how.group:
            raise TrainError(
                f"the server gave {len(choices)} completions of a prompt", expected=str(self.how.group)
            )
        return [self._completion(choice, limit) for choice in choices]

    def _completion(self, choice: Mapping[str, Any], limit: int) -> Completion:
        ids = [int(i) for i in choice["token_ids"]]
        logps = [float(x) for x in (choice.get("logprobs") or {}).get("token_logprobs") or ()]
        if len(logps) != len(ids) or not ids or not all(map(math.isfinite, logps)):
            raise TrainError(
                f"the server gave {len(ids)} tokens with {len(logps)} log-probabilities",
                expected="a finite one for each token",
                next="check its log",
            )
        stopped = ids[-1] in self.stops
        if choice.get("finish_reason") == "stop" and not stopped:
            raise TrainError(
                f"a completion that ended by itself ends with id {ids[-1]}",
                expected=f"its stop token, one of {sorted(self.stops)}: else stopping is never learnt",
                next="check the eos and stop tokens of the server's generation_config.json",
            )
        if not stopped and len(ids) < limit:
            raise TrainError(
                f"a completion of {len(ids)} tokens was ended by {choice.get('finish_reason')!r}",
                expected=f"a stop token, or {limit} tokens",
                next="check the server's own limits",
            )
        return Completion(ids, logps, logps, "eos" if stopped else "length", logps)


@torch.no_grad()
def _logits(model: Model, ids: Sequence[int]) -> torch.Tensor:
    """(T, V) float32 logits after each of the ids."""
    head: Any = model.heads["tokens"]
    tokens_BT = torch.tensor([list(ids)], device=head.weight.device)
    training = model.training
    model.eval()
    hidden_TD = model({"tokens": tokens_BT}, Attention.CAUSAL)[0].float()
    model.train(training)
    logits_TV = hidden_TD @ head.weight.float().T
    return (logits_TV + head.bias.float() if head.bias is not None else logits_TV).cpu()


def _same(root: Any, folder: Path) -> bool:
    return isinstance(root, str) and Path(root).absolute() == folder


def _command(folder: Path) -> str:
    return f"VLLM_SERVER_DEV_MODE=1 vllm serve {folder} --logprobs-mode processed_logprobs"
