"""What can be seen in the examples themselves: copies, leaks, labels, answers, tags.

Each check adds tables and findings to a `Diagnosis`; rows are named, the first five of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exnihilo.data.base import Example
from exnihilo.data.split import ANSWERS, inputs_hash
from exnihilo.doctor.report import Diagnosis, Table, share
from exnihilo.errors import DataError
from exnihilo.objective.base import Objective

if TYPE_CHECKING:
    from exnihilo.doctor.examine import Side

NAMED = 5  # rows that are named
_FEW_TRAIN, _FEW_VAL, _FEW_LABEL = 50, 100, 10
_IMBALANCE = 0.8  # share of the majority class that is warned of
_LISTED = 20  # labels in a table


def place(example: Example) -> str:
    """Where an example stands in the raw data."""
    where = str(example["_at"]) if "_at" in example else f"row {int(example.get('_index', -1)) + 1}"
    file = int(example.get("_file", 0))
    return f"file {file + 1}, {where}" if file else where


def named(rows: Sequence[str]) -> str:
    """The first rows, and how many more."""
    more = f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""
    return "; ".join(rows[:NAMED]) + more


def examples(objective: Objective, train: Side, val: Side, made: Diagnosis) -> None:
    """All checks of examples."""
    if objective.supervised:
        _sizes(train, val, made)
    _copies(objective, train, val, made)
    roles = objective.roles
    if "answers" in roles:
        for side in (train, val):
            _answers(side, made)
    elif "words" in roles:
        _tags(objective, train, val, made)
    elif "label" in roles and objective.supervised:
        _labels(objective, train, val, made)
    if {"a", "b"} <= set(roles):
        same = [place(e) for e in train.examples if str(e.get("a")).strip() == str(e.get("b")).strip()]
        if same:
            made.found(
                "warning", f"{len(same):,} pairs are one text twice: {named(same)}", "check the columns"
            )


def _sizes(train: Side, val: Side, made: Diagnosis) -> None:
    if train.whole and len(train.examples) < _FEW_TRAIN:
        made.found(
            "warning",
            f"{len(train.examples)} training examples are few: figures will vary much between seeds",
            "more data; control.seeds=5 shows the interval",
        )
    if val.whole and 0 < len(val.examples) < _FEW_VAL:
        half = 100 * 0.98 / len(val.examples) ** 0.5
        made.found(
            "note",
            f"{len(val.examples)} validation examples: an accuracy is known to about ±{half:.0f} points only",
            "a larger val=PATH or data.val_fraction",
        )


def _copies(objective: Objective, train: Side, val: Side, made: Diagnosis) -> None:
    """The same inputs twice in training, with other answers, or in both splits."""
    seen: dict[int, Example] = {}
    copies: list[str] = []
    torn: list[str] = []
    for example in train.examples:
        if not example.get("_begin", True):
            continue
        key = inputs_hash(example)
        first = seen.setdefault(key, example)
        if first is not example:
            copies.append(f"{place(example)} = {place(first)}")
            if _gold(first) != _gold(example):
                torn.append(f"{place(first)} and {place(example)}")
    total = len(train.examples)
    if copies:
        made.facts["duplicates in train"] = f"{len(copies):,} ({share(len(copies), total)})"
        level = "warning" if len(copies) > 0.01 * total else "note"
        made.found(level, f"{len(copies):,} training examples are copies: {named(copies)}", "remove them")
    if torn and objective.supervised:
        made.found(
            "warning",
            f"{len(torn):,} training examples have the same inputs and different answers: {named(torn)}",
            "correct them, or expect a ceiling",
        )
    leaks = [
        f"val {place(e)} = train {place(seen[k])}" for e in val.examples if (k := inputs_hash(e)) in seen
    ]
    if leaks:
        part = share(len(leaks), len(val.examples))
        made.facts["val examples also in train"] = f"{len(leaks):,} ({part})"
        made.found(
            "broken" if len(leaks) == len(val.examples) else "warning",
            f"{len(leaks):,} validation examples ({part}) are also training examples: {named(leaks)}",
            "remove them, else the figures are too good by what is remembered",
        )


def _gold(example: Example) -> str:
    return str({name: example[name] for name in sorted(ANSWERS & set(example)) if name != "id"})


# labels ---------------------------------------------------------------------------------------------


def _labels(objective: Objective, train: Side, val: Side, made: Diagnosis) -> None:
    counts = objective.facts.get("counts")
    if not isinstance(counts, dict):
        if "mean" in objective.facts:
            f = objective.facts
            made.facts["numbers"] = (
                f"{f['low']:g} to {f['high']:g}, mean {f['mean']:.3g}, deviation {f['std']:.3g}"
            )
        return
    known = list(counts)
    told = Counter(name for e in val.examples for name in _names(e.get("label"), known))
    total = max(1, int(objective.facts.get("examples", sum(counts.values()))))
    order = sorted(known, key=lambda name: -counts[name])
    rows = [[name, counts[name], share(counts[name], total), told.get(name, 0)] for name in order[:_LISTED]]
    title = "labels" + (f" (the first {_LISTED} of {len(order)})" if len(order) > _LISTED else "")
    made.tables.append(Table(title, ("label", "train", "share", "val"), rows))
    _balance({name: counts[name] for name in known}, total, made)
    unseen = {name: n for name, n in told.items() if name not in counts}
    if unseen:
        listed = named([f"{name!r} ({n:,})" for name, n in sorted(unseen.items(), key=lambda x: -x[1])])
        made.found(
            "warning",
            f"labels of val that training never sees, and can never predict: {listed}",
            "correct the labels, or give training examples of them",
        )
    absent = [name for name in known if not told.get(name)]
    if absent and val.examples and len(known) <= len(val.examples):
        made.found("note", f"labels that val has none of: {named(absent)}", "")


def _names(value: Any, known: Iterable[str]) -> list[str]:
    """Names in a label cell, spelled as the training split's."""
    if value is None:
        return []
    values = value if isinstance(value, (list, tuple)) else [value]
    out = []
    for one in values:
        text = str(one).strip()
        spelled = {text, text.lower()} | (
            {str(int(one))} if isinstance(one, float) and one.is_integer() else set()
        )
        found = next((name for name in known if name in spelled), None)
        if found is None and isinstance(one, str) and any(sign in one for sign in "|,"):
            found_all = [part.strip() for part in one.replace("|", ",").split(",")]
            if all(part in set(known) for part in found_all):
                out += found_all
                continue
        out.append(found if found is not None else text)
    return out


def _balance(counts: Mapping[str, int], total: int, made: Diagnosis, what: str = "training examples") -> None:
    if not counts:
        return
    top = max(counts, key=lambda name: counts[name])
    made.facts["majority"] = f"{top!r}, {share(counts[top], total)} of the {what}"
    if counts[top] > _IMBALANCE * total:
        made.found(
            "warning",
            f"{share(counts[top], total)} of the {what} are {top!r}: accuracy says little",
            "look at the F1 and the majority baseline",
        )
    few = [f"{name!r} ({n})" for name, n in counts.items() if n < _FEW_LABEL]
    if few:
        made.found("warning", f"labels with fewer than {_FEW_LABEL} {what}: {named(few)}", "more data")


# questions ------------------------------------------------------------------------------------------


def _answers(side: Side, made: Diagnosis) -> None:
    """Answers and their offsets."""
    from exnihilo.objective._answers import golds
    from exnihilo.objective._answers import place as find

    none, moved, lost, bad = 0, [], [], []
    for example in side.examples:
        try:
            answers = golds(example)
        except DataError as error:
            bad.append(f"{place(example)}: {error.given}")
            continue
        if not answers:
            none += 1
            continue
        how = find(str(example.get("context", "")), answers).how
        if how == "lost":
            lost.append(f"{place(example)}: {answers[0][0]!r:.50}")
        elif how == "moved":
            moved.append(f"{place(example)}: {answers[0][0]!r:.50}")
    total = len(side.examples)
    if not total:
        return
    made.facts[f"{side.name} questions without an answer"] = f"{none:,} ({share(none, total)})"
    if moved:
        made.found(
            "warning",
            f"{side.name}: {len(moved):,} answers ({share(len(moved), total)}) are not at their offset: "
            + named(moved),
            "training takes the place where the text is found",
        )
    if lost:
        made.found(
            "warning",
            f"{side.name}: {len(lost):,} answers ({share(len(lost), total)}) are nowhere in their context: "
            + named(lost),
            "correct them; in training they are left out",
        )
    if bad:
        made.found(
            "broken", f"{side.name}: {len(bad):,} answers cannot be read: {named(bad)}", "correct them"
        )
    if none == total:
        made.found("broken", f"{side.name}: not one question has an answer", "check the column of answers")


# tags -----------------------------------------------------------------------------------------------


def _tags(objective: Objective, train: Side, val: Side, made: Diagnosis) -> None:
    """Tags against words, broken spans, types by split."""
    scheme = str(objective.facts.get("scheme", "none"))
    kinds: dict[str, Counter[str]] = {"train": Counter(), "val": Counter()}
    rows: dict[str, list[str]] = defaultdict(list)
    words = outside = 0
    for side in (train, val):
        for example in side.examples:
            tags, own = example.get("tags"), example.get("words")
            if isinstance(tags, str):
                tags = tags.split()
            if isinstance(own, str):
                own = own.split()
            if not isinstance(tags, (list, tuple)) or not isinstance(own, (list, tuple)):
                for span in example.get("spans") or ():
                    if isinstance(span, Mapping):
                        kinds[side.name][str(span.get("label"))] += 1
                continue
            if len(tags) != len(own):
                rows["mismatch"].append(
                    f"{side.name} {place(example)}: {len(tags)} tags for {len(own)} words"
                )
                continue
            if side is train:
                words += len(tags)
                outside += sum(tag == "O" for tag in tags)
            before = "O"
            for at, tag in enumerate(map(str, tags)):
                letter, _, kind = tag.partition("-")
                if scheme == "none":
                    kinds[side.name][tag] += 1
                else:
                    opens = letter in ("B", "S", "U")
                    if opens:
                        kinds[side.name][kind] += 1
                    follows = before[:1] in ("B", "I", "M") and before.partition("-")[2] == kind
                    if letter in ("I", "E", "L", "M") and not follows:
                        rows["broken"].append(
                            f"{side.name} {place(example)}, word {at + 1}: {tag} after {before}"
                        )
                before = tag
    made.facts["scheme"] = scheme
    if words and scheme != "none":
        made.facts["words outside entities"] = share(outside, words)
    if any(kinds.values()):
        _kinds(kinds, scheme, made)
    if rows["mismatch"]:
        made.found(
            "warning",
            f"{len(rows['mismatch']):,} rows have more or fewer tags than words: {named(rows['mismatch'])}",
            "correct them; they are left out",
        )
    if rows["broken"]:
        made.found(
            "warning",
            f"{len(rows['broken']):,} tags go on with an entity that was not begun: {named(rows['broken'])}",
            "they are read as beginnings (as conlleval does); set options.scheme if the scheme was misread",
        )


def _kinds(kinds: Mapping[str, Counter[str]], scheme: str, made: Diagnosis) -> None:
    train, val = kinds["train"], kinds["val"]
    total = max(1, train.total())
    what = "tag" if scheme == "none" else "entity"
    order = [name for name, _ in train.most_common(_LISTED)]
    rows = [[name or "(no type)", train[name], share(train[name], total), val[name]] for name in order]
    made.tables.append(
        Table("tags" if scheme == "none" else "entities", (what, "train", "share", "val"), rows)
    )
    if scheme == "none":
        _balance(dict(train), total, made, "words")
    unseen = [f"{name!r} ({n:,})" for name, n in val.most_common() if name not in train]
    if unseen:
        made.found(
            "warning",
            f"{what} types of val that training never sees, and can never predict: {named(unseen)}",
            "correct the tags, or give training examples of them",
        )
    if scheme != "none" and not train.total():
        made.found("broken", "not one entity in the training split", "check the column of tags")
