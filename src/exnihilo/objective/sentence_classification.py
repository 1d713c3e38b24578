"""Classification of one text: a class, one of two, several labels at once, or a number.

    exnihilo train sentence_classification init=runs/bert data=train.csv val=dev.csv
    exnihilo train sentence_classification data=mails.jsonl options.kind=multilabel options.separator=,

The encoding is [CLS] text [SEP]. What it shares with `pair_classification` (options, losses, metrics,
calibration) is in `_classes`. See docs/sentence_classification.md.
"""

from __future__ import annotations

from typing import ClassVar, final

from exnihilo.objective._classes import Classes


@final
class SentenceClassification(Classes):
    """{"text", "label"} -> {"label", "probabilities"}, {"labels", "probabilities"} or {"score"}."""

    roles: ClassVar[tuple[str, ...]] = ("text", "label")
    texts: ClassVar[tuple[str, ...]] = ("text",)
    view: ClassVar[str] = "sentiment"
