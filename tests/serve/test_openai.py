"""The official client, unmodified, against a real server; answers against the library's own `generate`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exnihilo.infer.generate import generate
from exnihilo.interop.load import load
from exnihilo.predictions.run import load_run

openai = pytest.importorskip("openai", reason="needs the package 'openai'")
SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def ai(server: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(ai: Any) -> None:
    found = {model.id: model for model in ai.models.list()}
    assert set(found) == {"base", "talk", "vectors"}
    assert ai.models.retrieve("talk").chat is True and found["base"].chat is False
    assert found["vectors"].kind == "encoder" and "/v1/embeddings" in found["vectors"].endpoints
    with pytest.raises(openai.NotFoundError) as caught:
        ai.models.retrieve("other")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_completions_are_what_generate_gives(ai: Any, runs: dict[str, Path]) -> None:
    loaded = load(runs["base"])
    prompts = ["Once", "The old fox", ""]
    tried: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 7}]
    for more in (*tried, {"seed": 1, "stop": ["a"]}):
        ours = generate(loaded.model, loaded.codec, prompts, max_new_tokens=24, **more)
        found = ai.completions.create(model="base", prompt=prompts, max_tokens=24, **more)
        assert [c.text for c in found.choices] == [g.text for g in ours]
        names = {"eos": "stop", "stop": "stop", "length": "length"}
        assert [c.finish_reason for c in found.choices] == [names[g.finish_reason] for g in ours]
        assert found.usage.completion_tokens == sum(len(g.ids) for g in ours)
        assert found.usage.prompt_tokens == sum(len(g.prompt_ids) for g in ours)


def test_a_stream_joins_to_the_whole(ai: Any) -> None:
    asked = {"model": "base", "prompt": ["Once", "Two"], "max_tokens": 40, "n": 2, "seed": 5, "stop": "zq"}
    whole = ai.completions.create(**asked)
    texts, reasons, counts = [""] * 4, [None] * 4, None
    for chunk in ai.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        counts = chunk.usage or counts
    assert texts == [c.text for c in whole.choices] and reasons == [c.finish_reason for c in whole.choices]
    assert counts == whole.usage


def test_ids_echo_bias_and_penalties(ai: Any, runs: dict[str, Path]) -> None:
    codec = load(runs["base"]).codec
    ids = [codec.bos_id, *codec.encode("Once")]
    by_text = ai.completions.create(model="base", prompt="Once", max_tokens=8, temperature=0)
    by_ids = ai.completions.create(model="base", prompt=ids, max_tokens=8, temperature=0)
    assert by_text.choices[0].text == by_ids.choices[0].text
    echoed = ai.completions.create(model="base", prompt="Once", max_tokens=8, temperature=0, echo=True)
    assert echoed.choices[0].text == "Once" + by_text.choices[0].text
    star = codec.encode("*")[0]
    biased = ai.completions.create(model="base", prompt="Once", max_tokens=5, logit_bias={str(star): 100})
    assert biased.choices[0].text == "*****"
    fresh = ai.completions.create(
        model="base", prompt="Once", max_tokens=20, temperature=0, frequency_penalty=2, presence_penalty=100,
        extra_body={"top_k": 50, "min_p": 0.0, "repetition_penalty": 1.0},
    )  # fmt: skip
    text = fresh.choices[0].text.replace("\ufffd", "")
    assert len(set(text)) == len(text)


def test_log_probabilities_of_completions(ai: Any, runs: dict[str, Path]) -> None:
    loaded = load(runs["base"])
    ours = generate(loaded.model, loaded.codec, ["Once"], max_new_tokens=6, temperature=0)[0]
    found = ai.completions.create(model="base", prompt="Once", max_tokens=6, temperature=0, logprobs=3)
    told = found.choices[0].logprobs
    np.testing.assert_allclose(told.token_logprobs, ours.logprobs, atol=1e-4)
    assert len(told.tokens) == 6 and told.text_offset[0] == 0
    for token, mine, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert 0 < len(top) <= 3 and max(top.values()) == pytest.approx(mine)  # greedy: the likeliest
        assert token in top


def test_an_echoed_prompts_tokens_are_told_of(ai: Any, runs: dict[str, Path]) -> None:
    """A text's first token follows BOS; of ids nothing stands before the first."""
    loaded = load(runs["base"])
    ids = [loaded.codec.bos_id, *loaded.codec.encode("Once é")]
    with torch.no_grad():
        logits_TV = loaded.model.heads["tokens"].logits(loaded.model({"tokens": torch.tensor([ids])}))[0]
    expected = logits_TV.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    asked: dict[str, Any] = {"model": "base", "logprobs": 2, "echo": True, "temperature": 0}
    found = ai.completions.create(prompt="Once é", max_tokens=4, **asked)
    told = found.choices[0].logprobs
    size = len(ids) - 1
    np.testing.assert_allclose(told.token_logprobs[:size], expected, atol=1e-4)
    assert told.tokens[:6] == ["O", "n", "c", "e", " ", "bytes:\\xc3"] and len(told.tokens) == size + 4
    assert told.text_offset[: size + 1] == [0, 1, 2, 3, 4, 5, 5, 6] and all(told.top_logprobs)
    text, counts = "", None
    for chunk in ai.completions.create(
        prompt="Once é", max_tokens=4, stream=True, stream_options={"include_usage": True}, **asked
    ):
        text += chunk.choices[0].text if chunk.choices else ""
        counts = chunk.usage or counts
    assert text == found.choices[0].text and counts == found.usage
    only = ai.completions.create(prompt=[ids, ids[:3]], max_tokens=0, n=2, **asked)
    assert [c.text for c in only.choices] == ["Once é", "Once é", "On", "On"]
    assert only.usage.completion_tokens == 0 and {c.finish_reason for c in only.choices} == {"length"}
    for choice, count in zip(only.choices, (size, size, 2, 2), strict=True):
        assert choice.logprobs.tokens[0] == "<|bos|>" and choice.logprobs.text_offset[:3] == [0, 0, 1]
        assert choice.logprobs.token_logprobs[0] is None and choice.logprobs.top_logprobs[0] is None
        np.testing.assert_allclose(choice.logprobs.token_logprobs[1:], expected[:count], atol=1e-4)
    with pytest.raises(openai.BadRequestError, match="without echo"):
        ai.completions.create(model="base", prompt="Once", max_tokens=0)


def test_chat_is_the_chat_codecs_prompt(ai: Any, runs: dict[str, Path]) -> None:
    from exnihilo.codec.chat import Chat

    run = load_run(runs["talk"])
    chat = Chat(run.codec)
    ours = generate(
        run.model, run.codec, [chat.prompt(SAID)], max_new_tokens=20, temperature=0, eos=chat.stop_ids
    )[0]
    found = ai.chat.completions.create(model="talk", messages=SAID, max_tokens=20, temperature=0)
    assert found.choices[0].message.content == ours.text and found.choices[0].message.role == "assistant"
    assert found.usage.prompt_tokens == len(ours.prompt_ids)
    parts = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        }
    ]
    again = ai.chat.completions.create(
        model="talk", messages=[*parts, SAID[1]], max_completion_tokens=20, temperature=0
    )
    assert again.choices[0].message.content == ours.text
    history = [*SAID, found.choices[0].message, {"role": "user", "content": "And?"}]  # as the client gives it
    assert ai.chat.completions.create(model="talk", messages=history, max_tokens=2).choices


def test_a_chat_stream_joins_to_the_whole(ai: Any) -> None:
    asked = {"model": "talk", "messages": SAID, "max_tokens": 40, "n": 2, "seed": 3, "logprobs": True}
    asked["top_logprobs"] = 2
    whole = ai.chat.completions.create(**asked)
    texts, roles, facts = ["", ""], [0, 0], [[], []]
    for chunk in ai.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role == "assistant"
            facts[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert texts == [c.message.content for c in whole.choices] and roles == [1, 1]
    for mine, choice in zip(facts, whole.choices, strict=True):
        theirs = choice.logprobs.content
        assert [f.token for f in mine] == [f.token for f in theirs]
        assert [f.logprob for f in mine] == pytest.approx([f.logprob for f in theirs])
        assert all(len(f.top_logprobs) == 2 for f in theirs)
        assert b"".join(bytes(f.bytes) for f in theirs).decode("utf-8", "replace") == choice.message.content


def test_the_asynchronous_client_and_many_at_once(server: Any) -> None:
    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as ai:

            async def one(number: int) -> str:
                stream = await ai.completions.create(
                    model="base", prompt="Once", max_tokens=30, temperature=0, stream=True, seed=number
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*(one(n) for n in range(24)))

    texts = asyncio.run(all_of_them())
    assert len(set(texts)) == 1 and texts[0]  # greedy: the same whoever shares the batch


def test_embeddings(ai: Any, runs: dict[str, Path]) -> None:
    texts = ["the cat sat", "hello", "a dog ran in the park"]
    ours = load_run(runs["vectors"]).embed(texts)
    for form in ("float", "base64"):
        found = ai.embeddings.create(model="vectors", input=texts, encoding_format=form)
        theirs = [row.embedding for row in found.data]
        if form == "base64":
            import base64

            theirs = [np.frombuffer(base64.b64decode(row), "<f4") for row in theirs]
        np.testing.assert_allclose(np.asarray(theirs, np.float32), ours, rtol=1e-5, atol=1e-6)
        assert [row.index for row in found.data] == [0, 1, 2] and found.usage.prompt_tokens > 0
    whole = ai.embeddings.create(model="vectors", input="hello", dimensions=ours.shape[1])
    assert len(whole.data[0].embedding) == ours.shape[1]
    with pytest.raises(openai.BadRequestError, match=f"vectors of {ours.shape[1]} numbers") as caught:
        ai.embeddings.create(model="vectors", input="hello", dimensions=8)
    assert caught.value.param == "dimensions"
    unsaid = ai.embeddings.create(model="vectors", input="hello")  # the client's own default is base64
    np.testing.assert_allclose(
        np.asarray(unsaid.data[0].embedding, np.float32), ours[1], rtol=1e-5, atol=1e-6
    )


def test_structured_output(ai: Any) -> None:
    pytest.importorskip("llguidance", reason="needs the extra 'structured'")
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    for seed in range(3):
        found = ai.chat.completions.create(
            model="talk", messages=SAID, response_format=form, max_tokens=60, seed=seed
        )
        assert found.choices[0].finish_reason == "stop", found
        assert 1 <= json.loads(found.choices[0].message.content)["n"] <= 99
    more = {"response_format": {"type": "choice", "choice": ["yes", "no"]}}
    word = ai.completions.create(model="base", prompt="Well?", max_tokens=9, extra_body=more)
    assert word.choices[0].text in ("yes", "no")
    more = {"response_format": {"type": "regex", "regex": "[0-9]{3}-[0-9]{2}"}}
    digits = (
        ai.completions.create(model="base", prompt="Call", max_tokens=20, extra_body=more).choices[0].text
    )
    assert len(digits) == 6 and digits[3] == "-" and digits.replace("-", "").isdigit()


def test_a_forced_tool_call(ai: Any) -> None:
    pytest.importorskip("llguidance", reason="needs the extra 'structured'")
    city = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    city["additionalProperties"] = False
    tool = {"type": "function", "function": {"name": "weather", "parameters": city}}
    asked = {"model": "talk", "messages": SAID, "tools": [tool], "tool_choice": "required", "max_tokens": 120}
    found = ai.chat.completions.create(**asked, seed=1)
    choice = found.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    name, arguments, reason = "", "", None
    for chunk in ai.chat.completions.create(**asked, seed=1, stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            name += part.function.name or ""
            arguments += part.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert (name, arguments, reason) == ("weather", call.function.arguments, "tool_calls")
    history = [
        *SAID,
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    again = ai.chat.completions.create(model="talk", messages=history, tools=[tool], max_tokens=5)
    assert again.choices[0].finish_reason == "length"


def test_errors_are_the_clients_own(ai: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ai.completions.create(model="base", prompt="x", best_of=3)
    assert caught.value.param == "best_of" and caught.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(model="base", messages=SAID)
    assert "base model" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        ai.completions.create(model="base", prompt="x" * 300, max_tokens=5)
    assert caught.value.code == "context_length_exceeded"
    assert "301" in caught.value.message and "256" in caught.value.message
