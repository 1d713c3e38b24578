"""The proof of a GGUF file: what it holds is the model, and llama.cpp says what the model says.

::

    proof = prove_gguf(loaded, path, texts, HARD)
    proof["proved"], proof["lines"]

Held against the source: the file's weights, read into a fresh model (f32: logits within 1e-4; f16 and q8_0,
which round: the mean divergence of the next token's distribution), and the greedy texts of both. Held against
llama.cpp, where llama-cpp-python is installed: its tokenizer's ids on a hard corpus and the texts back, its
logits, and its greedy texts through the engine beside ours on the file's weights.

Greedy texts may part where two tokens are as good as equal: at a gap between both, in our logits, that is
less than twice the difference of logits, the allowed one in f32, else the measured one. Where they part
otherwise the proof fails.

Key: T positions, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exnihilo.errors import ModelError
from exnihilo.infer import llamacpp
from exnihilo.infer.engine import Engine
from exnihilo.infer.request import Request
from exnihilo.infer.sampling import Sampling
from exnihilo.interop.gguf import read_gguf
from exnihilo.interop.gguf_tokens import same_text, vocabulary
from exnihilo.interop.load import Loaded
from exnihilo.interop.readout import ours
from exnihilo.model import Model, build
from exnihilo.model.family import find
from exnihilo.model.model import fill_ties

EXACT = 1e-4  # largest difference of logits of one float32 model read twice
BOUNDS = {"f32": 1e-6, "f16": 1e-3, "q8_0": 2e-2}  # nats a token: mean divergence from the source
TABLE = 1e-2  # the same against llama.cpp where there is a GELU, which is a table in float16 there
_TOKENS = 192  # of each text
_NEW = 32  # tokens that are decoded greedily


def prove_gguf(
    loaded: Loaded, path: Path, texts: Sequence[str], hard: Sequence[str] = (), kind: str | None = None
) -> dict[str, Any]:
    """Compare a file with the model and tokenizer it was written from.

    Args:
        loaded: the source.
        path: the file.
        texts: real inputs, for logits and greedy texts.
        hard: further texts for the tokenizer.
        kind: f32, f16 or q8_0; None: what the file's name says.

    Returns:
        ``proved``, ``checks`` (each with ``held`` and its figures) and ``lines`` to print.

    Raises:
        ModelError: the file cannot be read.
    """
    kind = kind or path.stem.rpartition("-")[2]
    model, codec = loaded.model, loaded.codec
    checks: dict[str, dict[str, Any]] = {}
    lines: list[str] = []

    def note(name: str, held: bool, words: str, **figures: Any) -> None:
        checks[name] = {"held": held, **figures}
        lines.append(f"{'held  ' if held else 'FAILED'} {name}: {words}")

    source, fresh = _plain(model), _fresh(model, path)
    room = model.config.context - 1
    rows = [[codec.bos_id, *codec.encode(text)][: min(room, _TOKENS)] for text in texts]
    rows = [row for row in rows if len(row) > 1] or [[codec.bos_id]]
    mine = [ours(source, row)["tokens"] for row in rows]
    read = [ours(fresh, row)["tokens"] for row in rows]
    _note_logits(note, kind, mine, read)
    prompts = [row[: min(8, len(row))] for row in rows][:16]
    wanted = _greedy(Engine(source, slots=len(prompts)), prompts, codec.eos_id, room)
    got = _greedy(Engine(fresh, slots=len(prompts)), prompts, codec.eos_id, room)
    _note_greedy(note, "greedy", "the source's", source, prompts, wanted, got, _gap(mine, read))
    if not llamacpp.available():
        lines.append("not checked: llama-cpp-python is not installed (the extra 'llamacpp')")
    else:
        file = llamacpp.LlamaFile(path)
        _note_tokenizer(note, loaded, file, [*hard, *texts])
        step = llamacpp.LlamaStep(file, len(prompts), model.config.context)
        theirs = [_llama_logits(step, row) for row in rows]
        far, apart = _gap(read, theirs), _divergence(read, theirs)
        bound = (TABLE if find(model.config.family).mlp == "gelu_new" else EXACT) if kind == "f32" else None
        note(
            "llamacpp_logits",
            far <= bound if bound else apart <= BOUNDS[kind],
            f"max |Δ| {far:.1e}, {apart:.1e} nats a token from the file's weights on "
            f"{sum(map(len, rows))} tokens",
            max_difference=far,
            bound=bound,
            divergence=apart,
            divergence_bound=BOUNDS[kind] if bound is None else None,
        )
        step.refresh()
        engine = Engine(fresh, slots=len(prompts), step=step)
        said = _greedy(engine, prompts, codec.eos_id, room)
        _note_greedy(note, "llamacpp_greedy", "ours", fresh, prompts, got, said, bound or far)
    return {"proved": all(c["held"] for c in checks.values()), "checks": checks, "lines": lines}


def _note_logits(note: Any, kind: str, mine: list[Tensor], read: list[Tensor]) -> None:
    gap, apart = _gap(mine, read), _divergence(mine, read)
    tokens = sum(len(row) for row in mine)
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(mine, read, strict=True))
    note(
        "logits",
        (gap <= EXACT or kind != "f32") and apart <= BOUNDS[kind],
        f"max |Δ| {gap:.1e}, {apart:.1e} nats a token from the source, the same likeliest token at "
        f"{same} of {tokens} places, read back into a fresh model",
        max_difference=gap,
        bound=EXACT if kind == "f32" else None,
        divergence=apart,
        divergence_bound=BOUNDS[kind],
        tokens=tokens,
        same_token=same,
    )


def _note_tokenizer(note: Any, loaded: Loaded, file: llamacpp.LlamaFile, texts: Sequence[str]) -> None:
    """llama.cpp's ids, and the text that they stand for there."""
    codec = loaded.codec
    size = loaded.model.config.vocab_size
    assert size is not None
    words = vocabulary(codec, size)
    fair = [text for text in texts if same_text(codec, words, text)]
    ids = [codec.encode(text) for text in fair]
    wrong = [t for t, mine in zip(fair, ids, strict=True) if file.tokenize(t) != mine]
    back = sum(file.raw(mine).decode("utf-8", "replace") == codec.decode(mine) for mine in ids)
    left = f"; {len(texts) - len(fair)} left out: {words.loses}" if len(fair) < len(texts) else ""
    said = f"; the first that differs: {wrong[0]!r:.80}" if wrong else ""
    note(
        "llamacpp_tokenizer",
        not wrong and back == len(fair),
        f"{len(fair) - len(wrong)} of {len(fair)} hard texts to the same ids, {back} back to the same text"
        + left
        + said,
        texts=len(fair),
        same_ids=len(fair) - len(wrong),
        same_text=back,
        left_out=len(texts) - len(fair),
    )


def _note_greedy(
    note: Any,
    name: str,
    whose: str,
    model: Model,
    prompts: list[list[int]],
    wanted: list[list[int]],
    got: list[list[int]],
    gap: float,
) -> None:
    """Greedy texts are equal, but for ties."""
    equal, ties, worst = 0, 0, 0.0
    for prompt, mine, theirs in zip(prompts, wanted, got, strict=True):
        if mine == theirs:
            equal += 1
            continue
        at = next(i for i, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1])
        logits_V = ours(model, [*prompt, *mine[:at]])["tokens"][-1]
        margin = float(logits_V[mine[at]] - logits_V[theirs[at]])
        ties, worst = ties + (margin <= 2 * gap), max(worst, margin)
    parted = len(prompts) - equal
    words = f"{equal} of {len(prompts)} prompts go on token for token as {whose}"
    if parted:
        words += f"; {ties} of the others part between two tokens that are {worst:.1e} apart at most"
    note(name, ties == parted, words, prompts=len(prompts), equal=equal, ties=ties, widest=worst)


def _greedy(engine: Engine, prompts: list[list[int]], eos: int, room: int) -> list[list[int]]:
    sampling, new = Sampling(temperature=0), max(1, min(_NEW, room - max(map(len, prompts))))
    asked = [Request(p, new, sampling, stop_ids=frozenset({eos})) for p in prompts]
    return [done.ids for (done,) in engine.run(asked)]


def _llama_logits(step: llamacpp.LlamaStep, row: list[int]) -> Tensor:
    """Logits (T, V) after each token of a row."""
    step.refresh()
    places = range(len(row))
    return step.forward(row, [0] * len(row), places, places)


def _plain(model: Model) -> Model:
    """The model on the CPU in float32; itself where it is that already."""
    first = next(model.parameters())
    if first.device.type == "cpu" and first.dtype == torch.float32:
        return model
    copy = build(model.config, device="meta").to_empty(device="cpu")
    copy.load_state_dict({n: v.detach().float().cpu() for n, v in model.state_dict().items()}, strict=True)
    return copy.eval()


def _fresh(model: Model, path: Path) -> Model:
    """A model of the same shape with the file's weights; its other heads as they were."""
    state, _ = read_gguf(path, model.config)
    whole = {n: v.detach().float().cpu() for n, v in model.state_dict().items()}
    ties = {name for name in whole if name not in state and name.startswith(("front.", "trunk."))}
    if ties:
        raise ModelError(f"{path} lacks {', '.join(sorted(ties)[:4])}", expected="every weight of the trunk")
    fresh = build(model.config, device="meta").to_empty(device="cpu")
    others = {n: v for n, v in whole.items() if n.startswith(("heads.", "pooler."))}
    if model.config.tied:
        others = {n: v for n, v in others.items() if not n.startswith("heads.tokens.")}
    fresh.load_state_dict(fill_ties(fresh, others | state), strict=True)
    return fresh.eval()


def _gap(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest absolute difference; infinite where a number is not finite."""
    worst = 0.0
    for left, right in zip(a, b, strict=True):
        difference = (left - right).abs().max().item()
        worst = max(worst, difference) if difference == difference else float("inf")
    return worst


def _divergence(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Mean of KL(a ‖ b) over all places, in nats."""
    total, count = 0.0, 0
    for left, right in zip(a, b, strict=True):
        p, q = left.double().log_softmax(-1), right.double().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
        count += len(left)
    value = total / max(count, 1)
    return value if value == value else float("inf")
