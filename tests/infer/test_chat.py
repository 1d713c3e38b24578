"""A conversation with a model, in Python and in the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from exnihilo import codec as codecs
from exnihilo.cli import main
from exnihilo.cli import talk as verb
from exnihilo.codec import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import UsageError
from exnihilo.infer import generate
from exnihilo.infer.chat import Conversation
from exnihilo.interop import hf
from exnihilo.model import Model, build, resolve

CONTEXT = 96


@pytest.fixture(scope="module")
def codec() -> Codec:
    return codecs.train(CodecConfig(kind="bytes"), ["user assistant"])


@pytest.fixture(scope="module")
def model(codec: Codec) -> Model:
    shape = ModelConfig(depth=1, width=16, heads=2, context=CONTEXT, vocab_size=codec.vocab_size)
    return build(resolve(shape), seed=1).eval()


@pytest.fixture(scope="module")
def run(model: Model, codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    hf.save(model, codec, folder, objective=_trained("sft"))
    return folder


def _trained(name: str) -> dict[str, Any]:
    return {"objective": name, "options": {}, "length": CONTEXT, "facts": {}}


def test_a_reply_is_what_generate_gives_for_the_prompt(model: Model, codec: Codec) -> None:
    talk = Conversation(model, codec, system="Be kind.", max_new_tokens=8, seed=3)
    turns: list[dict[str, str]] = [{"role": "system", "content": "Be kind."}]
    for number, text in enumerate(("Hi", "So?")):
        turns.append({"role": "user", "content": text})
        wanted = generate(
            model, codec, [talk.chat.prompt(turns)], max_new_tokens=8, temperature=0.7, seed=3,
            eos=talk.chat.stop_ids, first=number,
        )[0]  # fmt: skip
        pieces = list(talk.say(text))
        assert "".join(pieces) == wanted.text
        turns.append({"role": "assistant", "content": wanted.text})
        assert talk.messages == turns and talk.finish_reason == wanted.finish_reason
    first = [m["content"] for m in talk.messages]
    talk.reset()
    assert talk.messages == turns[:1] and talk.finish_reason is None
    assert [talk.ask("Hi"), talk.ask("So?")] == [first[2], first[4]]
    talk.reset("")
    assert talk.messages == []


def test_old_turns_are_forgotten_and_long_messages_refused(model: Model, codec: Codec) -> None:
    talk = Conversation(model, codec, max_new_tokens=4, temperature=0)
    for text in ("first one", "second one", "third one"):
        talk.ask(text)
    assert talk.forgotten > 0 and len(talk.messages) == 6
    before = list(talk.messages)
    with pytest.raises(UsageError, match=rf"has \d+ tokens, the model's context is {CONTEXT}"):
        talk.say("x" * CONTEXT)
    with pytest.raises(UsageError, match="empty"):
        talk.say(" \n")
    assert talk.messages == before
    with pytest.raises(UsageError, match="temperature"):
        Conversation(model, codec, temperature=-1)


def test_a_reply_that_is_stopped_stays_as_far_as_it_came(model: Model, codec: Codec) -> None:
    talk = Conversation(model, codec, max_new_tokens=20, temperature=0)
    pieces = talk.say("Hi")
    piece = next(pieces)
    pieces.close()
    assert talk.finish_reason == "interrupted"
    assert talk.messages[-1] == {"role": "assistant", "content": piece}


def test_the_verb_answers_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["chat", str(run), "Hi", "max_new_tokens=5", "temperature=0"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [m["role"] for m in figures["messages"]] == ["user", "assistant"]
    assert figures["messages"][1]["content"] == said[:-1]


def test_the_verb_reads_lines(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "Hi\n\n/reset\nHi\n/system Be kind.\n/what\n/help\n/exit\nnever\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["chat", str(run), "max_new_tokens=3", "temperature=0"]) == 0
    said = capsys.readouterr().out
    reply = said[: said.index("\n(a new conversation)")]
    assert said.startswith(
        f"{reply}\n(a new conversation)\n{reply}\n(a new conversation)\n/what is no command"
    )
    assert all(command in said for command in verb.COMMANDS)


def test_ctrl_c_stops_a_reply_and_leaves_at_the_prompt(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Keyboard(io.StringIO):
        asked = 0

        def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
            self.asked += 1
            if self.asked == 1:
                return "Hi\n"
            raise KeyboardInterrupt

    out = verb.out

    def interrupted(a: Any, text: object = "", end: str = "\n") -> None:
        out(a, text, end)
        if end == "" and "stopped" not in str(text):
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setattr(verb, "out", interrupted)
    assert main(["chat", str(run), "temperature=0", "--json"]) == 0
    shown = capsys.readouterr()
    figures = json.loads(shown.out)
    assert figures["finish_reason"] == "interrupted" and len(figures["messages"]) == 2
    assert shown.err.startswith(figures["messages"][1]["content"] + " (stopped)\n")


def test_models_that_were_not_taught_to_answer_are_refused(
    model: Model, codec: Codec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf.save(model, codec, tmp_path / "base", objective=_trained("causal_lm"))
    assert main(["chat", str(tmp_path / "base")]) == 2
    said = capsys.readouterr().err
    assert "is a base model (trained by causal_lm)" in said and "exnihilo train sft init=" in said
    assert main(["chat", str(tmp_path / "none")]) == 1


def test_a_chat_model_is_written_so_that_others_stop(
    run: Path, model: Model, codec: Codec, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    stops = json.loads((run / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [codec.token_id("<|im_end|>"), codec.eos_id]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    assert theirs.generation_config.eos_token_id == stops
    turns = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    import torch

    with torch.no_grad():  # the end of a turn is made the likeliest token
        theirs.lm_head.weight.zero_()
        theirs.lm_head.weight[stops[0]] = 0.0
        out = theirs.generate(**ids, max_new_tokens=12, do_sample=False, logits_processor=[_Favour(stops[0])])
    assert out[0, ids["input_ids"].shape[1] :].tolist() == [stops[0]]
    # a model of this template that was read and written again stays a chat model, whatever it is trained for
    read, its_codec = hf.load(run)
    hf.save(read, its_codec, tmp_path / "again")
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == (
        run / "chat_template.jinja"
    ).read_text()
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text())["eos_token_id"] == stops


def test_a_template_that_came_with_a_model_stays(model: Model, codec: Codec, tmp_path: Path) -> None:
    theirs = "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}"
    codec.save(tmp_path / "codec", chat_template=theirs)
    own = codecs.load(tmp_path / "codec")
    hf.save(model, own, tmp_path / "imported", objective=_trained("causal_lm"))
    assert codecs.load(tmp_path / "imported").chat_template == theirs
    assert isinstance(
        json.loads((tmp_path / "imported" / "generation_config.json").read_text())["eos_token_id"], list
    )
    hf.save(model, own, tmp_path / "tuned", objective=_trained("sft"))
    assert codecs.load(tmp_path / "tuned").chat_template == Conversation(model, own).chat.template


class _Favour:
    """A logits processor that makes one token certain."""

    def __init__(self, id: int) -> None:
        self.id = id

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores[:, self.id] = 1e4
        return scores
