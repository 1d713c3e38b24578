"""Can reinforcement learning learn here? Looked at before: the model, the prompts and the grader.

::

    diagnosis = examine(config)         # what ``exnihilo doctor rlvr init=RUN data=tasks.jsonl`` shows

A policy gradient learns from differences of rewards within a group, so what counts is how many groups have
any: their share, the chance level (pass@1 of the model as it is) and pass@k (whether the right answer is ever
drawn) are measured with the run's own sampler settings. The grader is tried with answers whose worth is known
(`fuzz`): what it pays for wrongly is what would be learnt. Nothing is trained.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from exnihilo import data as datas
from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.data.base import Drops
from exnihilo.doctor.fuzz import fuzz, main
from exnihilo.doctor.report import Diagnosis, Sample, Table, share
from exnihilo.errors import DataError
from exnihilo.eval.graders import Grader, create, fields, grade_many
from exnihilo.eval.replies import Reply, errors, evaluate_replies
from exnihilo.objective.base import Objective
from exnihilo.train.facts import reading
from exnihilo.train.source.tasks import prompt_text, tasks_of

if TYPE_CHECKING:
    from exnihilo.interop.load import Loaded

PROMPTS = 64  # answered, where nothing else is said
READ = 5000  # prompts read
LOW, HIGH = 0.05, 0.95  # chance between them leaves differences to learn from
FLAT = 0.9  # share of groups without any
Example = Mapping[str, Any]


def examine(
    config: RunConfig, objective: Objective, made: Diagnosis, *, max_examples: int | None, samples: int
) -> Diagnosis:
    """Examine what rollouts would learn from; findings go into `made`.

    Args:
        config: as for training.
        max_examples: prompts that the model answers (64).
        samples: replies shown.

    Raises:
        UsageError: a grader that cannot be made.
    """
    grader = create(config.grader)
    spec = config.grader if isinstance(config.grader, str) else ",".join(config.grader)
    made.facts["grader"] = spec
    try:
        tasks = _tasks(config, objective, "train", made)
        if not tasks:
            raise DataError("the training data has no prompt", next="check data=PATH and data.fields")
        others = _tasks(config, objective, "val", made)
    except DataError as error:
        made.found("broken", error.given, "; ".join(filter(None, (error.expected, error.next))))
        return made
    _leaks(tasks, others, made)
    if not _gold(tasks, grader, made):
        return made
    _fuzz(grader, spec, tasks, config.seed, made)
    guess = _guesses(tasks, grader, made)
    loaded = _model(config, made)
    if loaded is not None:
        _try(config, loaded, tasks, grader, spec, guess, max_examples or PROMPTS, samples, made)
    return made


# the data -----------------------------------------------------------------------------------------------


def _tasks(
    config: RunConfig, objective: Objective, side: Literal["train", "val"], made: Diagnosis
) -> list[Example]:
    drops, out, whole = Drops(), [], True
    for example in datas.examples(config.data, config.val, side, drops=drops, **reading(objective)):
        if len(out) >= READ:
            whole = False
            break
        out += tasks_of([example])
    more = "" if whole else " (the first; the rest was not read)"
    made.facts[f"{side} prompts"] = f"{len(out):,}{more}"
    if drops.counts:
        made.facts[f"{side} skipped"] = drops.summary().removeprefix("skipped ")
        if side == "train" or config.val is not None:
            made.found(
                "warning",
                f"{drops.counts.total():,} records are left out: {drops.summary()}",
                "correct them, or leave it so: nothing else is lost",
            )
    if side == "val" and not out:
        made.found("warning", "there are no validation prompts: no held-out pass@1", "val=PATH")
    return out


def _leaks(train: Sequence[Example], val: Sequence[Example], made: Diagnosis) -> None:
    known = {str(e["prompt"]) for e in train}
    same = sum(str(e["prompt"]) in known for e in val)
    if same:
        made.found(
            "warning",
            f"{same:,} of {len(val):,} validation prompts are training prompts too: their pass@1 is no gain",
            "give prompts of their own: val=PATH",
        )
    twice = len(train) - len(known)
    if twice > 0.05 * len(train):
        made.found("note", f"{twice:,} training prompts come more than once")


def _gold(tasks: Sequence[Example], grader: Grader, made: Diagnosis) -> bool:
    """Whether the tasks have gold that the grader can read."""
    grades = grade_many(grader, tasks[:500], ["0"] * len(tasks[:500]))
    lost = [i for i, g in enumerate(grades) if g.score is None and not g.failed]
    failed = [g for g in grades if g.failed]
    if failed and len(failed) == len(grades):
        made.found(
            "broken", f"the grader fails on every example: {failed[0].error}", "try it alone: docs/graders.md"
        )
        return False
    if failed:
        made.found("warning", f"the grader fails on {len(failed):,} of {len(grades):,} examples, the reply "
                   f"being '0': {failed[0].error}", "a reply on which it fails scores nothing")  # fmt: skip
    if lost:
        rows = ", ".join(str(tasks[i].get("_at", f"record {i + 1}")) for i in lost[:5])
        level = "broken" if len(lost) == len(grades) else "warning"
        made.found(
            level,
            f"{len(lost):,} of {len(grades):,} examples have no gold that the grader can read: {rows}"
            f"{' ...' if len(lost) > 5 else ''}",
            "name the column with data.fields={answer = \"COLUMN\"}, or take another grader; without gold "
            "there is never a reward",
        )  # fmt: skip
    made.facts["gold"] = (
        f"{share(len(grades) - len(lost), len(grades))} of the examples have gold that can be read"
    )
    return len(lost) < len(grades)


def _guesses(tasks: Sequence[Example], grader: Grader, made: Diagnosis) -> float:
    """What knowing nothing of the prompt gives: the most frequent answer, and another prompt's."""
    golds = [(t, g) for t, g in ((t, fields.answer(t)) for t in tasks[:500]) if g is not None]
    if len(golds) < 2:
        return 0.0
    asked = [t for t, _ in golds]
    top, _ = Counter(g for _, g in golds).most_common(1)[0]
    shifted = [golds[(i + 1) % len(golds)][1] for i in range(len(golds))]
    always = _right(grader, asked, [top] * len(asked))
    random = _right(grader, asked, shifted)
    made.facts["always the same answer"] = f"{always:.3f} right ({' '.join(top.split())[-40:]!r})"
    made.facts["another prompt's answer"] = f"{random:.3f} right"
    return max(always, random)


def _right(grader: Grader, asked: Sequence[Example], texts: Sequence[str]) -> float:
    return float(np.mean([g.right for g in grade_many(grader, asked, texts)]))


# the grader ---------------------------------------------------------------------------------------------


def _fuzz(grader: Grader, spec: str, tasks: Sequence[Example], seed: int, made: Diagnosis) -> None:
    found = fuzz(grader, spec, tasks, seed=seed)
    if not found.right and not found.wrong:
        made.found(
            "note", f"nothing is known of what {spec} should pay for: it was not tried", "docs/graders.md"
        )
        return
    made.facts["grader, right answers unpaid"] = f"{len(found.unpaid_right)} of {found.right}"
    made.facts["grader, wrong answers paid"] = f"{len(found.paid_wrong)} of {found.wrong}"
    rows = [row[:4] + (row[4],) for row in found.rows]
    if rows:
        made.tables.append(Table("the grader, tried", ("answer", "is", "tries", "paid", "mistake"), rows))
    if found.paid_wrong:
        kind, text, gold = found.paid_wrong[0]
        kinds = ", ".join(dict.fromkeys(k for k, _, _ in found.paid_wrong))
        made.found(
            "broken" if len(found.paid_wrong) > 0.02 * found.wrong else "warning",
            f"the grader pays for wrong answers ({kinds}), such as {text!r}"
            + (f" for {gold!r}" if gold else ""),
            "training would find it: make the grader stricter, or take another",
        )
    if found.paid_unreadable:
        made.found("broken", "the grader pays where there is no gold that can be read", "return None there")
    if found.right and len(found.unpaid_right) == found.right:
        made.found("broken", "the grader pays for no right answer in any form", "try it on the gold itself")
    elif found.unpaid_right:
        kinds = ", ".join(dict.fromkeys(repr(k) for k, _, _ in found.unpaid_right))
        level = "note" if main(spec) == "own" else "warning"
        made.found(level, f"the grader refuses right answers of these forms: {kinds}",
                   "teach the form that it pays for, or let it read these")  # fmt: skip
    if found.failed:
        made.found(
            "warning", f"the grader failed {found.failed} times: {found.reason}", "such replies score nothing"
        )


# the model ----------------------------------------------------------------------------------------------


def _model(config: RunConfig, made: Diagnosis) -> Loaded | None:
    if config.init is None:
        made.found(
            "broken",
            "no model is given: from random weights no right answer is ever drawn, and nothing is learnt",
            "init=RUN, a model that answers in the form: exnihilo train sft init=BASE data=PATH",
        )
        return None
    from exnihilo.interop.load import load

    loaded = load(config.init)
    made.facts["init"] = f"{config.init} ({loaded.model.config.family}, {loaded.codec.vocab_size:,} ids)"
    return loaded


def _try(
    config: RunConfig,
    loaded: Loaded,
    tasks: Sequence[Example],
    grader: Grader,
    spec: str,
    guess: float,
    prompts: int,
    samples: int,
    made: Diagnosis,
) -> None:
    """Draw groups as training would, and say what they would teach."""
    how = config.rollout
    at = np.random.default_rng(config.seed).permutation(len(tasks))[:prompts]
    asked = [tasks[i] for i in sorted(at)]
    try:
        with log.listen(lambda text: _warned(text, made)):
            found, replies = evaluate_replies(
                loaded.model, loaded.codec, asked, grader, samples=how.group,
                max_new_tokens=how.max_new_tokens, temperature=how.temperature, seed=config.seed,
            )  # fmt: skip
    except DataError as error:
        made.found("broken", error.given, error.next)
        return
    flat = flat_share(replies, how.group)
    k = how.group
    made.facts["tried"] = f"{int(found['prompts'])} prompts × {k}, at most {how.max_new_tokens} tokens, " \
        f"temperature {how.temperature:g}"  # fmt: skip
    for name, figure in (("chance (pass@1)", "pass@1"), (f"pass@{k}", f"pass@{k}"), ("reward", "score"),
                         ("stop rate", "stop_rate"), ("length", "length")):  # fmt: skip
        low, high = found[f"{figure}_low"], found[f"{figure}_high"]
        made.facts[name] = f"{found[figure]:.3f} [{low:.3f}, {high:.3f}]"
    made.facts["groups without differences"] = share(flat, 1)
    for reason, count in errors(replies).most_common(3):
        made.found("warning", f"{count:,} of {len(replies):,} replies have no score: {reason}",
                   "they score nothing")  # fmt: skip
    _verdict(found, flat, k, how.prompts, main(spec) in ("reward_model", "length"), guess, made)
    for group in range(0, len(replies), k)[:samples]:
        made.samples.append(_sample(asked, replies[group : group + k]))


def _warned(text: str, made: Diagnosis) -> None:
    if text.startswith("warning: "):
        made.found("warning", text.removeprefix("warning: "), "a larger model.context, or shorter prompts")


def flat_share(replies: Sequence[Reply], group: int) -> float:
    """Share of groups whose rewards are all equal (up to rounding): they have no gradient."""
    scores = np.array([r.graded.score or 0.0 for r in replies], np.float64).reshape(-1, group)
    return float(np.mean(np.ptp(scores, axis=1) <= 1e-9))


def _verdict(
    found: Mapping[str, float], flat: float, k: int, prompts: int, levels: bool, guess: float, made: Diagnosis
) -> None:
    """Whether there is anything to learn from."""
    chance, best = found["pass@1"], found[f"pass@{k}"]
    useful = prompts * (1 - flat)
    name = "can RL learn here?"
    if flat == 1.0:
        made.facts[name] = "no: every group's rewards are equal"
        bound = 1 - 0.05 ** (1 / found["replies"])
        why = "all replies are right" if chance == 1 else "no reply is right"
        tail = f" (with 95% confidence fewer than {share(bound, 1)} would be)" if chance == 0 else ""
        made.found(
            "broken", f"no group has a difference to learn from: {why}{tail}" if not levels else
            "no group has a difference to learn from",
            "harder prompts" if chance == 1 else
            "sft first, on replies in the form that the grader reads; easier prompts; a larger rollout.group",
        )  # fmt: skip
        return
    if levels:
        made.facts[name] = f"yes: of a step's {prompts} groups about {useful:.1f} have differences"
    elif chance < LOW and best < 2 * LOW:
        made.facts[name] = f"hardly: a right reply is drawn for {share(best, 1)} of the prompts in {k} tries"
        made.found(
            "warning", f"chance is {chance:.3f}: nearly all replies would teach nothing",
            "sft first, or easier prompts: chance between 5% and 40% is what small models learn from",
        )  # fmt: skip
    elif chance > HIGH:
        made.facts[name] = "little: nearly all replies are right already"
        made.found("warning", f"chance is {chance:.3f}: there is little to learn", "harder prompts")
    else:
        made.facts[name] = (
            f"yes: chance {chance:.3f}, {share(best, 1)} of the prompts are solved once in {k} tries, "
            f"and of a step's {prompts} groups about {useful:.1f} have differences"
        )
    if flat > FLAT:
        made.found(
            "warning", f"{share(flat, 1)} of the groups have equal rewards: {useful:.1f} a step teach",
            "rollout.dynamic=true, a larger rollout.group, or prompts of the model's level",
        )  # fmt: skip
    if not levels and chance and guess >= chance and guess > 0:
        made.found(
            "warning", f"an answer blind to the prompt is right in {guess:.3f}, the model in {chance:.3f}",
            "compare later gains with that, not with 0",
        )  # fmt: skip
    if found["stop_rate"] < 0.5:
        made.found(
            "warning", f"{share(1 - found['stop_rate'], 1)} of the replies do not end by themselves",
            "a larger rollout.max_new_tokens, or sft first: it teaches to stop",
        )  # fmt: skip
    if not levels and math.isclose(best, chance, abs_tol=0.02) and LOW < chance < HIGH:
        made.found("note", f"pass@{k} is hardly above pass@1: replies to a prompt are much the same",
                   "a higher rollout.temperature")  # fmt: skip


def _sample(asked: Sequence[Example], group: Sequence[Reply]) -> Sample:
    """A prompt with its replies, the different ones."""
    example = asked[group[0].example]
    gold = fields.answer(example)
    title = " ".join(prompt_text(example["prompt"]).split())[:100]
    sample = Sample(title + (f" -> {' '.join(gold.split())[-40:]!r}" if gold else ""))
    for text, times in Counter(r.text for r in group).most_common(4):
        reply = next(r for r in group if r.text == text)
        score = "none" if reply.graded.score is None else f"{reply.graded.score:g}"
        kind = "answer" if reply.graded.right else "wrong"
        shown = " ".join(text.split())[:90] or "(nothing)"
        sample.add((f"{times} × ", "special"), (shown, kind), (f"  reward {score}", "special"),
                   *((("  cut", "special"),) if not reply.stopped else ()))  # fmt: skip
    return sample
