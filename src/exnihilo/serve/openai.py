"""OpenAI's interface: models, completions, chats, embeddings. The official client runs against it unmodified.

    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hi"}], stream=True)

What is different from theirs is said, never silent: a parameter that is not supported here gets 400 with its
name.

Reference: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from exnihilo.errors import ExNihiloError
from exnihilo.serve import encoders, schemas, sse, tools, writing
from exnihilo.serve.answers import ChatCompletion, Completion
from exnihilo.serve.body import ERRORS, documented, read
from exnihilo.serve.chats import Chats
from exnihilo.serve.completions import Completions
from exnihilo.serve.errors import ApiError

if TYPE_CHECKING:
    from exnihilo.serve.models import Served, Shelf
    from exnihilo.serve.settings import Settings


def router(shelf: Shelf, settings: Settings) -> APIRouter:
    """The addresses of OpenAI's interface."""
    routes = APIRouter(tags=["openai"])

    @routes.get("/v1/models", response_model=schemas.ModelList, responses=ERRORS)
    def models() -> Any:
        """The models that are served."""
        return {"object": "list", "data": [card(served) for served in shelf.all()]}

    @routes.get("/v1/models/{name:path}", response_model=schemas.ModelCard, responses=ERRORS)
    def model(name: str) -> Any:
        """One model."""
        return card(writing.find(shelf, name))

    @routes.post("/v1/completions", **documented(schemas.CompletionRequest, Completion, streams=True))
    async def completions(request: Request) -> Response:
        """Go on with texts."""
        asked = await read(request, schemas.CompletionRequest)
        served = writing.find(shelf, asked.model, "decoder")
        check_stream(asked)
        note(request, asked.user)
        if asked.max_tokens == 0 and not asked.echo:
            raise ApiError("max_tokens=0 without echo: nothing would come back", param="max_tokens")
        prompts = await prompts_of(served, asked.prompt)
        job = await writing.job_of(
            served, settings, asked, prompts=prompts, param="prompt", default=16,
            most=1 if asked.max_tokens == 0 else asked.max_tokens,  # one is drawn, and not shown
            top=asked.logprobs, structure=writing.structure_of(asked), scored=bool(asked.echo),
        )  # fmt: skip
        made = Completions(served, asked, job)
        ticket = writing.submit(shelf, served, job)
        if asked.stream:
            return await sse.stream(request, made.events(ticket), settings.write_timeout)
        whole = await sse.until_gone(request, made.whole(ticket))
        return Response(whole, media_type="application/json")

    @routes.post("/v1/chat/completions", **documented(schemas.ChatRequest, ChatCompletion, streams=True))
    async def chat(request: Request) -> Response:
        """Answer a conversation."""
        asked = await read(request, schemas.ChatRequest)
        served = writing.find(shelf, asked.model, "decoder")
        check_stream(asked)
        note(request, asked.user)
        if asked.top_logprobs and not asked.logprobs:
            raise ApiError("top_logprobs without logprobs", param="top_logprobs")
        must = tools.forced(asked)
        structure = writing.structure_of(asked)
        if must is not None and structure is not None:
            raise ApiError(
                "a forced tool call and a response_format exclude each other", param="response_format"
            )
        ids = await turns(served, asked)
        job = await writing.job_of(
            served, settings, asked, prompts=[ids], param="messages", most=most_of(asked), default=None,
            top=(asked.top_logprobs or 0) if asked.logprobs else None,
            structure=structure if must is None else {"json_schema": must},
        )  # fmt: skip
        made = Chats(served, asked, job)
        ticket = writing.submit(shelf, served, job)
        if asked.stream:
            return await sse.stream(request, made.events(ticket), settings.write_timeout)
        whole = await sse.until_gone(request, made.whole(ticket))
        return Response(whole, media_type="application/json")

    @routes.post("/v1/embeddings", **documented(schemas.EmbeddingRequest, schemas.EmbeddingList))
    async def embeddings(request: Request) -> Response:
        """Vectors of texts."""
        asked = await read(request, schemas.EmbeddingRequest)
        note(request, asked.user)
        writing.check_open(shelf)
        served = writing.find(shelf, asked.model, "encoder")
        whole = await sse.until_gone(request, embed(served, asked, settings))
        return Response(whole, media_type="application/json")

    return routes


def card(served: Served) -> dict[str, Any]:
    """What is told of a model."""
    if served.kind == "decoder":
        where = ["/v1/completions", *(["/v1/chat/completions"] if served.chat is not None else [])]
    else:
        where = encoders.endpoints(served)
    return {
        "id": served.name, "object": "model", "created": served.created, "owned_by": "exnihilo",
        "kind": served.kind, "task": served.task, "chat": served.chat is not None, "context": served.context,
        "endpoints": where,
    }  # fmt: skip


def note(request: Request, user: str | None) -> None:
    """Who asks, for the log."""
    if user:
        request.scope.setdefault("state", {})["user"] = user


def check_stream(asked: schemas.Sampled) -> None:
    """Raises ApiError where options of a stream come without one."""
    if asked.stream_options is not None and not asked.stream:
        raise ApiError("stream_options without stream", param="stream_options")


async def prompts_of(
    served: Served, prompt: str | list[str] | list[int] | list[list[int]]
) -> list[list[int]]:
    """Ids of each prompt: texts begin with BOS, as in training; ids are taken as they are."""
    from exnihilo.infer.generate import prompt_ids

    if isinstance(prompt, str):
        given: list[Any] = [prompt]
    elif prompt and all(isinstance(part, int) for part in prompt):
        given = [prompt]
    else:
        given = list(prompt)
    if not given:
        raise ApiError("prompt is an empty list", param="prompt")
    size = sum(len(part) for part in given)
    try:
        found = await writing.aside(size, lambda: [prompt_ids(served.codec, part) for part in given])
    except ExNihiloError as error:
        raise ApiError.of(error, param="prompt") from None
    if any(not ids for ids in found):
        raise ApiError("a prompt without ids; expected: at least one", param="prompt")
    return found


async def turns(served: Served, asked: schemas.ChatRequest) -> list[int]:
    """Ids of a conversation.

    Raises:
        ApiError: the model was not taught conversations.
    """
    if served.chat is None:
        raise ApiError(
            f"{served.name} is a base model: it goes on with a text and was not taught to answer; "
            "use /v1/completions",
            param="model",
        )
    chat, messages = served.chat, tools.messages_of(asked)
    try:
        size = sum(len(message["content"]) for message in messages)
        return await writing.aside(size, lambda: chat.prompt(messages))
    except ExNihiloError as error:
        raise ApiError.of(error, param="messages") from None


def most_of(asked: schemas.ChatRequest) -> int | None:
    """Tokens of an answer that were asked for, by either name."""
    old, new = asked.max_tokens, asked.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise ApiError(f"max_tokens={old} and max_completion_tokens={new} differ", param="max_tokens")
    return new if new is not None else old


async def embed(served: Served, asked: schemas.EmbeddingRequest, settings: Settings) -> bytes:
    """Vectors of texts, as JSON.

    Raises:
        ApiError: 400: not a model for it, a text that is empty or too long.
    """
    if served.task != "embeddings" or served.batcher is None:
        raise ApiError(
            f"{served.name} was trained for {served.task or 'another task'}, not for embeddings",
            param="model",
        )
    width = served.loaded.model.config.width
    if asked.dimensions is not None and asked.dimensions != width:
        raise ApiError(
            f"dimensions is {asked.dimensions}; {served.name} gives vectors of {width} numbers and was not "
            "trained so that fewer of them could be used alone",
            param="dimensions",
        )
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not texts:
        raise ApiError("input is an empty list", param="input")
    if len(texts) > settings.max_inputs:
        raise ApiError(f"{len(texts)} texts; at most {settings.max_inputs} at once", param="input")
    ids = await writing.aside(sum(map(len, texts)), lambda: served.codec.encode_batch(texts))
    longest = (served.batcher.predictor.objective.length or served.context) - 2  # [CLS] and [SEP]
    for number, mine in enumerate(ids):
        if len(mine) > longest:
            raise ApiError(
                f"text {number} has {len(mine)} tokens, and {served.name} reads at most {longest}",
                param="input",
                code="context_length_exceeded",
            )
    found = await served.batcher.predict(texts, seconds=settings.timeout)
    for number, prediction in enumerate(found):
        if "embedding" not in prediction:
            raise ApiError(f"text {number}: {prediction.get('error', 'it has no embedding')}", param="input")
    count = sum(len(mine) + 2 for mine in ids)

    def built() -> bytes:
        data = []
        for number, prediction in enumerate(found):
            vector: Any = prediction["embedding"]
            if asked.encoding_format == "base64":
                vector = base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
            data.append({"object": "embedding", "index": number, "embedding": vector})
        counts = {"prompt_tokens": count, "total_tokens": count}
        return writing.encoded({"object": "list", "data": data, "model": served.name, "usage": counts})

    return await writing.aside(20 * sum(len(p["embedding"]) for p in found), built)
