"""Classification of a pair of texts: entailment, paraphrase, similarity (regression).

    exnihilo train pair_classification init=runs/bert data=train.tsv val=dev.tsv
    exnihilo train pair_classification data=scored.jsonl options.kind=regression

The encoding is [CLS] a [SEP] b [SEP], segment 0 for a and 1 for b; the longer text is cut first. What it
shares with `sentence_classification` (options, losses, metrics, calibration) is in `_classes`. See
docs/pair_classification.md.
"""

from __future__ import annotations

from typing import ClassVar, final

from exnihilo.objective._classes import Classes


@final
class PairClassification(Classes):
    """{"a", "b", "label"} -> {"label", "probabilities"}, {"labels", "probabilities"} or {"score"}."""

    roles: ClassVar[tuple[str, ...]] = ("a", "b", "label")
    texts: ClassVar[tuple[str, ...]] = ("a", "b")
    view: ClassVar[str] = "entailment"
