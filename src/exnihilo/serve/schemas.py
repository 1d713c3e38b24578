"""What requests may hold, and what answers do: the interface's own schema is made of these.

A parameter that is not here is refused with its name (``extra="forbid"``), one of another type too; null
stands for the default. Ranges that depend on the model or the settings are checked where they are used.

Reference: https://platform.openai.com/docs/api-reference; top_k, min_p and repetition_penalty as vLLM has
them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[int, Field(ge=0, lt=2**31)]
_SEED = 2**63


class Strict(BaseModel):
    """Nothing unknown, nothing converted, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Strict):
    """Of a stream."""

    include_usage: bool | None = Field(None, description="a last piece that counts tokens")


class Sampled(Strict):
    """What both kinds of writing take."""

    model: str = Field(min_length=1, max_length=500, description="a name of /v1/models")
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy; default 1")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=2**31, description="only the k likeliest tokens")
    min_p: float | None = Field(None, ge=0, le=1, description="relative to the likeliest token")
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    presence_penalty: float | None = Field(None, ge=-100, le=100)
    frequency_penalty: float | None = Field(None, ge=-100, le=100)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=1024, description="by token id"
    )
    n: int | None = Field(None, ge=1, le=1024, description="texts a prompt; default 1")
    seed: int | None = Field(None, ge=-_SEED, lt=_SEED, description="the same seed gives the same texts")
    stop: str | list[str] | None = Field(None, max_length=1000, description="texts at which to stop")
    stream: bool | None = Field(None, description="server-sent events")
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = Field(None, max_length=500, description="who asks; written into the server's log")


class CompletionRequest(Sampled):
    """Goes on with a text."""

    prompt: str | list[str] | list[Id] | list[list[Id]] = Field(description="texts, or token ids")
    max_tokens: int | None = Field(None, ge=0, description="default 16; 0 only with echo")
    echo: bool | None = Field(
        None, description="the prompt stands before the text, and its tokens before the text's in logprobs"
    )
    logprobs: int | None = Field(None, ge=0, le=20, description="the likeliest tokens at each place")


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


Content = str | list[TextPart]


class SystemMessage(Strict):
    """What the model is to be."""

    role: Literal["system", "developer"]
    content: Content


class UserMessage(Strict):
    """What the user says."""

    role: Literal["user"]
    content: Content


class FunctionCall(Strict):
    """A call that a model made."""

    name: str = Field(min_length=1, max_length=64)
    arguments: str = Field(description="JSON")


class ToolCall(Strict):
    """A call that a model made, with its number."""

    id: str = Field(max_length=200)
    type: Literal["function"]
    function: FunctionCall


class AssistantMessage(Strict):
    """What the model said."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = Field(None, min_length=1, max_length=128)
    refusal: None = None  # these are in what the official client gives back
    annotations: None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Strict):
    """What a tool gave back."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str = Field(max_length=200)


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Strict):
    """What a model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = Field(None, max_length=4096)
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of the arguments")
    strict: bool | None = Field(None, description="arguments always follow the schema where a call is forced")


class Tool(Strict):
    """A function, as a tool."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """Which one."""

    name: str = Field(min_length=1, max_length=64)


class ToolChoice(Strict):
    """This tool must be called."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(Strict):
    """What an answer must look like."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = Field(None, max_length=4096)
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(None, description="answers always follow the schema")


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class JsonFormat(Strict):
    """A JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Strict):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(Strict):
    """A text that matches from beginning to end."""

    type: Literal["regex"]
    regex: str = Field(min_length=1, max_length=2**16)


class ChoiceFormat(Strict):
    """One of these texts."""

    type: Literal["choice"]
    choice: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=4096)


class GrammarFormat(Strict):
    """A text of a grammar in Lark's notation."""

    type: Literal["grammar"]
    grammar: str = Field(min_length=1, max_length=2**16)


ResponseFormat = Annotated[
    TextFormat | JsonFormat | SchemaFormat | RegexFormat | ChoiceFormat | GrammarFormat,
    Field(discriminator="type"),
]


class ChatRequest(Sampled):
    """Answers a conversation."""

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1, description="default: as many as there is room for")
    max_completion_tokens: int | None = Field(None, ge=1, description="another name of max_tokens")
    logprobs: bool | None = Field(None, description="tell of each token")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="the likeliest tokens at each place")
    tools: list[Tool] | None = Field(None, min_length=1, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call an answer")


class EmbeddingRequest(Strict):
    """Vectors of texts."""

    model: str = Field(min_length=1, max_length=500)
    input: str | list[str] = Field(description="one text or several")
    encoding_format: Literal["float", "base64"] | None = Field(None, description="default float")
    dimensions: int | None = Field(None, ge=1, description="of a vector; only what the model has")
    user: str | None = Field(None, max_length=500)


class Usage(BaseModel):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "exnihilo"
    kind: Literal["decoder", "encoder"] = Field(description="a decoder writes, an encoder answers")
    task: str | None = Field(description="what it was trained for")
    chat: bool = Field(description="whether it was taught conversations")
    context: int = Field(description="tokens that it sees at a time")
    endpoints: list[str] = Field(description="where it answers")


class ModelList(BaseModel):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Problem(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """Every answer that is none."""

    error: Problem


class Embedding(BaseModel):
    """The vector of a text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """Vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: dict[str, int]


for _late in (Sampled, CompletionRequest, ChatRequest):
    _late.model_rebuild()
