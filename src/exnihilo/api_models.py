"""The verbs that use a trained model, as Python functions: ``xn.sample("runs/books", "Once")``.

Same names and same settings as the command line; `exnihilo.api` has those that train one. Every verb raises
`ExNihiloError` with what was given, expected and the next action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exnihilo import environment

if TYPE_CHECKING:
    from exnihilo.infer.chat import Conversation
    from exnihilo.infer.generate import Generation
    from exnihilo.predictions import Run

PathLike = str | Path


def load(run: PathLike, *, device: str = "auto") -> Run:
    """The model (in evaluation mode) and tokenizer of a run, a checkpoint of it, or a Hugging Face folder:
    ``.model``, ``.codec``, ``.path``, and ``.predict(...)``, ``.embed(...)`` or ``.generate(...)`` by what it
    was trained for. A run that is not finished gives its newest whole checkpoint.
    """
    environment.prepare()
    from exnihilo.parallel import resolve_device
    from exnihilo.predictions import load_run

    return load_run(run, device=resolve_device(device))


def predict(
    run: PathLike,
    examples: Any = None,
    *,
    file: PathLike | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    force: bool = False,
    fields: dict[str, str] | None = None,
    top_k: int | None = None,
    batch_tokens: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Any:
    """Answers of a run that was trained for a task, or a masked language model (``[MASK]`` in the text).

    Args:
        examples: a text, a tuple of texts (a pair, a question with its context), a mapping of roles, or a
            list of these. One example gives one prediction, a list a list.
        file: instead of `examples`: .jsonl, .csv, .tsv, .parquet, a text a line, or ``-`` (standard input).
        out: with `file`: a .jsonl to append to, one line a row, in order; returns its figures. Without it
            the list of lines is returned.
        resume: go on where `out` was cut.
        force: write over `out`.
        fields: with `file`: role -> column, where the names do not tell.
        top_k: keep at most so many alternatives of each prediction.
        batch_tokens: tokens of one forward; changes speed and memory, never a prediction.

    Example:
        >>> xn.predict("runs/qa", ("Who ran?", "Mia ran home."))["text"]    # doctest: +SKIP
        'Mia'
    """
    loaded = load(run, device=device)
    from exnihilo.predictions import ask

    return ask(
        loaded,
        examples,
        file=file,
        out=out,
        resume=resume,
        force=force,
        columns=fields,
        top_k=top_k,
        batch_tokens=batch_tokens,
        progress=progress,
    )


def sample(
    run: PathLike,
    prompt: str = "",
    *,
    n: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    device: str = "auto",
) -> list[Generation]:
    """`n` continuations of a prompt: ``.text``, ``.ids``, ``.logprobs``, ``.finish_reason`` each.

    ``temperature=0`` is greedy. The same seed gives the same texts.
    """
    loaded = load(run, device=device)
    loaded.check_writes()
    from exnihilo.infer import generate

    return generate(
        loaded.model,
        loaded.codec,
        [prompt] * n,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )


def chat(run: PathLike, *, system: str = "", device: str = "auto", **sampling: Any) -> Conversation:
    """A conversation with a chat model: ``.ask(text)`` gives a reply, ``.say(text)`` streams it.

    `sampling`: max_new_tokens (256), temperature (0.7), top_k, top_p, min_p, seed. A base model is refused.

    Example:
        >>> xn.chat("runs/chat", system="Be brief.").ask("Who are you?")    # doctest: +SKIP
    """
    environment.prepare()
    from exnihilo.predictions.chat import open_chat

    return open_chat(run, system=system, device=_device(device), **sampling)


def stream(
    run: PathLike,
    prompt: str = "",
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    device: str = "auto",
) -> Iterator[str]:
    """One continuation, piece by piece, in whole characters: ``for piece in xn.stream(run, "Once"): ...``."""
    loaded = load(run, device=device)
    loaded.check_writes()
    from exnihilo import infer

    return infer.stream(
        loaded.model,
        loaded.codec,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )


def eval(
    run: PathLike,
    *,
    data: Any = None,
    max_tokens: int | None = None,
    max_examples: int | None = None,
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    grader: str | Sequence[str] = "",
    suite: str | Sequence[str] = "",
    overrides: Sequence[str] = (),
    progress: bool = True,
    **replies: Any,
) -> dict[str, Any]:
    """What a run is worth on `data` or on its own held-out split.

    A run trained for a task: its metrics, and the majority baseline's under ``majority_...``. Any other: loss
    in nats a token, bits per byte, and of each source; with `grader`: pass@1, stop rate ... of its replies.

    Args:
        data: what ``data=`` takes in `train`: a path, a list of paths, or a table; None: the run's
            validation split.
        max_tokens: of a loss: read at most this many tokens.
        max_examples: of a task or with a grader: read at most this many examples.
        grader: what scores replies, e.g. ``"number"`` or ``"my.py:grade"``; see docs/graders.md.
        suite: ``"lambada,gsm8k=test.jsonl"``, ``"harness"`` with tasks="arc_easy" ...; see docs/eval.md.
        replies: with a grader: samples, temperature, max_new_tokens, seed, seconds, out (a .jsonl); with a
            suite also: chat, shots, shots_from, stride, tasks, include.
        overrides: ``KEY=VALUE`` texts under ``data``, as on the command line: ``data.format=conll``.
    """
    environment.prepare()
    if suite:
        from exnihilo.predictions.suites import run_suites

        return run_suites(
            run, suite=suite, data=data, overrides=overrides, max_tokens=max_tokens, dtype=dtype,
            max_examples=max_examples, device=_device(device), grader=grader, progress=progress, **replies,
        )  # fmt: skip
    from exnihilo.measure import evaluate_run

    return evaluate_run(
        Path(run), data=data, overrides=overrides, max_tokens=max_tokens, max_examples=max_examples,
        device=_device(device), dtype=dtype, progress=progress,
        replies={"grader": grader, **replies} if grader or replies else None,
    )  # fmt: skip


def probe(
    run: PathLike,
    *,
    data: Any = None,
    text: str | None = None,
    texts: int = 8,
    length: int | None = None,
    draws: int = 2,
    block: int = 1,
    seed: int = 0,
    device: str = "auto",
    out: PathLike | None = None,
) -> dict[str, Any]:
    """How much each input position bears on each output of a model, in nats, with pictures in ``RUN/probe/``.

    Args:
        data: examples, as ``data=`` of `train`; default: the run's own validation split.
        text: one text of your own instead; of a run that hears or sees the path of a file.
        texts, length: how many, and positions of each (64 tokens of a text, all of anything else).
        draws: swaps of each position. block: neighbours that are swapped together.

    Returns:
        ``first_to_last`` (mean, low, high; nats), ``reach``, ``future`` (0, or the model leaks), the same of
        an untrained network, ``truth`` where it is known, ``doubts``, and the files; see docs/probe.md.
    """
    environment.prepare()
    from exnihilo.probe.run import probe as measure

    return measure(
        run, data=data, text=text, texts=texts, length=length, draws=draws, block=block,
        seed=seed, device=_device(device), out=out,
    )  # fmt: skip


def export(
    run: PathLike,
    *,
    to: Literal["hf", "gguf", "onnx"] = "hf",
    out: PathLike,
    dtype: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a run's model in another project's format, prove it, and return the proof (also
    ``OUT/proof.json``).

    The proof: what was written is read into a fresh model, its logits equal the run's on real inputs, its
    tokenizer gives the same ids on a hard corpus; Transformers or llama.cpp, where it is installed, gives the
    same logits, ids and greedy texts. A failed proof raises ExNihiloError and leaves no model behind.

    Args:
        to: "hf", a Hugging Face folder, "gguf", a file for llama.cpp (decoders), or "onnx" (encoders).
        dtype: fp32, bf16 or fp16 (as the weights are); of a GGUF file f32 (the default), f16 or q8_0; of ONNX
            fp32 (the default), or int8 for a second file with int8 weights.
        force: replace `out`.
    """
    environment.prepare()
    from exnihilo.proof import export_run

    return export_run(Path(run), to=to, out=Path(out), dtype=dtype, force=force)


def import_(source: PathLike, *, out: PathLike, force: bool = False) -> Path:
    """Take a Hugging Face folder of a known family as a run folder, so that it can be sampled and trained
    on."""
    environment.prepare()
    from exnihilo.proof import import_folder

    return import_folder(Path(source), out=Path(out), force=force)


def _device(name: str) -> str:
    from exnihilo.parallel import resolve_device

    return str(resolve_device(name))


def serve(
    runs: PathLike | Sequence[PathLike], *, started: Callable[[str], None] | None = None, **settings: Any
) -> dict[str, Any]:
    """Answer over HTTP as OpenAI's interface does, with a web page, until SIGTERM or Ctrl-C; docs/serve.md.

    Args:
        runs: one or several: run folders, checkpoints, Hugging Face folders.
        started: is called with the address once requests are answered.
        settings: host, port, api_keys, slots, queue ...; see `exnihilo.serve.settings.Settings`.

    Returns:
        ``address``, ``signal``, and ``cut``: requests that were not finished.

    Example:
        >>> xn.serve(["runs/chat", "runs/sentiment"], port=8000)    # doctest: +SKIP
    """
    environment.prepare()
    from exnihilo.serve.run import serve as run
    from exnihilo.serve.settings import of

    return run([runs] if isinstance(runs, (str, Path)) else list(runs), of(settings), started=started)
