"""What encoders answer over HTTP: classify, pair, rerank, answer, tag, fill-mask.

    app.include_router(encoders.router(shelf, settings))
    # POST /v1/tag {"model": "tags", "input": "Mia lives in Rome."} -> data[0].spans with character offsets

Requests that wait together go through the model together (see batcher.py). A text that the model cannot read
whole is refused with both counts unless the request says ``truncate``; questions, tags and gaps have no such
limit: long texts are read in windows. One bad text refuses its request, and no other.

Reference: https://docs.cohere.com/reference/rerank (rerank), docs/encoder_serving.md (all).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exnihilo.errors import MissingExtra
from exnihilo.serve import encoder_schemas as shapes
from exnihilo.serve import media, sse, writing
from exnihilo.serve.body import documented, read
from exnihilo.serve.errors import ApiError

if TYPE_CHECKING:
    from fastapi import APIRouter

    from exnihilo.serve.models import Served, Shelf
    from exnihilo.serve.settings import Settings

CLASSIFY, PAIR, RERANK = "/v1/classify", "/v1/pair", "/v1/rerank"
ANSWER, TAG, FILL = "/v1/answer", "/v1/tag", "/v1/fill-mask"
TASKS: dict[str, tuple[str, ...]] = {
    "sentence_classification": (CLASSIFY,),
    "sound_classification": (CLASSIFY,),
    "picture_classification": (CLASSIFY,),
    "pair_classification": (PAIR,),
    "next_sentence": (PAIR,),
    "sentence_order": (PAIR,),
    "embeddings": ("/v1/embeddings", PAIR),
    "rerank": (RERANK,),
    "span_qa": (ANSWER,),
    "token_tagging": (TAG,),
    "masked_lm": (FILL,),
}
"""Task -> where a model that was trained for it answers."""

_KEPT = ("label", "labels", "score", "follows", "similarity", "probability", "probabilities", "cut")


def endpoints(served: Served) -> list[str]:
    """Where an encoder answers; of several objectives at once what each of them does."""
    members = getattr(served.batcher.predictor.objective, "members", {}) if served.batcher else {}
    names = list(members) or [served.task or ""]
    return list(dict.fromkeys(path for name in names for path in TASKS.get(name, ())))


def router(shelf: Shelf, settings: Settings) -> APIRouter:
    """The addresses of encoders.

    Raises:
        MissingExtra: fastapi is not installed.
    """
    try:
        from fastapi import APIRouter, Request
        from starlette.responses import Response
    except ImportError:
        raise MissingExtra.of("fastapi", "serve") from None

    routes = APIRouter(tags=["encoders"])

    async def classify(request: Request) -> Response:
        """Labels of texts; of sounds and pictures where the model was trained for these."""
        asked = await read(request, shapes.ClassifyRequest)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        role = media.role_of(model_for(shelf, asked.model, CLASSIFY))
        if role is not None:
            if asked.truncate is not None:
                raise ApiError(f"truncate is about texts, and {asked.model} reads {role}s", param="truncate")
            async with media.files(texts, role, param="input") as files:
                return await answered(request, CLASSIFY, asked, files)
        given = [{"text": text} for text in texts]
        return await answered(request, CLASSIFY, asked, given, truncate=bool(asked.truncate))

    async def pair(request: Request) -> Response:
        """How two texts stand to each other."""
        asked = await read(request, shapes.PairRequest)
        pairs = asked.input if isinstance(asked.input, list) else [asked.input]
        given = [{"a": each.a, "b": each.b} for each in pairs]
        return await answered(request, PAIR, asked, given, truncate=bool(asked.truncate))

    async def rerank(request: Request) -> Response:
        """Documents in the order in which they fit a query."""
        asked = await read(request, shapes.RerankRequest)
        given = [{"query": asked.query, "document": text} for text in asked.documents]
        served = model_for(shelf, asked.model, RERANK)
        work = ask(served, settings, given, param="documents", truncate=bool(asked.truncate))
        note(request, asked.user)
        found, tokens = await sse.until_gone(request, work)
        return await written(given, lambda: ranked(served.name, asked, found, tokens))

    async def answer(request: Request) -> Response:
        """Where a text answers a question."""
        asked = await read(request, shapes.AnswerRequest)
        listed = asked.input if isinstance(asked.input, list) else [asked.input]
        given = [{"question": each.question, "context": each.context} for each in listed]
        return await answered(request, ANSWER, asked, given)

    async def tag(request: Request) -> Response:
        """Tags of words."""
        asked = await read(request, shapes.TagRequest)
        if (asked.input is None) == (asked.words is None):
            said = "both input and words" if asked.words is not None else "neither input nor words"
            raise ApiError(f"{said}; expected: one of them", param="input")
        if asked.words is not None:
            given: list[dict[str, Any]] = [{"words": words} for words in asked.words]
            return await answered(request, TAG, asked, given, param="words")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input or []
        return await answered(request, TAG, asked, [{"text": text} for text in texts])

    async def fill(request: Request) -> Response:
        """Likeliest words of gaps."""
        asked = await read(request, shapes.FillRequest)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        return await answered(request, FILL, asked, [{"text": text} for text in texts])

    async def answered(
        request: Request,
        path: str,
        asked: Any,
        given: Sequence[dict[str, Any]],
        *,
        param: str = "input",
        truncate: bool = True,
    ) -> Response:
        """A list of predictions, in order."""
        served = model_for(shelf, asked.model, path)
        top_k = getattr(asked, "top_k", None)
        work = ask(served, settings, given, param=param, truncate=truncate, top_k=top_k)
        note(request, asked.user)
        found, tokens = await sse.until_gone(request, work)

        def built() -> dict[str, Any]:
            data = [{"index": i, **_shown(path, each)} for i, each in enumerate(found)]
            return {"object": "list", "model": served.name, "data": data, "usage": _usage(tokens)}

        return await written(given, built)

    async def written(given: Sequence[Mapping[str, Any]], built: Callable[[], dict[str, Any]]) -> Response:
        """An answer as JSON, made in another thread where it is long."""
        whole = await writing.aside(_size(given), lambda: writing.encoded(built()))
        return Response(whole, media_type="application/json")

    added: tuple[tuple[str, Any, Any, Any], ...] = (
        (CLASSIFY, classify, shapes.ClassifyRequest, shapes.ClassList),
        (PAIR, pair, shapes.PairRequest, shapes.ClassList),
        (RERANK, rerank, shapes.RerankRequest, shapes.Ranking),
        (ANSWER, answer, shapes.AnswerRequest, shapes.AnswerList),
        (TAG, tag, shapes.TagRequest, shapes.TaggedList),
        (FILL, fill, shapes.FillRequest, shapes.FilledList),
    )
    for path, call, body, shape in added:
        call.__annotations__ = {"request": Request, "return": Response}  # names of this function's own
        routes.post(path, **documented(body, shape))(call)
    return routes


def model_for(shelf: Shelf, name: str, path: str) -> Served:
    """The encoder of that name, if it answers at this address.

    Raises:
        ApiError: 404 there is none, 400 it does something else (says what and where), 503 the server is going
            down.
    """
    writing.check_open(shelf)
    served = writing.find(shelf, name, "encoder")
    where = endpoints(served)
    if path not in where or served.batcher is None:
        does = f"it answers at {', '.join(where)}" if where else f"answered are {', '.join(TASKS)}"
        raise ApiError(
            f"{name} was trained for {served.task or 'nothing that is known'}: {does}", param="model"
        )
    return served


async def ask(
    served: Served,
    settings: Settings,
    given: Sequence[dict[str, Any]],
    *,
    param: str,
    truncate: bool,
    top_k: int | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Predictions of examples, in order, and how many tokens were read.

    Args:
        param: the parameter that they came from, for errors.
        truncate: whether a text that is too long is read as far as it fits.

    Raises:
        ApiError: 400 none, too many, one that is empty, too long or otherwise unreadable, each by its number;
            else as `Batcher.predict`.
    """
    if not given:
        raise ApiError(f"{param} is an empty list", param=param)
    if len(given) > settings.max_inputs:
        raise ApiError(f"{len(given)} {param}; at most {settings.max_inputs} at once", param=param)
    assert served.batcher is not None
    found = await served.batcher.predict(given, seconds=settings.timeout, top_k=top_k)
    for number, prediction in enumerate(found):
        where = f"{param}[{number}]"
        if "error" in prediction:
            raise ApiError(f"{where}: {prediction['error']}", param=where)
        if (cut := prediction.get("cut")) and not truncate:
            longest = served.batcher.predictor.objective.length or served.context
            raise ApiError(
                f"{where} has {longest + cut} tokens with its marks, and {served.name} reads at most "
                f"{longest}; expected: a shorter text, or truncate=true",
                param=where,
                code="context_length_exceeded",
            )
    return found, getattr(found, "tokens", 0)


def note(request: Any, user: str | None) -> None:
    """Who asks, for the log."""
    if user:
        request.scope.setdefault("state", {})["user"] = user


def ranked(
    name: str, asked: shapes.RerankRequest, found: Sequence[Mapping[str, Any]], tokens: int
) -> dict[str, Any]:
    """The answer of a reranking: the best first, of equals the one that came first."""
    order = sorted(range(len(found)), key=lambda i: -float(found[i]["score"]))[: asked.top_n]
    results = []
    for i in order:
        one: dict[str, Any] = {"index": i, "relevance_score": found[i]["score"]}
        if asked.return_documents:
            one["document"] = {"text": asked.documents[i]}
        if found[i].get("cut"):
            one["cut"] = found[i]["cut"]
        results.append(one)
    return {"object": "list", "model": name, "results": results, "usage": _usage(tokens)}


def _size(given: Sequence[Mapping[str, Any]]) -> int:
    """How much an answer has to tell, in characters: about what was given, and a hundred an example."""
    return sum(100 + sum(len(str(value)) for value in each.values()) for each in given)


def _shown(path: str, prediction: Mapping[str, Any]) -> dict[str, Any]:
    """What of a prediction goes out."""
    if path in (CLASSIFY, PAIR):
        return {key: prediction[key] for key in _KEPT if key in prediction}
    return dict(prediction)


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
