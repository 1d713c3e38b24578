"""No neighbour matters, streams join to texts, limits hold, nothing is left behind."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from exnihilo.codec.base import Codec
from exnihilo.errors import UsageError
from exnihilo.infer import Generation, generate, stream
from exnihilo.infer.decoder import Frozen
from exnihilo.model import Model

PROMPTS = [[1, 5, 9, 40], [1], [1, 7, 8], [1, *range(20, 50)], [1, 60, 61, 62, 63, 64, 65, 66], [1, 2]]


@pytest.fixture
def talker(make_model, bytes_codec) -> Model:
    return make_model("qwen3", vocab=bytes_codec.vocab_size, context=96, seed=3)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {}, {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.01}]
)
def test_a_batch_gives_what_one_at_a_time_gives(model, settings):
    settings = {"max_new_tokens": 12, "seed": 11, **settings}
    together = generate(model, None, PROMPTS, **settings)
    for number, prompt in enumerate(PROMPTS):
        same(generate(model, None, [prompt], first=number, **settings)[0], together[number])
    for a, b in zip(generate(model, None, PROMPTS, rows=4, **settings), together, strict=True):
        same(a, b)


def same(a: Generation, b: Generation) -> None:
    assert (a.ids, a.text, a.finish_reason, a.prompt_ids) == (b.ids, b.text, b.finish_reason, b.prompt_ids)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    np.testing.assert_allclose(a.processed_logprobs, b.processed_logprobs, atol=1e-4)


def test_rows_that_end_at_different_times_do_not_disturb_the_others(make_model):
    """Every id is an eos with probability: rows leave one after another, and the batch is compacted."""
    model = make_model("qwen3", context=48)
    eos = set(range(10))
    together = generate(model, None, PROMPTS * 2, max_new_tokens=30, seed=2, eos=eos)
    assert len({len(g.ids) for g in together}) > 3
    for number, g in enumerate(together):
        same(
            generate(model, None, [(PROMPTS * 2)[number]], max_new_tokens=30, seed=2, eos=eos, first=number)[
                0
            ],
            g,
        )
        assert (g.finish_reason == "eos") == (g.ids[-1] in eos)
        assert not eos & set(g.ids[:-1])


def test_log_probabilities_are_those_of_a_forward_without_cache(model):
    for g in generate(model, None, PROMPTS, max_new_tokens=10, temperature=0.7, top_k=30, seed=4):
        tokens = torch.tensor([[*g.prompt_ids, *g.ids]])
        with torch.no_grad():
            logits = model.heads["tokens"].logits(model({"tokens": tokens[:, :-1]}))[
                0, len(g.prompt_ids) - 1 :
            ]
        at = tokens[0, len(g.prompt_ids) :, None]
        np.testing.assert_allclose(g.logprobs, logits.log_softmax(-1).gather(1, at)[:, 0], atol=1e-4)
        top = (logits / 0.7).topk(30).values.logsumexp(-1)
        np.testing.assert_allclose(g.processed_logprobs, (logits / 0.7).gather(1, at)[:, 0] - top, atol=1e-4)


def test_seeds_differ_and_repeat(model):
    first = [g.ids for g in generate(model, None, [[1]] * 8, max_new_tokens=8, seed=1)]
    again = [g.ids for g in generate(model, None, [[1]] * 8, max_new_tokens=8, seed=1)]
    other = [g.ids for g in generate(model, None, [[1]] * 8, max_new_tokens=8, seed=2)]
    assert first == again != other
    assert len({tuple(ids) for ids in first}) > 4  # each request has its own numbers


@pytest.mark.parametrize("seed", range(2))
def test_a_stream_joins_to_the_text(talker, bytes_codec, seed):
    for stop in ((), ("a",), ("\n", "zz")):
        options = {"max_new_tokens": 40, "seed": seed, "stop": stop}
        whole = generate(talker, bytes_codec, ["Once"], **options)[0]
        pieces, result = collect(stream(talker, bytes_codec, "Once", **options))
        assert "".join(pieces) == whole.text
        assert all(pieces)
        same(result, whole)


def collect(generator) -> tuple[list[str], Generation]:
    pieces = []
    while True:
        try:
            pieces.append(next(generator))
        except StopIteration as end:
            return pieces, end.value


class Script(torch.nn.Module):
    """Says what it is told: row by row the next byte of a text, whatever was drawn before."""

    def __init__(self, model: Model, text: bytes, then: int = 2) -> None:
        super().__init__()
        self.config, self.anchor = model.config, torch.nn.Parameter(torch.zeros(1))
        self.script = [5 + b for b in text] + [then] * 200
        self.heads = torch.nn.ModuleDict({"tokens": _Given()})

    def forward(self, raw: dict[str, torch.Tensor], cache: object) -> torch.Tensor:
        at = (raw["pos"][:, -1] - self.begin).tolist()
        out = torch.full((*raw["tokens"].shape, 261), -50.0)
        for row, step in enumerate(at):
            out[row, -1, self.script[step]] = 50.0
        return out

    begin = 0


class _Given(torch.nn.Module):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def test_streams_hold_whole_characters_only(talker, bytes_codec):
    text = "naïve 日本 👩‍👩‍👧 e\u0301"
    script = Script(talker, text.encode())
    pieces, result = collect(stream(script, bytes_codec, "", temperature=0))  # type: ignore[arg-type]
    assert "".join(pieces) == text == result.text
    assert not any("\ufffd" in piece for piece in pieces)
    assert result.finish_reason == "eos" and result.ids[-1] == bytes_codec.eos_id


def test_a_character_cut_by_the_limit_becomes_the_replacement_character(talker, bytes_codec):
    script = Script(talker, "ab日".encode())
    result = generate(script, bytes_codec, [""], temperature=0, max_new_tokens=4)[0]  # type: ignore[arg-type,list-item]
    assert (result.text, result.finish_reason) == ("ab\ufffd", "length")


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["END"], "one ENtwo "),
        (["two E"], "one EN"),
        (["N"], "one E"),
        (["absent"], "one ENtwo END three"),
        (["END", "two EN"], "one EN"),
        (["o"], ""),
        ("END", "one ENtwo "),
    ],
)
def test_stop_strings_across_tokens(talker, bytes_codec, stop, text):
    script = Script(talker, b"one ENtwo END three")
    result = generate(script, bytes_codec, [""], temperature=0, stop=stop)[0]  # type: ignore[arg-type,list-item]
    pieces, streamed = collect(stream(script, bytes_codec, "", temperature=0, stop=stop))  # type: ignore[arg-type]
    assert result.text == text == "".join(pieces) == streamed.text
    assert result.finish_reason == ("eos" if text.endswith("three") else "stop")
    if text.endswith("three"):
        return
    said = bytes_codec.decode(result.ids)
    assert said.startswith(text) and len(said) > len(text), "ids include those of the stop string"


def test_a_stop_string_cut_by_the_limit_is_text(talker, bytes_codec):
    script = Script(talker, b"one END")
    result = generate(script, bytes_codec, [""], temperature=0, stop=["END"], max_new_tokens=6)[0]  # type: ignore[arg-type,list-item]
    assert (result.text, result.finish_reason) == ("one EN", "length")


def test_text_prompts_begin_with_bos(talker, bytes_codec):
    empty, word = generate(talker, bytes_codec, ["", "ab"], max_new_tokens=1)
    assert empty.prompt_ids == [bytes_codec.bos_id]
    assert word.prompt_ids == [bytes_codec.bos_id, *bytes_codec.encode("ab")]
    as_ids = generate(talker, bytes_codec, [[], [7]][1:], max_new_tokens=1)
    assert as_ids[0].prompt_ids == [7]
    special = generate(talker, bytes_codec, ["<|eos|>"], max_new_tokens=1)[0]
    assert bytes_codec.eos_id not in special.prompt_ids


def test_limits(model):
    context = model.config.context
    for length in (30, context - 1):
        for new in (1, 1000):
            g = generate(model, None, [[1] * length], max_new_tokens=new)[0]
            assert len(g.ids) == min(new, context - length)
            assert g.finish_reason == "length" and g.text == ""
    lengths = [
        len(g.ids) for g in generate(model, None, [[1] * n for n in (1, 47, 30, 46)], max_new_tokens=1000)
    ]
    assert lengths == [47, 1, 18, 2]


def test_a_prompt_without_room_is_refused_with_both_numbers(model):
    for length in (48, 90):
        with pytest.raises(UsageError, match=f"prompt 1 has {length} tokens, the model's context is 48"):
            generate(model, None, [[1], [1] * length])


def test_no_prompts_no_texts(model):
    assert generate(model, None, []) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 1.2}, "top_p=1.2"),
        ({"min_p": -0.5}, "min_p=-0.5"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"stop": [""]}, "stop="),
    ],
)
def test_bad_values_are_refused_at_the_call(talker, bytes_codec, options, said):
    with pytest.raises(UsageError, match=said):
        generate(talker, bytes_codec, ["a"], **options)
    with pytest.raises(UsageError, match=said):
        stream(talker, bytes_codec, "a", **options)


def test_bad_prompts_are_refused(model, bytes_codec):
    for codec, prompts, said in (
        (bytes_codec, "one string", "one string"),
        (None, ["text"], "without a codec"),
        (None, [[1], []], "prompt 1 has no ids"),
        (None, [[97]], "id 97, the model's vocabulary has 97"),
        (None, [[-1]], "id -1"),
    ):
        with pytest.raises(UsageError, match=said):
            generate(model, codec, prompts)
    with pytest.raises(UsageError, match="stop strings without a codec"):
        generate(model, None, [[1]], stop=["x"])
    with pytest.raises(UsageError, match="rows=0"):
        generate(model, None, [[1]], rows=0)


def test_nothing_is_left_behind(model):
    """Modes of each module, gradients, global random states: as before, also when a stream is left."""
    model.train()
    model.trunk.blocks[0].eval()
    modes = [m.training for m in model.modules()]
    states = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    generate(model, None, PROMPTS, max_new_tokens=4)
    running = stream(model, None, [1, 2], max_new_tokens=4)
    next(running, None)
    running.close()
    assert [m.training for m in model.modules()] == modes
    assert torch.get_rng_state().equal(states[0])
    np.testing.assert_equal(np.random.get_state(legacy=False), states[1])
    assert random.getstate() == states[2]
    assert all(p.grad is None for p in model.parameters())
    loss = model({"tokens": torch.tensor([[1, 2, 3]])}).sum()
    loss.backward()  # tables made while generating are of use in training
    assert any(p.grad is not None for p in model.parameters())


def test_dropout_is_off_while_generating(make_model):
    plain = make_model("qwen3")
    dropped = Model(plain.config.model_copy(update={"dropout": 0.5}))
    dropped.load_state_dict(plain.state_dict())
    dropped.train()
    a = generate(dropped, None, PROMPTS, max_new_tokens=8, temperature=0)
    b = generate(plain, None, PROMPTS, max_new_tokens=8, temperature=0)
    assert [g.ids for g in a] == [g.ids for g in b]
    assert dropped.training


def test_modes_come_back_after_an_error(model):
    model.train()
    with pytest.raises(RuntimeError, match="inside"), Frozen(model)():
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError("inside")
    assert model.training and torch.is_grad_enabled()


def test_spare_rows_of_an_embedding_have_no_text(make_model, bytes_codec: Codec):
    model = make_model("llama", vocab=400)
    result = generate(model, bytes_codec, ["a"] * 8, max_new_tokens=20, temperature=3.0, eos=())
    assert any(i >= bytes_codec.vocab_size for g in result for i in g.ids)
    known = [[i for i in g.ids if i < bytes_codec.vocab_size] for g in result]
    assert [g.text for g in result] == [bytes_codec.decode(ids) for ids in known]
