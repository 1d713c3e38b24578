"""The adapter between lm-evaluation-harness and a model here; `harness` says how it is used.

::

    lm = RunLM.open("runs/books")                       # or RunLM(model, codec)
    lm_eval.simple_evaluate(lm, tasks=["arc_easy"], limit=100)

Three questions are what the harness asks a model: how likely is this text behind that one, how likely is a
whole text, and how does a text go on. Texts are cut into prompt and continuation by the harness's own rule
(`TemplateLM`), and BOS goes before each, as in training. What does not fit the context loses its beginning,
as in the harness's own adapters; how often is said at the end.

In turns (``chat``) the harness hands over one text for a whole conversation; its markers are read as the
tokens that they name, and there alone.

Reference: https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/api/model.py.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM

from exnihilo import log
from exnihilo.codec.chat import END, ROLES, START, Chat
from exnihilo.errors import UsageError
from exnihilo.eval.likelihood import likelihoods
from exnihilo.infer import generate

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

NEW_TOKENS = 256  # of a reply, where a task names no number
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DRAWN = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_MARK = re.compile(rf"({re.escape(START)}(?:{'|'.join(ROLES)})\n|{re.escape(END)})")


class RunLM(TemplateLM):
    """A decoder as a model of lm-evaluation-harness.

    Args:
        model: any mode; used without gradients.
        codec: its tokenizer.
        chat: renders conversations, where the tasks are to be asked in turns.
        seed: of drawn replies.
        progress: is told what is done.

    Raises:
        UsageError: an encoder.
    """

    backend = "causal"

    def __init__(
        self,
        model: Model,
        codec: Codec,
        *,
        chat: Chat | None = None,
        seed: int = 0,
        progress: log.Progress | None = None,
    ) -> None:
        super().__init__()
        if "tokens" not in model.heads:
            raise UsageError(
                f"the model is an encoder ({', '.join(model.heads.keys())})", expected="a decoder"
            )
        self._model, self._codec, self._chat, self._seed = model, codec, chat, seed
        self._progress = progress or log.Quiet()
        self._device = next(model.parameters()).device
        self.max_length = model.config.context
        self.max_gen_toks = NEW_TOKENS
        self.notes: Counter[str] = Counter()

    @classmethod
    def open(cls, run: str | Path, *, device: str = "cpu", chat: bool = False, **more: Any) -> RunLM:
        """The adapter of a run, a checkpoint or a Hugging Face folder."""
        from exnihilo.interop.load import load

        loaded = load(run, device=device)
        return cls(loaded.model, loaded.codec, chat=Chat(loaded.codec) if chat else None, **more)

    def tell(self) -> None:
        """Says how often something did not fit."""
        for what, count in sorted(self.notes.items()):
            log.warn(f"harness: {count:,} {what}")

    @property
    def eot_token_id(self) -> int:
        return self._codec.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._codec.bos_id

    @property
    def tokenizer_name(self) -> str:
        return self._codec.hash

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """BOS and the ids of a text; without BOS where `add_special_tokens` is False."""
        begin = [] if add_special_tokens is False else [self._codec.bos_id]
        if self._chat is None:
            return [*begin, *self._codec.encode(string)]
        if begin and not self._own_bos:
            begin = []
        ids: list[int] = []
        for part in _MARK.split(string):
            if part == END:
                ids.append(self._codec.token_id(END))
            elif _MARK.fullmatch(part):
                ids += [self._codec.token_id(START), *self._codec.encode(part.removeprefix(START))]
            elif part:
                ids += self._codec.encode(part)
        return [*begin, *ids]

    @property
    def _own_bos(self) -> bool:
        return "bos" in self._codec.roles

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The Jinja text of the conversation's layout, for the harness's records."""
        return self._chat.template if self._chat is not None else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as one text, its last message left open where the reply is begun already."""
        if self._chat is None:
            raise UsageError("a conversation with a model that is not asked in turns", expected="chat=on")
        turns = [f"{START}{m['role']}\n{m['content'].strip()}" for m in chat_history]
        text = "".join(f"{turn}{END}\n" for turn in turns[:-1]) + "".join(turns[-1:])
        return f"{text}{END}\n{START}assistant\n" if add_generation_prompt else text

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if self._chat is not None:  # white space at the end belongs to the turn's header
            return self.tok_encode(context), self.tok_encode(continuation.lstrip(), add_special_tokens=False)
        before, after = super()._encode_pair(context, continuation)
        return before, after or self.tok_encode(continuation, add_special_tokens=False)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding writes it) of continuations behind their prompts."""
        return super().loglikelihood(requests, disable_tqdm=True)  # progress is told here

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        self._progress.start("harness: likelihoods", total=len(requests), unit="requests")
        found = likelihoods(self._model, [(c, t) for _, c, t in requests], progress=self._progress)
        self._progress.stop()
        self.notes["prompts did not fit the context and lost their beginning"] += sum(x.cut for x in found)
        self.notes += Counter()  # drops zeros
        out = [(one.logprob, one.greedy) for one in found]
        for (key, _, _), answer in zip(requests, out, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, answer)
        return out

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Summed log-probability of whole texts, each token predicted once, in windows of the context."""
        del disable_tqdm
        texts = [request.args[0] for request in requests]
        rows = [([self._codec.bos_id], self._codec.encode(text)) for text in texts]
        kept = [row for row in rows if row[1]]
        self._progress.start("harness: whole texts", total=len(kept), unit="texts")
        found = iter(likelihoods(self._model, kept, progress=self._progress))
        self._progress.stop()
        out = [next(found).logprob if row[1] else 0.0 for row in rows]
        for request, answer in zip(requests, out, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return out

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """How texts go on; request i draws with numbers that follow from (seed, i) alone."""
        del disable_tqdm
        given: list[Any] = [request.args for request in requests]  # (text, settings) each
        groups: dict[str, list[int]] = defaultdict(list)
        for number, (_, settings) in enumerate(given):
            groups[repr(sorted(settings.items(), key=str))].append(number)
        self._progress.start("harness: replies", total=len(requests), unit="replies")
        out = [""] * len(requests)
        for numbers in groups.values():
            kept, options = self._options(given[numbers[0]][1])
            room = max(1, self.max_length - kept)
            prompts = []
            for number in numbers:
                ids = self.tok_encode(given[number][0])
                self.notes["prompts did not fit beside their replies and lost their beginning"] += (
                    len(ids) > room
                )
                prompts.append(ids[-room:])
            # one call a run of neighbours: `first` counts requests
            for begin, end in _runs(numbers):
                part = prompts[begin:end]
                found = generate(
                    self._model, self._codec, part, max_new_tokens=kept, seed=self._seed,
                    first=numbers[begin], **options,
                )  # fmt: skip
                for number, one in zip(numbers[begin:end], found, strict=True):
                    out[number] = one.text
                    self.cache_hook.add_partial("generate_until", given[number], one.text)
                self._progress.advance(len(part))
        self._progress.stop()
        self.notes += Counter()
        return out

    def _options(self, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(new tokens, options of `generate`) of a task's generation_kwargs; refuses what it cannot obey."""
        left = {name: value for name, value in given.items() if value is not None}
        until = left.pop("until", [])
        most = next((int(left[name]) for name in _LIMITS if name in left), self.max_gen_toks)
        for name in _LIMITS:
            left.pop(name, None)
        sampled = bool(left.pop("do_sample", float(left.get("temperature", 0.0)) > 0))
        if left.pop("num_beams", 1) != 1:
            raise UsageError("num_beams in a task's generation_kwargs", expected="1: there is no beam search")
        drawn = {name: left.pop(name) for name in _DRAWN if name in left}
        if left:
            raise UsageError(
                f"generation_kwargs of a task: {', '.join(sorted(left))}",
                expected=", ".join(("until", "do_sample", "num_beams", *_LIMITS, *_DRAWN)),
                next="leave the task out, or change its .yaml",
            )
        drawn["temperature"] = float(drawn.get("temperature", 1.0)) if sampled else 0.0
        if drawn.get("top_k") == 0:
            del drawn["top_k"]  # Transformers' word for all
        stops = [until] if isinstance(until, str) else list(until)
        eos = self._chat.stop_ids if self._chat is not None else frozenset({self._codec.eos_id})
        limit = most if most < self.max_length else max(1, self.max_length // 2)
        if limit < most:
            self.notes[f"kinds of replies may have {most} tokens, but the context has room for {limit}"] += 1
        return limit, {**drawn, "stop": [text for text in stops if text], "eos": eos}


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """(begin, end) of the stretches of consecutive numbers.

    >>> _runs([3, 4, 5, 9])
    [(0, 3), (3, 4)]
    """
    cuts = [n for n in range(1, len(numbers)) if numbers[n] != numbers[n - 1] + 1]
    edges = [0, *cuts, len(numbers)]
    return [(edges[n], edges[n + 1]) for n in range(len(edges) - 1) if edges[n] < edges[n + 1]]
