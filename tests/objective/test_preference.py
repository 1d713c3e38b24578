"""Preferences: what is encoded, the loss against separate rows, KTO's reference point, refusals.

Key: B rows, R tokens of a row, P pairs
"""

# ruff: noqa: E741 - w and l are the y_w and y_l of the papers

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo.codec import train as train_codec
from exnihilo.codec.chat import chat
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate, packing
from exnihilo.data.base import Item, Noted
from exnihilo.errors import ConfigError, DataError
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.objective import _preference_losses as room
from exnihilo.objective import preludes, registry
from exnihilo.objective.base import Objective

WORDS = "the fox ran to the mill and asked the owl for bread at noon user assistant system tool"
CODEC = train_codec(CodecConfig(kind="bpe", vocab_size=400), [WORDS] * 4)
CHAT = chat(CODEC)
PAIRED = ("dpo", "rpo", "cdpo", "robust", "ipo", "simpo", "orpo", "apo_zero", "dpo_norm")


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def example(question: str, good: str, bad: str) -> dict[str, Any]:
    return {
        "prompt": [turn("user", question)],
        "chosen": [turn("assistant", good)],
        "rejected": [turn("assistant", bad)],
    }


PAIRS = [
    example("Who ran?", "The fox ran.", "An owl"),
    example("Where to?", "To the mill at noon.", "To the mill at noon, said the owl, and then for bread."),
    example("And who asked the owl for bread at noon?", "The fox.", "the"),
    example("When?", "noon", "At noon, at noon, at noon."),
    example("What?", "bread", "a mill"),
]
SINGLE = [
    {"prompt": p["prompt"], "completion": p[role], "label": role == "chosen"}
    for p in PAIRS
    for role in ("chosen", "rejected")
]


def ready(loss: str, length: int | None = 128, **options: Any) -> Objective:
    first = registry.create("preference", {"loss": loss, **options}, length=length)
    facts = first.survey(SINGLE if loss == "kto" else PAIRS)
    return registry.create("preference", {"loss": loss, **options}, length=length, facts=facts)


def net(dropout: float = 0.0, seed: int = 0) -> Model:
    config = ModelConfig(
        family="qwen3", depth=2, width=32, heads=4, context=128, vocab_size=CODEC.vocab_size, dropout=dropout
    )
    return build(config, seed=seed).double()


def alone(model: Model, prompt: list[int], reply: list[int]) -> Tensor:
    """log p of each token of a reply, by a row of its own and all logits."""
    tokens = torch.tensor([prompt + reply])
    whole = model.heads["tokens"].logits(model({"tokens": tokens[:, :-1]})).log_softmax(-1)
    return whole.gather(-1, tokens[:, 1:, None])[0, len(prompt) - 1 :, 0]


def rows(items: Sequence[Item], row: int | None = None) -> dict[str, Tensor]:
    lengths = np.array([len(np.asarray(i["tokens"])) for i in items])
    if row is None:
        pieces, row = [[(i, 0, int(n))] for i, n in enumerate(lengths)], int(lengths.max())
    else:
        plan = packing.plan(lengths, row, overlap=0, max_padding=1.0)
        pieces = [plan.pieces(r) for r in range(plan.rows)]
    return {k: torch.from_numpy(v) for k, v in collate.of_items(pieces, items, row=row, pad_id=0).items()}


def with_reference(items: Sequence[Item], model: Model) -> list[Item]:
    """The column that the source of references adds, computed reply by reply."""
    out = []
    for item in items:
        tokens, branch, mask = (np.asarray(item[k]) for k in ("tokens", "branch", "mask"))
        column = np.zeros(len(tokens), np.float64)
        for number in range(1, int(branch.max()) + 1):
            stem, own = tokens[branch == 0].tolist(), tokens[branch == number].tolist()
            with torch.no_grad():
                found = alone(model, [*stem, own[0]], own[1:])
            column[branch == number] = [0.0, *found.tolist()]
        out.append({**item, "ref_logp": column * mask})
    return out


def items_of(objective: Objective, examples: Sequence[dict[str, Any]]) -> list[Item]:
    return [item for made in objective.encode_many(examples, CODEC) for item in made]


def loss_of(objective: Objective, model: Model, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """As the loop has it: preludes and counts over everything, then sums divided once."""
    known = {}
    if objective.preludes:
        known = preludes.means(*preludes.add(model, objective, batches), "cpu")
    counts = [objective.counts(b) for b in batches]
    total = {k: sum(float(c[k]) for c in counts) for k in counts[0]}
    loss = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        for k, v in objective.sums(model, {**batch, **known}).items():
            if total[k]:
                loss = loss + objective.weights.get(k, 1.0) * v / total[k]
    return loss


def grads(loss: Tensor, model: Model) -> list[Tensor]:
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(
            model.parameters(),
            torch.autograd.grad(loss, list(model.parameters()), allow_unused=True),
            strict=True,
        )
    ]


def encoded(objective: Objective, one: dict[str, Any]) -> Noted:
    made = objective.encode(one, CODEC)
    assert isinstance(made, Noted)
    return made


# what is encoded ------------------------------------------------------------------------------------------


def test_an_item_is_the_prompt_once_and_both_replies_with_their_terminators() -> None:
    (item,) = encoded(ready("dpo"), PAIRS[0])
    tokens, branch = np.asarray(item["tokens"]), np.asarray(item["branch"])
    mask = np.asarray(item["mask"])
    prompt = CHAT.prompt(PAIRS[0]["prompt"])
    for number, role in ((1, "chosen"), (2, "rejected")):
        reply = CHAT.completion(PAIRS[0][role][0]["content"])
        whole = CHAT.render([*PAIRS[0]["prompt"], *PAIRS[0][role]])
        assert tokens[branch <= number][branch[branch <= number] != 3 - number].tolist() == prompt + reply
        assert whole.ids[: len(prompt) + len(reply)] == prompt + reply
        assert mask[branch == number].tolist() == [0] + [1] * len(reply)
        assert tokens[branch == number][-1] == CODEC.token_id("<|im_end|>")


def test_texts_are_taken_for_messages() -> None:
    (one,) = encoded(ready("dpo"), {"prompt": "Who ran?", "chosen": "The fox ran.", "rejected": "An owl"})
    (two,) = encoded(ready("dpo"), PAIRS[0])
    assert all(np.array_equal(one[k], two[k]) for k in two)


def test_of_a_reply_in_several_turns_only_the_assistants_are_learnt() -> None:
    talk = [turn("assistant", "the mill"), turn("tool", "noon"), turn("assistant", "the owl")]
    (item,) = encoded(ready("dpo"), {**PAIRS[0], "chosen": talk})
    tokens, branch, mask = (np.asarray(item[k]) for k in ("tokens", "branch", "mask"))
    learnt = tokens[(branch == 1) & (mask > 0)].tolist()
    assert CODEC.decode(learnt, skip_special=False) == "the mill<|im_end|>the owl<|im_end|>"
    whole = CHAT.render([*PAIRS[0]["prompt"], *talk]).ids
    assert tokens[branch <= 1].tolist() == whole[: int((branch <= 1).sum())]
    made = encoded(ready("dpo"), {**PAIRS[0], "chosen": talk[1:]})
    assert made == [] and "assistant" in made.note


def test_what_is_too_long_loses_its_oldest_turns_or_is_left_out() -> None:
    talk = [turn("user", WORDS), turn("assistant", "noon"), turn("user", "Who ran?")]
    short = ready("dpo", length=40)
    made = encoded(short, {**PAIRS[0], "prompt": talk})
    assert "oldest" in made.note
    want = encoded(short, {**PAIRS[0], "prompt": talk[2:]})
    assert np.array_equal(np.asarray(made[0]["tokens"]), np.asarray(want[0]["tokens"]))
    assert short.row == 80 and len(np.asarray(made[0]["tokens"])) <= 80
    gone = encoded(short, {**PAIRS[0], "chosen": [turn("assistant", WORDS * 3)]})
    assert not gone and "fit" in gone.note
    with pytest.raises(DataError, match="rejected"):
        short.encode({k: v for k, v in PAIRS[0].items() if k != "rejected"}, CODEC)


# losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", PAIRED)
def test_each_loss_equals_separate_rows(loss: str) -> None:
    more: dict[str, Any] = {"sft": 0.5} if loss == "dpo" else {}
    objective, model, other = ready(loss, **more), net(), net(seed=1)
    items = items_of(objective, PAIRS)
    batch = rows(with_reference(items, other), 150)
    batch = {k: v for k, v in batch.items() if k in objective.columns}
    assert ("ref_logp" in batch) == (loss not in ("simpo", "orpo"))
    values, nll, tokens = [], torch.zeros(()), 0
    for pair in PAIRS:
        prompt = CHAT.prompt(pair["prompt"])
        w, l = (CHAT.completion(pair[role][0]["content"]) for role in ("chosen", "rejected"))
        lw, ll = alone(model, prompt, w).sum(), alone(model, prompt, l).sum()
        with torch.no_grad():
            rw, rl = alone(other, prompt, w).sum(), alone(other, prompt, l).sum()
        a, b = lw - rw, ll - rl
        values.append(
            {
                "dpo": lambda a=a, b=b: room.dpo(a - b, beta=0.1),
                "rpo": lambda a=a, b=b: room.dpo(a - b, beta=0.1),
                "cdpo": lambda a=a, b=b: room.cdpo(a - b, beta=0.1, smoothing=0.1),
                "robust": lambda a=a, b=b: room.robust(a - b, beta=0.1, smoothing=0.1),
                "ipo": lambda a=a, b=b, w=w, l=l: room.ipo(a / len(w) - b / len(l), beta=0.1),
                "simpo": lambda x=lw, y=ll, w=w, l=l: room.simpo(
                    x / len(w) - y / len(l), beta=2.5, gamma=0.5
                ),
                "orpo": lambda x=lw, y=ll, w=w, l=l: 0.1 * room.orpo(x / len(w), y / len(l)),
                "apo_zero": lambda a=a, b=b: room.apo_zero(a, b, beta=0.1),
                "dpo_norm": lambda a=a, b=b, w=w, l=l: room.dpo(a / len(w) - b / len(l), beta=5.0),
            }[loss]()
        )
        nll, tokens = nll - lw, tokens + len(w)
    want = torch.stack(values).mean() + {"orpo": 1.0, "rpo": 1.0, "dpo": 0.5}.get(loss, 0.0) * nll / tokens
    got = loss_of(objective, model, [batch])
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    for a, b in zip(grads(got, model), grads(want, model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", [*PAIRED, "kto"])
def test_it_does_not_matter_how_a_batch_is_cut(loss: str) -> None:
    objective, model = ready(loss), net()
    items = with_reference(items_of(objective, SINGLE if loss == "kto" else PAIRS), net(seed=1))
    whole = rows(items)
    one = [{k: v[i : i + 1] for k, v in whole.items()} for i in range(len(items))]
    a, b = loss_of(objective, model, [whole]), loss_of(objective, model, one)
    c = loss_of(objective, model, [rows(items[::-1], 200)])
    for other in (b, c):
        torch.testing.assert_close(a, other, rtol=1e-6, atol=1e-8)
        for x, y in zip(grads(a, model), grads(other, model), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)
        a = loss_of(objective, model, [whole])


def test_kto_compares_with_replies_to_other_prompts_in_any_batch() -> None:
    objective, model, other = ready("kto"), net(), net(seed=1)
    items = with_reference(items_of(objective, SINGLE), other)
    assert objective.roles == ("prompt", "completion", "label")
    for item, single in zip(items, SINGLE, strict=True):
        tokens, branch = np.asarray(item["tokens"]), np.asarray(item["branch"])
        own, stranger = (tokens[branch == n].tolist()[1:] for n in (1, 2))
        assert own == CHAT.completion(single["completion"][0]["content"]) != stranger
        assert stranger in [CHAT.completion(s["completion"][0]["content"]) for s in SINGLE]
        assert item["label"] == int(single["label"])
    # all of one kind, an odd number, a single one
    for chosen in (items[::2], items[1::2], items[:3], items[:1]):
        want, kl = [], []
        for item in chosen:
            tokens, branch, ref = (np.asarray(item[k]) for k in ("tokens", "branch", "ref_logp"))
            stem = tokens[branch == 0].tolist()
            logs = []
            for n in (1, 2):
                mine = tokens[branch == n].tolist()
                logs.append(alone(model, [*stem, mine[0]], mine[1:]).sum() - float(ref[branch == n].sum()))
            want.append((logs[0], item["label"]))
            kl.append(logs[1].detach())
        z = torch.stack(kl).mean().clamp(min=0)
        expected = torch.stack(
            [room.kto(r, torch.tensor(bool(good)), z, beta=0.1) for r, good in want]
        ).mean()
        got = loss_of(objective, model, [rows(chosen)])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
        for x, y in zip(grads(got, model), grads(expected, model), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-7)
    with pytest.raises(DataError, match="mean:kl"):
        objective.sums(model, rows(items))


def test_measures_are_of_the_implicit_reward() -> None:
    objective, model, other = ready("dpo"), net(), net(seed=1)
    batch = rows(with_reference(items_of(objective, PAIRS), other))
    sums, counts = objective.sums(model, batch), objective.counts(batch)
    found = objective.metrics(
        {k: float(v.detach()) for k, v in sums.items()}, {k: float(v) for k, v in counts.items()}
    )
    gaps = []
    for pair in PAIRS:
        prompt = CHAT.prompt(pair["prompt"])
        one = []
        for role in ("chosen", "rejected"):
            ids = CHAT.completion(pair[role][0]["content"])
            one.append(float((alone(model, prompt, ids).sum() - alone(other, prompt, ids).sum()).detach()))
        gaps.append(0.1 * (one[0] - one[1]))
    assert found["accuracy"] == pytest.approx(np.mean(np.array(gaps) > 0))
    assert found["margin"] == pytest.approx(np.mean(gaps), rel=1e-4)
    assert all(objective.weights[k] == 0 for k in ("accuracy", "chosen_logp", "rejected_reward"))


def test_the_reference_is_the_model_with_dropout_off() -> None:
    """At the start the model is its reference: every margin is 0, whatever dropout the model trains with."""
    from exnihilo.train.source.reference import Reference

    model = net(dropout=0.3).float().train()
    objective = ready("dpo")
    items = items_of(objective, PAIRS)
    columns = {k: v.numpy() for k, v in rows(items).items()}
    twin = net(dropout=0.3).float().train()
    reference = Reference(twin, "the model itself")
    batch = {**rows(items), "ref_logp": torch.from_numpy(reference.logps(columns))}
    model.eval()
    first = loss_of(objective, model, [batch])
    torch.testing.assert_close(float(first.detach()), float(np.log(2)), rtol=1e-5, atol=1e-6)
    assert float(objective.sums(model, batch)["chosen_reward"]) == pytest.approx(0.0, abs=1e-5)
    model.train()
    torch.manual_seed(0)
    assert abs(float(objective.sums(model, batch)["chosen_reward"])) > 1e-3  # dropout is the model's own
    assert not any(p.requires_grad for p in twin.parameters())


def test_the_prelude_leaves_the_model_as_it_was() -> None:
    objective, model = ready("kto"), net(dropout=0.5).train()
    batch = rows(with_reference(items_of(objective, SINGLE), net(seed=1)))
    first, second = (preludes.add(model, objective, [batch]) for _ in range(2))
    assert first == second and model.training


# refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "dpo", "smoothing": 0.1}, "smoothing"),
        ({"loss": "dpo", "gamma": 1.0}, "gamma"),
        ({"loss": "orpo", "beta": 0.1}, "odds"),
        ({"loss": "ipo", "desirable": 1.0}, "desirable"),
        ({"loss": "robust", "smoothing": 0.5}, "smoothing"),
        ({"loss": "dop"}, "loss"),
        ({"bta": 0.1}, "bta"),
    ],
)
def test_options_that_say_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        registry.create("preference", options)


def test_kto_needs_replies_to_other_prompts() -> None:
    with pytest.raises(DataError, match="1 different"):
        registry.create("preference", {"loss": "kto"}).survey(SINGLE[:1])
    facts = ready("kto").facts
    again = registry.create("preference", {"loss": "kto"}).survey(SINGLE[::-1])
    assert again == facts  # whatever the order
