"""A codec's files: the same codec comes back, Transformers reads the same ids, broken files are errors."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from exnihilo import codec
from exnihilo.codec import Codec
from exnihilo.codec.pretrained import Pretrained, PretrainedBytes
from exnihilo.errors import CodecError

transformers = pytest.importorskip("transformers", reason="parity with Transformers needs it")
KINDS = ("bpe", "bytes", "chars", "wordpiece", "wordpiece-lower")


@pytest.fixture(scope="module")
def theirs(codecs: dict[str, Codec], tmp_path_factory: pytest.TempPathFactory):
    """Kind -> what AutoTokenizer makes of the codec's files, beside a model's config.json."""
    out = {}
    for kind, made in codecs.items():
        folder = tmp_path_factory.mktemp(kind)
        made.save(folder, model_max_length=1 << 20)
        family = "bert" if kind.startswith("wordpiece") else "qwen3"
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
        out[kind] = transformers.AutoTokenizer.from_pretrained(folder)
    return out


def ids_of(theirs, text: str) -> list[int]:
    return theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_ids(kind, codecs, theirs, texts, hard):
    for text in texts + hard:
        assert ids_of(theirs[kind], text) == codecs[kind].encode(text), text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_transformers_reads_the_same_ids_of_any_text(codecs, theirs, text):
    for kind in KINDS:
        assert ids_of(theirs[kind], text) == codecs[kind].encode(text), kind
        # no special token is spelled in it, so the default reads it in the same way
        plain = theirs[kind](text, add_special_tokens=False)["input_ids"]
        assert plain == codecs[kind].encode(text), kind


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_decodes_to_the_same_text(kind, codecs, theirs, texts, hard):
    for text in texts + hard:
        ids = codecs[kind].encode(text)
        assert theirs[kind].decode(ids, skip_special_tokens=True) == codecs[kind].decode(ids), text


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_has_the_same_roles(kind, codecs, theirs):
    ours, other = codecs[kind], theirs[kind]
    assert len(other) == ours.vocab_size
    assert other.pad_token_id == ours.pad_id and other.model_max_length == 1 << 20
    if kind.startswith("wordpiece"):
        assert (other.unk_token_id, other.cls_token_id) == (1, 2)
        assert (other.sep_token_id, other.mask_token_id) == (3, 4)
        pair = other("the fox", "the river")
        first, second = ours.encode("the fox"), ours.encode("the river")
        assert pair["input_ids"] == [2, *first, 3, *second, 3]
        assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    else:
        assert (other.bos_token_id, other.eos_token_id) == (ours.bos_id, ours.eos_id)
        read = other("the fox")
        assert read["input_ids"] == [ours.bos_id, *ours.encode("the fox")]  # as a training document starts
        assert set(read) == {"input_ids", "attention_mask"}
        # where a special token's name is not kept apart as text, Transformers reads the token
        assert other("<|eos|>", add_special_tokens=False)["input_ids"] == [ours.eos_id]


@pytest.mark.parametrize("kind", KINDS)
def test_files_give_back_the_same_codec(kind, codecs, tmp_path, hard):
    ours = codecs[kind]
    ours.save(tmp_path / "a" / "b", model_max_length=77)
    back = codec.load(tmp_path / "a" / "b")
    assert type(back) is type(ours) and back.hash == ours.hash and repr(back) == repr(ours)
    assert back.encode_batch(hard) == ours.encode_batch(hard)
    for name in ("vocab_size", "pad_id", "bos_id", "eos_id", "unk_id", "mask_id", "special_ids"):
        assert getattr(back, name) == getattr(ours, name)
    back.save(tmp_path / "c")
    for name in ("tokenizer.json", "tokenizer_config.json"):  # what was read is kept
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / "b" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "c")) == ["tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_saves_again_is_the_same_codec(kind, codecs, theirs, tmp_path):
    theirs[kind].save_pretrained(tmp_path)
    back = codec.load(tmp_path)
    assert back.hash == codecs[kind].hash and type(back) is type(codecs[kind])


def test_no_list_of_extra_special_tokens(codecs, tmp_path):
    codecs["bpe"].save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in config and "model_max_length" not in config
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["clean_up_tokenization_spaces"] is False
    assert codecs["bpe"].gguf_pre == "qwen2" and codecs["bytes"].gguf_pre == "gpt-2"


# Bad files.


def test_missing(tmp_path):
    with pytest.raises(CodecError, match="is not there"):
        codec.load(tmp_path / "nowhere")
    with pytest.raises(CodecError, match=r"tokenizer\.json is missing"):
        codec.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CodecError, match="is a file"):
        codec.load(tmp_path / "file")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[]", b"nonsense"])
def test_broken(codecs, tmp_path, name, data):
    codecs["bpe"].save(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CodecError, match=name.replace(".", r"\.")):
        codec.load(tmp_path)


def test_cut_short(codecs, tmp_path):
    codecs["bpe"].save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_bytes()
    for keep in (10, len(whole) // 2, len(whole) - 3):
        (tmp_path / "tokenizer.json").write_bytes(whole[:keep])
        with pytest.raises(CodecError, match=f"broken \\({keep} bytes\\)"):
            codec.load(tmp_path)


def test_altered(codecs, tmp_path):
    codecs["bytes"].save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, sort_keys=True))  # another layout is no change
    assert codec.load(tmp_path).hash == codecs["bytes"].hash
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content))
    with pytest.raises(CodecError, match=r"was altered[\s\S]*exnihilo_hash"):
        codec.load(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["exnihilo_hash"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    swapped = codec.load(tmp_path)  # the change is meant
    assert swapped.encode("ab") == codecs["bytes"].encode("ba")


def test_json_that_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CodecError, match="is no tokenizer"):
        codec.load(tmp_path)


def test_roles_that_are_not_there(codecs, tmp_path):
    codecs["bpe"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(CodecError, match=r"no token '</s>'"):
        codec.load(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CodecError, match=r"ends a text[\s\S]*tokenizer_config\.json"):
        codec.load(tmp_path)


def test_a_folder_that_cannot_be_written_keeps_what_it_had(codecs, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CodecError, match="cannot be written"):
        codecs["bpe"].save(tmp_path / "file")
    with pytest.raises(CodecError, match="cannot be written"):
        codecs["bpe"].save(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "x"


def test_a_full_disk_keeps_the_old_files(codecs, tmp_path, monkeypatch):
    codecs["bpe"].save(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CodecError, match="No space left"):
        codecs["bytes"].save(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


# Tokenizers made elsewhere.


def gpt2_like() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the fox and the river"], trainer)
    return tokenizer


def test_a_byte_level_tokenizer_made_elsewhere(tmp_path, hard):
    gpt2_like().save(str(tmp_path / "tokenizer.json"))
    eos = {"content": "<|endoftext|>", "__type": "AddedToken"}
    config = {"eos_token": eos, "tokenizer_class": "GPT2Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    made = codec.load(tmp_path)
    assert isinstance(made, PretrainedBytes)
    assert made.pad_id == made.bos_id == made.eos_id == 0
    plain = gpt2_like()
    for text in hard:
        ids = made.encode(text)
        if "<|" not in text:
            assert ids == plain.encode(text).ids
        assert made.decode(ids) == text
        assert int(made.token_bytes()[ids].sum()) == len(text.encode())
    made.save(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "GPT2Tokenizer" and saved["chat_template"] == "{{ messages }}"
    assert codec.load(tmp_path / "again").hash == made.hash


def test_a_sentencepiece_like_tokenizer_made_elsewhere(tmp_path):
    pieces = ["<s>", "</s>", "\u2581", "\u2581the", "\u2581fox", "x", *(f"<0x{b:02X}>" for b in range(256))]
    vocab = {p: i for i, p in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="x"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.ByteFallback(), decoders.Metaspace()]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    made = codec.load(tmp_path)
    assert isinstance(made, Pretrained) and (made.bos_id, made.eos_id) == (0, 1)
    ids = made.encode("the fox")
    assert ids == [3, 4] and made.decode(ids) == "the fox"
    assert made.token_bytes()[[0, 3, 5, 9]].tolist() == [0, 4, 1, 1]
    ids = [3, vocab["<0xC3>"], vocab["<0xA9>"], 4]
    streamer = made.streamer()
    pieces = [*map(streamer.push, ids), streamer.finish()]
    assert "".join(pieces) == made.decode(ids) and "\ufffd" not in "".join(pieces)
