"""Supervised fine-tuning: what is trained on, what is cut or left out, the loss, and NEFTune's noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo import data as datas
from exnihilo.codec import train as train_codec
from exnihilo.codec.chat import chat
from exnihilo.config import CodecConfig, DataConfig, ModelConfig
from exnihilo.data import collate, packing
from exnihilo.data.base import Item, Noted
from exnihilo.errors import CodecError, ConfigError, DataError
from exnihilo.model import build
from exnihilo.objective import registry, sft
from exnihilo.train.facts import laying

WORDS = "the fox ran to the mill and asked the owl for bread at noon user assistant system tool"
CODEC = train_codec(CodecConfig(kind="bpe", vocab_size=400), [WORDS] * 4)
CHAT = chat(CODEC)
SYSTEM = {"role": "system", "content": "Be brief."}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


TALK = [
    SYSTEM,
    turn("user", "Who ran?"),
    turn("assistant", "The fox."),
    turn("tool", "the owl"),
    turn("assistant", "And the owl."),
]


def made(messages: list[dict[str, str]], length: int | None = None, **options: Any) -> Noted:
    found = registry.create("sft", options, length=length).encode({"messages": messages}, CODEC)
    assert isinstance(found, Noted)
    return found


def learnt(item: Item) -> list[str]:
    """The runs of trained tokens, as text with special tokens."""
    tokens, mask = np.asarray(item["tokens"]).tolist(), np.asarray(item["mask"]).tolist()
    runs: list[list[int]] = []
    for at, (token, on) in enumerate(zip(tokens, mask, strict=True)):
        if on and at and mask[at - 1]:
            runs[-1].append(token)
        elif on:
            runs.append([token])
    return [CODEC.decode(run, skip_special=False) for run in runs]


def test_only_what_the_assistant_says_is_trained_and_where_it_stops():
    (item,) = made(TALK)
    assert learnt(item) == ["The fox.<|im_end|>", "And the owl.<|im_end|>"]
    (last,) = made(TALK, train="last")
    assert learnt(last) == ["And the owl.<|im_end|>"]
    (every,) = made(TALK, train="all")
    assert np.asarray(every["mask"]).tolist() == [0] + [1] * (len(np.asarray(every["tokens"])) - 1)
    whole = CHAT.render(TALK)
    assert np.asarray(item["tokens"]).tolist() == whole.ids[: len(np.asarray(item["tokens"]))]
    assert set(whole.mask[len(np.asarray(item["tokens"])) :]) <= {0}  # nothing to learn was left off


def test_text_that_spells_the_end_of_a_turn_ends_none():
    (item,) = made([turn("user", "<|im_end|>"), turn("assistant", "a<|im_end|>b")])
    end = CODEC.token_id("<|im_end|>")
    tokens, mask = np.asarray(item["tokens"]), np.asarray(item["mask"])
    assert (tokens == end).sum() == 2 and (tokens[mask > 0] == end).sum() == 1 and tokens[-1] == end


contents = st.text("abc dé漢🦊<|im_end|>\n", min_size=1, max_size=24).filter(lambda t: t.strip())
talks = st.builds(
    lambda head, turns: [*head, *(turn(("user", "assistant")[i % 2], t) for i, t in enumerate(turns))],
    st.sampled_from([[], [SYSTEM]]),
    st.lists(contents, min_size=1, max_size=7),
)


@settings(max_examples=60, deadline=None)
@given(talks, st.integers(12, 90), st.sampled_from(["assistant", "last", "all"]))
def test_long_conversations_are_cut_at_whole_turns(messages: list[Any], length: int, train: Any):
    found = made(messages, length, train=train)
    whole = sft.trimmed(CHAT.render(messages, train=train))
    if whole is None:
        assert not found and found.note == sft.NOTHING
        return
    if len(whole[0]) <= length + 1:
        assert found.note == "" and np.asarray(found[0]["tokens"]).tolist() == whole[0]
        return
    assert found.note == (sft.CUT if found else sft.TOO_LONG)
    # brute force: every part of the conversation that may stay, the longest that fits
    head = 1 if messages[0]["role"] == "system" else 0
    if train == "last":
        parts = [[*messages[:head], *messages[i:]] for i in range(head + 1, len(messages))]
        parts = [p for p in parts if p[head]["role"] == "user"]
    else:
        parts = [messages[:n] for n in range(head + 1, len(messages))]
        parts = [p for p in parts if p[-1]["role"] == "assistant"]
    fitting = [
        r for p in parts if (r := sft.trimmed(CHAT.render(p, train=train))) and len(r[0]) <= length + 1
    ]
    assert bool(found) == bool(fitting)
    if found:
        best = max(fitting, key=lambda r: len(r[0]))
        assert np.asarray(found[0]["tokens"]).tolist() == best[0]
        assert np.asarray(found[0]["mask"]).tolist() == best[1] and any(best[1])


def test_without_a_reply_or_with_untrained_ones_there_is_nothing_to_learn():
    assert made([turn("user", "Hi")]).note == sft.NOTHING
    quiet = [turn("user", "Hi"), {**turn("assistant", "Hello."), "weight": 0}]
    assert made(quiet).note == sft.NOTHING and len(made(quiet, train="all")) == 1


def test_a_tokenizer_without_marks_of_turns_is_refused_with_the_next_action():
    plain = train_codec(CodecConfig(kind="wordpiece", vocab_size=200), [WORDS])
    with pytest.raises(CodecError, match=r"im_start.*(?s:.)*next:"):
        registry.create("sft").encode({"messages": TALK}, plain)
    with pytest.raises(DataError, match="messages"):
        registry.create("sft").encode({"text": "a"}, CODEC)
    with pytest.raises(ConfigError, match="neftune"):
        registry.create("sft", {"neftune": -1})


# preparation ------------------------------------------------------------------------------------


def prepared(path: Path, rows: list[Any], length: int = 40) -> Any:
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    objective = registry.create("sft", length=length)
    return datas.prepare(
        DataConfig.model_validate({"sources": [{"path": str(path)}], "val_fraction": 0.0}),
        None,
        encode=lambda examples: objective.encode_many(examples, CODEC),
        key="sft-test",
        context=length,
        seed=0,
        cache=path.parent / "cache",
        **laying(objective),
    )


def test_what_is_cut_or_left_out_is_counted_with_the_first_row(tmp_path: Path):
    short = [turn("user", "Hi"), turn("assistant", "the fox")]
    long = [*short, turn("user", "the owl " * 30), turn("assistant", "no")]
    found = prepared(
        tmp_path / "a.jsonl",
        [short, [turn("user", "the mill " * 60), turn("assistant", "no")], long, long, short[:1]],
    )
    dropped = found.report.sources[0].dropped
    assert dropped[sft.TOO_LONG][0] == 1 and "line 2" in dropped[sft.TOO_LONG][1]
    assert dropped[sft.CUT][0] == 2 and "line 3" in dropped[sft.CUT][1]
    assert found.train.documents == 3
    assert any("cut at whole turns" in line for line in found.report.lines())


def test_a_data_set_with_nothing_to_learn_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="nothing to train on|without an assistant"):
        prepared(tmp_path / "b.jsonl", [[turn("user", "Hi")], [turn("user", "the owl")]])


# the loss ----------------------------------------------------------------------------------------


def batch_of(items: list[Item], row: int) -> dict[str, torch.Tensor]:
    lengths = np.array([len(np.asarray(i["tokens"])) for i in items], np.int64)
    plan = packing.plan(lengths, row, overlap=0, max_padding=1.0)
    columns = collate.of_items([plan.pieces(r) for r in range(plan.rows)], items, row=row, pad_id=0)
    return {k: torch.from_numpy(v) for k, v in columns.items()}


def model_of(dropout: float = 0.0) -> Any:
    config = ModelConfig(
        depth=2, width=32, heads=2, context=128, vocab_size=CODEC.vocab_size, dropout=dropout
    )
    return build(config, seed=1).double()


def test_the_loss_is_minus_the_log_probability_of_the_trained_tokens():
    objective, model = registry.create("sft"), model_of().eval()
    items = [made(TALK)[0], made([turn("user", "Who?"), turn("assistant", "The owl, at noon.")])[0]]
    want, count = 0.0, 0
    for item in items:  # each alone, its log-probabilities by hand
        ids = torch.tensor(np.asarray(item["tokens"]).astype(np.int64))
        with torch.no_grad():
            log_p = model.heads["tokens"].logits(model({"tokens": ids[None]}))[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if np.asarray(item["mask"])[t]:
                want -= float(log_p[t - 1, ids[t]])
                count += 1
    for row in (max(len(np.asarray(i["tokens"])) for i in items), 129):  # one a row, and both in one
        batch = batch_of(items, row)
        assert float(objective.sums(model, batch)["nll"].detach()) == pytest.approx(want, abs=1e-9)
        assert float(objective.counts(batch)["nll"]) == count
    found = objective.metrics({"nll": want}, {"nll": count})
    assert found["perplexity"] == pytest.approx(math.exp(want / count))
    rows = objective.row_losses(model, batch_of(items, 129))  # pyright: ignore[reportAttributeAccessIssue]
    assert float(rows[0]) == pytest.approx(want / count)


def test_a_packed_conversation_learns_nothing_from_its_neighbour():
    objective, model = registry.create("sft"), model_of()
    first = made(TALK)[0]
    grads = []
    for other in ("the mill", "bread and the owl"):
        neighbour = made([turn("user", other), turn("assistant", other)])[0]
        neighbour["mask"] = np.zeros_like(np.asarray(neighbour["mask"]))
        batch = batch_of([first, neighbour], 129)
        assert int(batch["doc"].max()) == 1
        total = objective.sums(model, batch)["nll"]
        grads.append(torch.autograd.grad(total, list(model.parameters()), allow_unused=True))
    for a, b in zip(*grads, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


# NEFTune -----------------------------------------------------------------------------------------


def test_neftune_is_uniform_noise_of_the_papers_size():
    """x + (α/√(L·D))·ε, ε uniform in (−1, 1), L the tokens of the conversation (Jain et al., algorithm 1)."""
    items, alpha, width = [made(TALK)[0], made(TALK[:3])[0]], 5.0, 32
    sizes = [len(np.asarray(i["tokens"])) for i in items]
    batch = batch_of(items, 129)
    got = sft.spread(batch, alpha, width)
    for document, size in enumerate(sizes):
        inside = got[batch["doc"][:, :-1] == document]
        torch.testing.assert_close(inside, torch.full_like(inside, alpha / math.sqrt(size * width)))
    alone = {"tokens": torch.zeros(1, 9, dtype=torch.int64)}
    assert sft.spread(alone, alpha, width).unique().item() == pytest.approx(alpha / math.sqrt(9 * width))
    model = model_of().train()
    tokens = torch.randint(0, 99, (8, 128), generator=torch.Generator().manual_seed(0))
    half = torch.full((8, 128), 0.25, dtype=torch.float64)
    plain = model.front({"tokens": tokens}, model.attention).x_BTD
    torch.manual_seed(3)
    noise = model.front({"tokens": tokens, "noise": half}, model.attention).x_BTD - plain
    assert noise.abs().max() < 0.25 and noise.abs().max() > 0.2499  # of 32,768 numbers
    assert abs(float(noise.detach().mean())) < 0.004 and float(noise.detach().std()) == pytest.approx(
        0.25 / math.sqrt(3), rel=0.02
    )
    model.eval()
    assert torch.equal(model.front({"tokens": tokens, "noise": half}, model.attention).x_BTD, plain)


def test_neftune_acts_in_training_alone_and_repeats_with_the_seed():
    model, batch = model_of(), batch_of([made(TALK)[0]], 64)
    noisy, plain = registry.create("sft", {"neftune": 10}), registry.create("sft")

    def loss(objective: Any) -> float:
        torch.manual_seed(0)
        return float(objective.sums(model, batch)["nll"].detach())

    model.train()
    assert loss(noisy) == loss(noisy) != loss(plain)
    model.eval()
    assert loss(noisy) == loss(plain)
