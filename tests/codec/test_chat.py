"""Conversations as ids: Transformers' template on the saved folder is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.codec import Codec
from exnihilo.codec.chat import END, START, Chat, chat, is_chatml
from exnihilo.errors import CodecError

TURNS = [
    {"role": "system", "content": " Be  brief.\n"},
    {"role": "user", "content": "Hi \U0001f600"},
    {"role": "assistant", "content": "Hello.\n\n1 + 1 = 2"},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
]
SPECIALS = ("<|pad|>", "<|bos|>", "<|eos|>", START, END)

contents = st.text(max_size=40).filter(lambda text: not any(s in text for s in SPECIALS))
conversations = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": contents}
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def theirs(codecs: dict[str, Codec], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The saved folders as Transformers reads them."""
    transformers = pytest.importorskip("transformers")
    out = {}
    for kind in ("bpe", "bytes", "chars"):
        folder = tmp_path_factory.mktemp(kind)
        codecs[kind].save(folder, chat_template=Chat(codecs[kind]).template)
        out[kind] = transformers.AutoTokenizer.from_pretrained(folder)
    return out


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars"])
@settings(max_examples=60, deadline=None)
@given(messages=conversations)
def test_transformers_renders_the_same_ids(
    kind: str, codecs: dict[str, Codec], theirs: dict[str, Any], messages: list[dict[str, str]]
) -> None:
    ours = Chat(codecs[kind])
    rendered = ours.render(messages)
    found = theirs[kind].apply_chat_template(messages, return_dict=False)
    assert rendered.ids == found
    found = theirs[kind].apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.prompt(messages) == found


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars"])
def test_the_mask_is_the_one_of_transformers(
    kind: str, codecs: dict[str, Codec], theirs: dict[str, Any]
) -> None:
    ours = Chat(codecs[kind])
    found = theirs[kind].apply_chat_template(
        TURNS, chat_template=ours.masked_template, return_dict=True, return_assistant_tokens_mask=True
    )
    rendered = ours.render(TURNS)
    assert (rendered.ids, rendered.mask) == (found["input_ids"], found["assistant_masks"])


def test_what_is_trained_on(lossless: Codec) -> None:
    ours = Chat(lossless)

    def trained(how: Any) -> str:
        rendered = ours.render(TURNS, train=how)
        assert len(rendered.ids) == len(rendered.mask) and set(rendered.mask) <= {0, 1}
        kept = [i for i, m in zip(rendered.ids, rendered.mask, strict=True) if m]
        return lossless.decode(kept, skip_special=False)

    assert trained("assistant") == f"Hello.\n\n1 + 1 = 2{END}It is 42.{END}"
    assert trained("last") == f"It is 42.{END}"
    rendered = ours.render(TURNS, train="all")
    assert rendered.mask == [0] + [1] * (len(rendered.ids) - 1) and rendered.ids[0] == lossless.bos_id
    unweighted = [{**t, "weight": 0} if t["content"].startswith("Hello") else t for t in TURNS]
    assert ours.render(unweighted).mask == ours.render(TURNS, train="last").mask


def test_a_prompt_begins_what_is_trained_on(lossless: Codec) -> None:
    ours = Chat(lossless)
    whole, prompt = ours.render(TURNS), ours.prompt(TURNS[:2])
    assert whole.ids[: len(prompt)] == prompt and not any(whole.mask[: len(prompt)])
    assert ours.render(TURNS[:3]).ids == [
        *prompt,
        *ours.completion(TURNS[2]["content"]),
        *lossless.encode("\n"),
    ]
    first = whole.mask.index(1)
    assert ours.reply(whole.ids[first:]) == TURNS[2]["content"]
    assert ours.reply([*lossless.encode("ab"), lossless.eos_id, 9]) == "ab"
    assert ours.stop_ids == {lossless.token_id(END), lossless.eos_id}


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.sampled_from([*SPECIALS, "\n", "a", " ", "assistant"]), max_size=8))
def test_a_text_that_spells_a_special_token_stays_text(codecs: dict[str, Codec], parts: list[str]) -> None:
    codec = codecs["bpe"]
    text = "".join(parts)
    rendered = Chat(codec).render([{"role": "user", "content": text}])
    special = [i for i in rendered.ids if i in codec.special_ids]
    assert special == [codec.bos_id, codec.token_id(START), codec.token_id(END)]
    assert codec.decode(rendered.ids, skip_special=True) == f"user\n{text.strip()}\n"


def test_many_are_rendered_as_one_by_one(lossless: Codec) -> None:
    ours = Chat(lossless)
    talks = [TURNS[:n] for n in (1, 3, 5, 2)]
    assert ours.render_many(talks) == [ours.render(t) for t in talks]
    assert ours.prompt_many(talks) == [ours.prompt(t) for t in talks]


def test_old_turns_are_left_out_whole(lossless: Codec) -> None:
    ours = Chat(lossless)
    talk: list[dict[str, str]] = [TURNS[0]]
    for n in range(6):
        talk += [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]
    talk.append({"role": "user", "content": "last"})
    for most in range(20, 400, 7):
        kept = ours.fitted(talk, most)
        assert kept[0] == talk[0] and kept[-1] == talk[-1] and kept[1]["role"] == "user"
        assert kept[1:] == talk[-(len(kept) - 1) :]
        longer = [talk[0], *talk[-(len(kept) + 1) :]]
        assert len(ours.prompt(kept)) <= most or len(kept) == 2
        assert len(kept) == len(talk) or len(ours.prompt(longer)) > most


def test_a_tokenizer_without_bos_gets_none(codecs: dict[str, Codec], tmp_path: Path) -> None:
    import json

    transformers = pytest.importorskip("transformers")
    codecs["bytes"].save(tmp_path)
    words = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del words["bos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(words))
    loaded = codecs_load(tmp_path)
    ours = Chat(loaded)
    assert ours.render(TURNS).ids[0] == loaded.token_id(START)
    loaded.save(tmp_path, chat_template=ours.template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.apply_chat_template(TURNS, return_dict=False) == ours.render(TURNS).ids


def codecs_load(folder: Path) -> Codec:
    return codecs.load(folder)


def test_the_template_is_kept_by_saving_and_loading(lossless: Codec, tmp_path: Path) -> None:
    assert lossless.chat_template is None and not is_chatml(None)
    lossless.save(tmp_path / "a", chat_template=Chat(lossless).template)
    loaded = codecs_load(tmp_path / "a")
    assert loaded.chat_template == Chat(lossless).template and is_chatml(loaded.chat_template)
    loaded.save(tmp_path / "b")
    assert codecs_load(tmp_path / "b").chat_template == loaded.chat_template
    lossless.save(tmp_path / "b")  # a base model's tokenizer in the same folder
    assert codecs_load(tmp_path / "b").chat_template is None


def test_errors(codecs: dict[str, Codec]) -> None:
    with pytest.raises(CodecError, match="im_start"):
        chat(codecs["wordpiece"])
    ours = chat(codecs["bpe"])
    with pytest.raises(CodecError, match="role 'human'"):
        ours.render([{"role": "human", "content": "x"}])
    with pytest.raises(CodecError, match="NoneType"):
        ours.render([{"role": "user", "content": None}])
    with pytest.raises(CodecError, match="train='none'"):
        ours.render(TURNS, train="none")  # type: ignore[arg-type]
