"""lm-evaluation-harness on a run: its own tasks, the user's, and tasks over local files that need no network.

::

    evaluate_tasks(model, codec, "arc_easy,hellaswag", max_examples=100)           # data from the hub
    evaluate_tasks(model, codec, "lambada=passages.jsonl,gsm8k=test.jsonl", shots=5)
    lm_eval.simple_evaluate(adapter("runs/books"), tasks=[...])                     # the harness as it is

The adapter is `_harness.RunLM`; its likelihoods and texts are those of the same weights in Transformers. The
local tasks are defined here, over files of the shapes of docs/eval.md, so that a figure of ours can be held
against the harness's own: the suites of this folder and these tasks agree, and a test says so.

What the harness warns of is said once; what it cannot have (a data set without a network, a task that wants
to run code it was not asked to) is an error with its reason. Extra: ``eval``.

Reference: https://github.com/EleutherAI/lm-evaluation-harness (lm_eval 0.4).
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.codec.chat import Chat
from exnihilo.config import DataConfig
from exnihilo.data.base import Drops
from exnihilo.errors import DataError, MissingExtra, UsageError, nearest
from exnihilo.infer.interval import wilson

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

NAME = "harness"
OPTIONS = frozenset({"tasks", "include", "chat", "shots", "seed"})
LOCAL = ("lambada", "multiple_choice", "gsm8k", "bits_per_byte")
"""Tasks over local files: ``NAME=FILE``."""

_Z = 1.959964  # of a 95% interval, from the harness's standard error
_UNSAFE = "confirm_run_unsafe_code"


def adapter(run: str | Path, *, device: str = "cpu", chat: bool = False, seed: int = 0) -> LM:
    """A run, a checkpoint or a Hugging Face folder as a model of lm-evaluation-harness.

    Args:
        chat: ask in turns, where the harness is told ``apply_chat_template=True``.
        seed: of drawn replies.

    Raises:
        MissingExtra: lm-eval is not installed.
        UsageError: an encoder.

    Example:
        >>> lm_eval.simple_evaluate(adapter("runs/books"), tasks=["arc_easy"])      # doctest: +SKIP
    """
    with _quiet():
        try:
            from exnihilo.eval._harness import RunLM
        except ImportError as error:
            raise MissingExtra.of("lm-eval", "eval") from error
        return RunLM.open(run, device=device, chat=chat, seed=seed)


def evaluate_tasks(
    model: Model,
    codec: Codec,
    tasks: str | Sequence[str],
    *,
    include: str | Path | None = None,
    chat: Chat | None = None,
    shots: int | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    progress: log.Progress | None = None,
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Figures of tasks of the harness.

    Args:
        model: a decoder, any mode.
        codec: its tokenizer.
        tasks: names of tasks, groups or tags, or ``NAME=FILE`` of `LOCAL`; commas or a list.
        include: a folder with further tasks (.yaml).
        chat: ask in turns, as rendered by this.
        shots: shown examples; None: what each task says.
        max_examples: of each task.
        seed: of shown examples and of drawn replies.
        progress: is told what is done.

    Returns:
        Task -> its metrics, each with _low and _high where the harness gives an error, "examples" and
        "shots"; and one record an example that was asked.

    Raises:
        MissingExtra: lm-eval is not installed.
        UsageError: an unknown task, or one that runs code in this process.
        DataError: a task's data cannot be had.
    """
    with _quiet():
        try:
            from lm_eval.evaluator import evaluate
        except ImportError as error:
            raise MissingExtra.of("lm-eval", "eval") from error
        from exnihilo.eval._harness import RunLM

        shown = progress or log.Quiet()
        names = [t.strip() for t in (tasks.split(",") if isinstance(tasks, str) else tasks) if t.strip()]
        if not names:
            raise UsageError("no tasks", expected="names of lm-evaluation-harness, or NAME=FILE")
        drops = Drops()
        local = {name: _local(name, drops) for name in names if "=" in name}
        manager, found_names = _tasks(names, set(local), include, shown)
        wanted: list[Any] = [
            one for name in names for one in ([local[name]] if name in local else found_names[name])
        ]
        lm = RunLM(model, codec, chat=chat, seed=seed, progress=shown)
        try:
            loaded = manager.load(wanted)
            for name, task in loaded["tasks"].items():
                told = task.get_config("num_fewshot")
                if shots and told == 0:  # a task's own refusal
                    log.warn(f"harness: {name} takes no shown examples: shots={shots} has no effect on it")
                task.set_config(key="num_fewshot", value=(told or 0) if shots is None or told == 0 else shots)
                task.set_fewshot_seed(seed=seed)
            with redirect_stdout(sys.stderr):  # results alone go to standard output
                found = evaluate(
                    lm=lm, task_dict=loaded, limit=max_examples, bootstrap_iters=1000, log_samples=True,
                    apply_chat_template=chat is not None, fewshot_as_multiturn=chat is not None,
                )  # fmt: skip
        except (DataError, UsageError):
            raise
        except Exception as error:
            raise _told(error, ", ".join(names)) from error
    lm.tell()
    if drops.counts:
        log.warn(drops.summary("harness: "))
    assert found is not None, "one process"
    return figures(found), list(_items(found))


def _tasks(
    names: Sequence[str], local: set[str], include: str | Path | None, progress: log.Progress
) -> tuple[Any, dict[str, list[str]]]:
    """The harness's list of tasks, and which of them each name stands for. Its own thousands are listed
    (that takes a while) only where the user's folder does not have all that is asked for."""
    from lm_eval.tasks import TaskManager

    if include is not None and not Path(include).is_dir():
        raise UsageError(f"include={include}", expected="a folder with .yaml files of tasks")
    folder = str(include) if include is not None else None
    manager = TaskManager(include_path=folder, include_defaults=False)
    asked = [name for name in names if name not in local]
    if not all(manager.match_tasks([name]) for name in asked):
        progress.start("harness: list of tasks")
        manager = TaskManager(include_path=folder)
        progress.stop()
    found = {name: manager.match_tasks([name]) for name in asked}
    for name, matches in found.items():
        if not matches:
            raise UsageError(
                f"lm-evaluation-harness has no task {name!r}",
                expected=nearest(name, [*manager.all_tasks, *(f"{x}=FILE" for x in LOCAL)]),
                next="lm-eval ls tasks",
            )  # fmt: skip
    for name in {match for matches in found.values() for match in matches}:
        entry = manager.task_index.get(name)
        if entry is not None and (entry.cfg or {}).get("unsafe_code"):  # known before its data is fetched
            raise _unsafe(name)
    return manager, found


def figures(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Task -> metric -> number, from what the harness returns.

    >>> figures({"results": {"x": {"f1,none": 0.5, "f1_stderr,none": 0.1}}, "n-samples": {}, "n-shot": {}})
    {'x': {'f1': 0.5, 'f1_low': 0.304, 'f1_high': 0.696}}
    """
    out: dict[str, dict[str, Any]] = {}
    for task, metrics in found["results"].items():
        told: dict[str, Any] = {}
        count = int(found.get("n-samples", {}).get(task, {}).get("effective", 0))
        for key, value in metrics.items():
            metric, comma, way = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            name = metric if way == "none" else f"{metric}:{way}"
            told[name] = float(value)
            error = metrics.get(f"{metric}_stderr,{way}")
            if isinstance(error, (int, float)) and math.isfinite(error):
                low, high = _interval(metric, float(value), float(error), count)
                told |= {f"{name}_low": low, f"{name}_high": high}
        if count:
            told["examples"] = float(count)
        if (shots := found.get("n-shot", {}).get(task)) is not None:
            told["shots"] = float(shots)
        out[task] = told
    return out


def _interval(metric: str, value: float, error: float, count: int) -> tuple[float, float]:
    """95% of a figure with the harness's standard error: Wilson's where it is a share of right ones, as its
    error tells; on the logarithm for perplexities, which are above 0."""
    if (
        count > 1
        and 0 <= value <= 1
        and math.isclose(error, math.sqrt(value * (1 - value) / (count - 1)), rel_tol=1e-6, abs_tol=1e-9)
    ):
        return wilson(round(value * count), count)
    if "perplexity" in metric and value > 0:
        return value * math.exp(-_Z * error / value), value * math.exp(min(_Z * error / value, 700.0))
    return round(value - _Z * error, 6), round(value + _Z * error, 6)


def _items(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for task, samples in (found.get("samples") or {}).items():
        for sample in samples:
            metrics = {name: sample[name] for name in sample.get("metrics", ()) if name in sample}
            kept = {name: sample[name] for name in ("doc_id", "doc", "target", "filtered_resps")}
            yield {"suite": NAME, "task": task, **_plain(kept), **_plain(metrics)}


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _local(text: str, drops: Drops) -> dict[str, Any]:
    """A task of the harness over a local file, as its configuration."""
    name, _, path = text.partition("=")
    name = name.strip().replace("-", "_")
    if name not in LOCAL:
        raise UsageError(
            f"tasks={text!r}", expected=f"{', '.join(f'{x}=FILE' for x in LOCAL)}, or a task's name",
            next="see docs/eval.md",
        )  # fmt: skip
    rows = list(_rows(name, path, drops))
    if not rows:
        raise DataError(
            f"{path} has nothing for {name}{drops.summary(': ')}",
            expected="records of the shapes in docs/eval.md", next="check the file",
        )  # fmt: skip

    def dataset(**_: Any) -> dict[str, Any]:
        import datasets

        return {"test": datasets.Dataset.from_list(rows)}

    common = {
        "task": f"local_{name}", "custom_dataset": dataset, "test_split": "test", "fewshot_split": "test",
        "metadata": {"version": 1.0},
    }  # fmt: skip
    return {**common, **_TASKS[name]}


def _metric(name: str, up: bool = True, **more: Any) -> dict[str, Any]:
    return {"metric": name, "higher_is_better": up, **more}


_TASKS: dict[str, dict[str, Any]] = {
    "lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{target}}",
        "target_delimiter": "",
        "metric_list": [
            _metric("perplexity", False, aggregation="perplexity"), _metric("acc", aggregation="mean")
        ],
    },
    "multiple_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "answer",
        "doc_to_choice": "{{choices}}",
        "metric_list": [_metric("acc", aggregation="mean"), _metric("acc_norm", aggregation="mean")],
    },
    "gsm8k": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["Question:"], "do_sample": False, "max_gen_toks": 256},
        "metric_list": [
            _metric(
                "exact_match", aggregation="mean", ignore_case=True, ignore_punctuation=False,
                regexes_to_ignore=[",", "\\$", "(?s).*#### ", "\\.$"],
            )
        ],
        "filter_list": [
            {
                "name": "strict-match",
                "filter": [
                    {"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"},
                    {"function": "take_first"},
                ],
            },
            {
                "name": "flexible-extract",
                "filter": [
                    {
                        "function": "regex", "group_select": -1,
                        "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)",
                    },
                    {"function": "take_first"},
                ],
            },
        ],
    },
    "bits_per_byte": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "num_fewshot": 0,
        "metric_list": [
            _metric("bits_per_byte", False), _metric("byte_perplexity", False),
            _metric("word_perplexity", False),
        ],
    },
}  # fmt: skip


def _rows(name: str, path: str, drops: Drops) -> Iterator[dict[str, Any]]:
    """The items of a file, as the suites read them."""
    from exnihilo.eval.suites import _shapes, gsm8k, lambada, multiple_choice
    from exnihilo.eval.suites._records import documents, is_world
    from exnihilo.eval.suites._world import passages, problems, questions, stories

    data = DataConfig.model_validate({"sources": path})
    if name == "bits_per_byte":
        texts = stories(data) if is_world(data) else (text for _, text in documents(data, drops))
        yield from ({"text": text} for text in texts if text.strip())
        return
    read = {
        "lambada": (passages, lambada.read_from), "gsm8k": (problems, gsm8k.read_from),
        "multiple_choice": (questions, multiple_choice.read_from),
    }[name]  # fmt: skip
    for item in read[0](data) if is_world(data) else read[1](data, drops):
        if isinstance(item, _shapes.Passage):
            yield {"context": item.context, "target": item.target}
        elif isinstance(item, _shapes.Problem):
            yield {"question": item.question, "answer": item.answer}
        elif item.suffix:
            drops.add(
                "records with a gap, which the suite multiple_choice reads and this task does not", path
            )
        else:
            prompt = multiple_choice.asks(item)
            yield {"prompt": prompt, "choices": list(item.choices), "answer": item.answer}


def _told(error: Exception, tasks: str) -> Exception:
    """An error of the harness in words."""
    text = " ".join(str(error).split())[:300]
    if _UNSAFE in text or "unsafe" in text.lower():
        return _unsafe(tasks)
    chain: BaseException | None = error
    while chain is not None:
        kind = type(chain).__name__
        if isinstance(chain, (OSError, ConnectionError)) or "Offline" in kind or "DatasetNotFound" in kind:
            return DataError(
                f"the data of {tasks} cannot be had: {type(error).__name__}: {text}",
                expected="a network, or data sets in the cache of `datasets`",
                next="--tasks NAME=FILE reads local files: " + ", ".join(LOCAL),
            )
        chain = chain.__cause__ or chain.__context__
    return DataError(
        f"lm-evaluation-harness failed on {tasks}: {type(error).__name__}: {text}",
        expected="tasks that it can run", next="EXNIHILO_DEBUG=1 shows where",
    )  # fmt: skip


def _unsafe(tasks: str) -> UsageError:
    return UsageError(
        f"tasks={tasks} runs what the model wrote in this process, with nothing around it",
        expected="tasks that only read",
        next="exnihilo eval RUN --suite code=FILE runs it in a sandbox",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's own log lines and the warnings of its imports: what matters is said in words."""
    harness = logging.getLogger("lm_eval")
    before = harness.level
    harness.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        harness.setLevel(before)
