"""What every format needs: how to read, lines of a stream, and the column names that are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exnihilo.config import DataConfig

NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        *("text", "content", "body", "story", "document", "doc", "article", "passage", "raw_content"),
        *("page", "markdown", "code", "raw_text", "full_text", "abstract", "sentence", "review", "poem"),
        *("transcript", "transcription", "caption"),
    ),
    "label": (
        *(
            "label",
            "labels",
            "gold_label",
            "label_text",
            "class",
            "category",
            "sentiment",
            "target",
            "quality",
        ),
        *("is_duplicate", "entailment_judgment", "intent", "topic", "emotion", "coarse_label", "relevance"),
        *("score", "similarity", "similarity_score", "relatedness_score", "rating", "stars"),
    ),
    "score": ("score", "similarity", "similarity_score", "relatedness_score", "rating", "stars"),
    "words": ("words", "tokens", "word", "token", "form"),
    "tags": (
        "tags",
        "ner_tags",
        "ner",
        "labels",
        "bio",
        "upos",
        "pos_tags",
        "pos",
        "xpos",
        "chunk_tags",
        "tag",
    ),
    "spans": ("spans", "entities", "label"),
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph", "document", "story", "article", "text"),
    "answers": ("answers", "answer"),
    "id": ("id", "qid", "question_id", "example_id", "guid", "pairid", "pair_id"),
    "query": ("query", "question", "anchor", "claim"),
    "document": ("document", "passage", "doc", "text", "context", "positive", "answer", "body", "abstract"),
    "a": ("a",),
    "b": ("b",),
    "sound": ("sound", "audio", "path", "file", "file_name", "filename", "wav", "clip", "audio_filepath"),
    "picture": ("picture", "image", "path", "file", "file_name", "filename", "img", "image_path"),
    "events": ("events", "annotations", "segments"),
}
"""Role -> names of columns that are taken for it, the likeliest first; compared without regard to case."""

PAIRS: tuple[tuple[str, str], ...] = (
    *(("a", "b"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("premise", "hypothesis")),
    *(("question1", "question2"), ("#1 string", "#2 string"), ("text_a", "text_b"), ("text1", "text2")),
    *(("sentence_a", "sentence_b"), ("sent1", "sent2"), ("s1", "s2"), ("first", "second")),
    *(("text_1", "text_2"), ("question_1", "question_2"), ("anchor", "positive"), ("question", "sentence")),
    *(("query", "positive"), ("query", "document"), ("query", "passage"), ("question", "answer")),
    *(("source", "target"), ("title", "body"), ("text", "hypothesis"), ("claim", "evidence")),
)
"""Names of the two columns of a pair, the likeliest first."""

KNOWN = frozenset({*(n for names in NAMES.values() for n in names), *(n for pair in PAIRS for n in pair)})
"""Every name that plays a part."""


@dataclass(frozen=True)
class Reading:
    """How files are read: the part of `DataConfig` that formats obey."""

    encoding: str = "utf-8"
    columns: tuple[str, ...] = ()
    header: bool | None = None
    quotes: bool | None = None

    @classmethod
    def of(cls, config: DataConfig) -> Reading:
        return cls(config.encoding, config.columns, config.header, config.quotes)


def lines_of(source: Iterator[str]) -> Iterator[str]:
    """Lines with their ends; only "\\n" ends one."""
    rest: list[str] = []
    for block in source:
        lines = block.split("\n")
        if len(lines) == 1:
            rest.append(block)
            continue
        yield "".join(rest) + lines[0] + "\n"
        for line in lines[1:-1]:
            yield line + "\n"
        rest = [lines[-1]]
    if last := "".join(rest):
        yield last
