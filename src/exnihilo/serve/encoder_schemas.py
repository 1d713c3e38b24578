"""What requests to encoders may hold, and what they are answered; see schemas.py for the rules.

Rerank is named as Jina and Cohere name it, the others' answers are lists like OpenAI's embeddings.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from exnihilo.serve.schemas import Strict

TopK = Annotated[int | None, Field(None, ge=1, le=100, description="at most so many alternatives of each")]
Model = Annotated[str, Field(min_length=1, max_length=500, description="a name of /v1/models")]
User = Annotated[
    str | None, Field(None, max_length=500, description="who asks; written into the server's log")
]
Cut = Annotated[
    bool | None, Field(None, description="read what fits of a text that is too long, instead of refusing it")
]


class ClassifyRequest(Strict):
    """Labels of texts, or of what the model reads."""

    model: Model
    input: str | list[str] = Field(
        description="one text or several; of models that read sounds or pictures data URLs of these"
    )
    top_k: TopK
    truncate: Cut
    user: User


class Pair(Strict):
    """Two texts."""

    a: str
    b: str


class PairRequest(Strict):
    """How two texts stand to each other."""

    model: Model
    input: Pair | list[Pair] = Field(description="one pair or several")
    top_k: TopK
    truncate: Cut
    user: User


class RerankRequest(Strict):
    """Documents in the order in which they fit a query."""

    model: Model
    query: str
    documents: list[str]
    top_n: int | None = Field(None, ge=1, le=2**31, description="only the n best")
    return_documents: bool | None = Field(None, description="the texts come back, too")
    truncate: Cut
    user: User


class Asked(Strict):
    """A question and the text that may hold its answer."""

    question: str
    context: str


class AnswerRequest(Strict):
    """Where a text answers a question. Texts of any length: they are read in windows."""

    model: Model
    input: Asked | list[Asked] = Field(description="one question or several")
    top_k: TopK
    user: User


class TagRequest(Strict):
    """Tags of words. Texts of any length: they are read in windows. Either `input` or `words`."""

    model: Model
    input: str | list[str] | None = Field(None, description="one text or several; words are found in them")
    words: list[list[str]] | None = Field(None, description="texts that are divided into words already")
    user: User


class FillRequest(Strict):
    """Likeliest words of gaps."""

    model: Model
    input: str | list[str] = Field(description="one text or several, with [MASK] where a word is missing")
    top_k: TopK
    user: User


class Counts(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class Class(BaseModel):
    """Of one text or pair: a label with all probabilities, labels, or a score, by what was trained."""

    index: int
    label: str | None = None
    labels: list[str] | None = None
    score: float | None = None
    follows: bool | None = Field(None, description="of pairs: the second text follows the first")
    similarity: float | None = Field(None, description="of pairs: the cosine of their vectors")
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    cut: int | None = Field(None, description="tokens that were not read")


class ClassList(BaseModel):
    """In the order of the texts."""

    object: Literal["list"] = "list"
    model: str
    data: list[Class]
    usage: Counts


class Document(BaseModel):
    """A document."""

    text: str


class Rank(BaseModel):
    """A document's place."""

    index: int = Field(description="its place in the request")
    relevance_score: float
    document: Document | None = None
    cut: int | None = Field(None, description="tokens that were not read")


class Ranking(BaseModel):
    """The best document first."""

    object: Literal["list"] = "list"
    model: str
    results: list[Rank]
    usage: Counts


class Passage(BaseModel):
    """A part of the context; `start` and `end` count characters (code points)."""

    text: str
    start: int
    end: int
    probability: float


class Answer(BaseModel):
    """An answer; "" where the text has none."""

    index: int
    answer: str
    start: int | None
    end: int | None
    probability: float
    no_answer_probability: float
    null_difference: float | None
    nbest: list[Passage]


class AnswerList(BaseModel):
    """In the order of the questions."""

    object: Literal["list"] = "list"
    model: str
    data: list[Answer]
    usage: Counts


class Span(BaseModel):
    """A tagged part of a text; `start` and `end` count characters (code points), `first` and `last` words."""

    start: int
    end: int
    label: str
    text: str
    probability: float
    first: int
    last: int


class Tagged(BaseModel):
    """A text's words with their tags, and the spans that these make (where tags mark spans)."""

    index: int
    text: str
    words: list[str]
    starts: list[int]
    ends: list[int]
    tags: list[str]
    probabilities: list[float]
    spans: list[Span] | None = None


class TaggedList(BaseModel):
    """In the order of the texts."""

    object: Literal["list"] = "list"
    model: str
    data: list[Tagged]
    usage: Counts


class Word(BaseModel):
    """What may stand in a gap."""

    token: str
    id: int
    probability: float


class Filled(BaseModel):
    """A text with its gaps filled, and the candidates of each gap, best first."""

    index: int
    text: str
    gaps: list[list[Word]]


class FilledList(BaseModel):
    """In the order of the texts."""

    object: Literal["list"] = "list"
    model: str
    data: list[Filled]
    usage: Counts


REQUESTS: tuple[type[BaseModel], ...] = (
    ClassifyRequest, PairRequest, RerankRequest, AnswerRequest, TagRequest, FillRequest,
)  # fmt: skip
"""For the interface's schema."""

Shown = dict[str, Any]
