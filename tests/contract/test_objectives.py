"""The one contract that every training type goes through; objectives are found by listing their folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate, packing
from exnihilo.infer.predict import Predictor, predicts
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.nn.layout import Attention
from exnihilo.objective import draws, preludes, registry
from exnihilo.objective._branches import token_logps
from exnihilo.objective.base import Example, Item, Objective
from exnihilo.objective.pieces import IGNORE

LENGTH = 64
LABELS = frozenset(
    {"targets", "label", "tag", "start", "end", "score", "mask"}
)  # columns that say what is learnt
NAMES = registry.names()
TEXTS = (
    "a",
    "The cat sat on the mat. It was warm there. The dog came in, and the cat ran away. Nobody saw it again.",
    "Once there was a fox who wanted a red ball. He asked the owl. The owl said no. So he ran home.",
    "Ünïcödé, 漢字 and 🦊.",
    "Two plus two is four, and four plus four is eight; that is all. Is there more? There is. Nine is odd.",
    "She went home. He stayed. They wrote letters. The letters were long. One of them was lost at sea.",
    "b c d e f g",
    "“Where is it?” he asked. “I do not know,” she said. He looked again. There it was, on the table.",
)
WORDS = [text.replace(".", "").split() for text in TEXTS]
SOUNDS = ("bell", "drum", "horn", "wind")
DRAWN = ("kite", "drum", "cup", "key")
SERIES = ("tide", "walk", "beats", "trend")
QUESTIONS = ("Where was it warm?", "Who said no?", "What is odd?", "What was lost?")


def talk(*contents: str) -> list[dict[str, str]]:
    """Messages of a user and an assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def _examples() -> dict[frozenset[str], list[Example]]:
    """By the roles that training needs."""
    contexts = [TEXTS[i] for i in (1, 2, 4, 5)]
    answers = ("there", "The owl", "Nine", "One of them")
    sides = list(zip(TEXTS, TEXTS[::-1], strict=True))
    found: dict[frozenset[str], list[Example]] = {
        frozenset({"text"}): [{"text": text} for text in TEXTS],
        frozenset({"text", "label"}): [
            {"text": t, "label": ("good", "bad", "so-so")[i % 3]} for i, t in enumerate(TEXTS)
        ],
        frozenset({"a", "b", "label"}): [
            {"a": a, "b": b, "label": ("yes", "no")[i % 2]} for i, (a, b) in enumerate(sides)
        ],
        frozenset({"a", "b"}): [
            {"a": a, "b": b, "score": min(i, 7 - i) / 2} for i, (a, b) in enumerate(sides)
        ],
        frozenset({"query", "document", "label"}): [
            {"query": q, "document": c, "label": int(i == j)}
            for i, q in enumerate(QUESTIONS)
            for j, c in enumerate(contexts[:2])
        ],
        frozenset({"question", "context", "answers"}): [
            *(
                {"id": str(i), "question": q, "context": c, "answers": [{"text": a, "start": c.index(a)}]}
                for i, (q, c, a) in enumerate(zip(QUESTIONS, contexts, answers, strict=True))
            ),
            {"id": "none", "question": "Why?", "context": TEXTS[7], "answers": []},
        ],
        frozenset({"messages"}): [
            *({"messages": talk(q, a)} for q, a in zip(QUESTIONS, answers, strict=True)),
            {"messages": talk("Who?", "A fox.", "What?", "A red ball.")},
            {"messages": [{"role": "system", "content": "Be brief."}, *talk("Hi", "Hello.")]},
            {
                "messages": [
                    *talk("2 + 2?", "add(2, 2)"),
                    {"role": "tool", "content": "4"},
                    talk("", "Four.")[1],
                ]
            },
        ],
        frozenset({"prompt", "chosen", "rejected"}): [
            {"prompt": talk(q), "chosen": talk("", a)[1:], "rejected": talk("", b)[1:]}
            for q, a, b in zip(QUESTIONS, answers, ("nowhere", "Nobody did.", "Four", "A"), strict=True)
        ],
        frozenset({"sound"}): [{"sound": f"world:{k}:{i}:0.{4 + i}"} for i, k in enumerate(SOUNDS)],
        frozenset({"sound", "label"}): [
            {"sound": f"world:{k}:{i}:0.{4 + i}", "label": k} for i, k in enumerate(SOUNDS)
        ],
        frozenset({"sound", "text"}): [
            {"sound": f"world:{k}:{i}:0.{4 + i}", "text": f"the {k}"} for i, k in enumerate(SOUNDS)
        ],
        frozenset({"picture"}): [{"picture": f"world:red-{k}@1:{i}"} for i, k in enumerate(DRAWN)],
        frozenset({"picture", "label"}): [
            {"picture": f"world:red-{k}@1:{i}", "label": k} for i, k in enumerate(DRAWN)
        ],
        frozenset({"picture", "text"}): [
            {"picture": f"world:red-{k}@1:{i}", "text": f"the {k}"} for i, k in enumerate(DRAWN)
        ],
        frozenset({"sound", "events"}): [
            {"sound": f"world:{k}:{i}:0.{4 + i}", "events": [{"start": 0.1, "end": 0.3, "label": k}]}
            for i, k in enumerate(SOUNDS)
        ],
        frozenset({"question", "answer"}): [
            {"question": "What colour?", "answer": "red", "picture": "world:red-kite@1:3"},
            {"question": "What is heard?", "answer": "the drum", "sound": "world:drum:1:0.1"},
            {
                "question": "Where is it?",
                "answer": "at the top",
                "picture": "world:blue-bell@2:5",
                "sound": "world:bell:4:0.06",
            },
            {"question": "Who said no?", "answer": "The owl"},
        ],
        frozenset({"prompt"}): [  # groups that were drawn and graded elsewhere
            {"prompt": talk(q), "completions": [a, "No idea.", "b"], "rewards": [1.0, 0.0, float(i % 2)]}
            for i, (q, a) in enumerate(zip(QUESTIONS, answers, strict=True))
        ],
        frozenset({"series"}): [
            {"series": f"world:{k}:{i}:{60 + i}", "part": "all"} for i, k in enumerate(SERIES)
        ],
        frozenset({"series", "label"}): [
            {"series": f"world:{k}:{i}:{60 + i}", "label": k} for i, k in enumerate(SERIES)
        ],
        frozenset({"words", "tags"}): [
            {"words": words, "tags": [("O", "B-X", "I-X")[i % 3] for i in range(len(words))]}
            for words in WORDS
        ],
    }
    return found


EXAMPLES = _examples()
# What an objective needs to be told here. Contrastive vectors are learnt from the other pairs of a row, so
# how rows are laid out is part of that loss (its own tests hold its laws); scores are learnt pair by pair.
OPTIONS: dict[str, dict[str, Any]] = {
    "embeddings": {"loss": "cosine"},
    "sound_tokens": {"rate": 1000},
    "series_tokens": {"history": 32, "horizon": 16},
    "media_qa": {"size": 16, "patch": 8},
    **{name: {"size": 16} for name in ("picture_classification", "masked_picture", "caption")},
    "picture_tokens": {"size": 6},
}
CODEC = train_codec(CodecConfig(kind="wordpiece", vocab_size=400, lowercase=True), TEXTS)
CHAT_CODEC = train_codec(
    CodecConfig(kind="bpe", vocab_size=500), [*TEXTS, "user\n", "assistant\n", "system\n"] * 2
)
WAVES = train_codec(CodecConfig(kind="waves"), ())
BINS = train_codec(CodecConfig(kind="ids", ids=64), ())
PAD = CODEC.pad_id
assert PAD == CHAT_CODEC.pad_id == WAVES.pad_id
CHATS = frozenset({"messages", "prompt"})  # roles that are rendered as conversations


def codec_of(objective: Objective) -> Codec:
    """The tokenizer of an objective: those that render conversations need marks of turns, raw sound its
    own."""
    if type(objective).__name__ in ("SoundTokens", "PictureTokens"):
        return WAVES
    if type(objective).__name__ == "SeriesTokens":
        return BINS
    return CHAT_CODEC if CHATS & set(objective.roles) else CODEC


def examples_of(objective: Objective) -> list[Example]:
    roles = frozenset(objective.roles)
    assert roles in EXAMPLES, f"give the contract examples with the roles {sorted(roles)}"
    if objective.lookahead and "sound" in roles:  # a sample is a token
        return [{"sound": f"world:{k}:{i}:0.0{4 + i}"} for i, k in enumerate(SOUNDS)]
    return EXAMPLES[roles]


def ready(name: str) -> Objective:
    """The objective with what it learns from its training data."""
    options = OPTIONS.get(name)
    first = registry.create(name, options, length=LENGTH)
    return registry.create(name, options, length=LENGTH, facts=first.survey(examples_of(first)))


def items_of(objective: Objective) -> list[Item]:
    made = objective.encode_many(examples_of(objective), codec_of(objective))
    items = [item for several in made for item in several]
    if "ref_logp" in objective.columns:  # a source adds it
        items = [{**item, "ref_logp": -2.0 * np.asarray(item["mask"], np.float32)} for item in items]
    return items


def column(item: Item, name: str) -> np.ndarray:
    """A column of an item, a number of it at each of its tokens."""
    value = np.asarray(item[name])
    return value if value.ndim else np.full(len(np.asarray(item["tokens"])), value)


def lay_out(items: Sequence[Item], row: int, *, packed: bool) -> dict[str, np.ndarray]:
    """Rows of the items, without drawing: several a row, or each alone and padded."""
    lengths = np.array([len(np.asarray(i["tokens"])) for i in items], np.int64)
    if packed:
        plan = packing.plan(lengths, row, overlap=0, max_padding=1.0)
        pieces = [plan.pieces(r) for r in range(plan.rows)]
    else:
        pieces = [[(i, 0, int(n))] for i, n in enumerate(lengths)]
    return collate.of_items(pieces, items, row=row, pad_id=PAD)


class Memory:
    """Rows in memory, as `draw` looks at a data set."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns, self.rows = columns, len(columns["tokens"])

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v[np.asarray(rows)] for k, v in self.columns.items()}


def drawn(objective: Objective, items: Sequence[Item], step: int = 0) -> list[Item]:
    """The items as one step sees them: each drawn alone in its row, so that any layout holds the same."""
    data = Memory(lay_out(items, 128, packed=False))
    columns = draws.draw(objective, data, np.arange(len(items)), codec=codec_of(objective), seed=1, step=step)
    sizes = (columns["doc"] >= 0).sum(1)
    kept = [k for k, v in columns.items() if k not in ("doc", "pos") and v.ndim > 1]
    return [{k: columns[k][i, : sizes[i]] for k in kept} for i in range(len(items))]


def tensors(columns: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in columns.items()}


def batch_of(objective: Objective, items: Sequence[Item], row: int, *, packed: bool) -> dict[str, Tensor]:
    """A batch of drawn items, with the columns that the objective reads."""
    columns = tensors(lay_out(items, row, packed=packed))
    return {k: v for k, v in columns.items() if k in objective.columns}


def model_for(objective: Objective, seed: int = 0) -> Model:
    encoder = objective.attention is Attention.FULL
    config = ModelConfig(
        family="bert" if encoder else "qwen3",
        depth=2,
        width=32,
        heads=2,
        context=128,
        vocab_size=codec_of(objective).vocab_size,
        labels=objective.labels,
        crf=bool(getattr(objective.config, "crf", False)),
        inputs=objective.model_settings.get("inputs", {}),
        straight=objective.model_settings.get("straight"),
    )
    return build(config, heads=objective.heads, seed=seed).double()


def loss_of(objective: Objective, model: Model, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """As the loop does it: counts over all micro-batches first, then sums divided once."""
    counts = [objective.counts(b) for b in batches]
    terms = [k for k in counts[0] if "@" not in k]
    total = {k: sum((c[k] for c in counts), torch.zeros(())) for k in terms}
    loss = torch.zeros((), dtype=torch.float64)
    known: dict[str, Tensor] = {}
    if objective.preludes:
        known = preludes.means(*preludes.add(model, objective, batches), "cpu")
    for batch in [{**b, **known} for b in batches]:
        sums = objective.sums(model, batch)
        for k in terms:
            loss = loss + objective.weights.get(k, 1.0) * sums[k] / total[k]
    return loss


def grads(objective: Objective, model: Model, batches: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    params = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss_of(objective, model, batches), params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


def alike(want: Sequence[Tensor], got: Sequence[Tensor], name: str = "", atol: float = 1e-10) -> None:
    for a, b in zip(want, got, strict=True):
        assert torch.isfinite(b).all()
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-8, msg=lambda m: f"{name}: {m}")


@pytest.fixture(params=NAMES)
def objective(request: pytest.FixtureRequest) -> Objective:
    return ready(request.param)


def test_the_room_is_listed_and_typos_get_a_hint():
    assert {"causal_lm", "masked_lm", "next_sentence", "mix"} <= set(NAMES)
    assert not any(name.startswith("_") for name in NAMES)
    with pytest.raises(Exception, match="causal_lm"):
        registry.create("casual_lm")
    with pytest.raises(Exception, match="options"):
        registry.create("causal_lm", {"no_such_option": 1})


def test_a_users_own_objective_is_found_by_its_dotted_path(tmp_path, monkeypatch: pytest.MonkeyPatch):
    own = "class Mine(CausalLM):\n    weights = {'nll': 2.0}\n"
    (tmp_path / "my_own.py").write_text(f"from exnihilo.objective.causal_lm import CausalLM\n\n\n{own}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Exception, match="dotted"):
        registry.find("nothing.here")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "my_own.py").rename(tmp_path / "pack" / "mine.py")
    assert registry.create("pack.mine").weights == {"nll": 2.0}


def test_encode_is_pure_and_its_columns_are_of_one_length(objective: Objective):
    first, again = items_of(objective), items_of(objective)
    assert len(first) >= len(examples_of(objective)) - 1  # nothing but "a" may have nothing to teach
    for a, b in zip(first, again, strict=True):
        assert a.keys() == b.keys() == first[0].keys()
        if objective.attention is Attention.FULL:
            assert len(np.asarray(a["tokens"])) <= LENGTH
        for key, value in a.items():
            assert np.array_equal(value, b[key], equal_nan=np.asarray(value).dtype.kind == "f")
            if isinstance(value, np.ndarray):
                assert len(value) == len(np.asarray(a["tokens"]))
    example = examples_of(objective)[2]
    alone, many = (
        objective.encode(example, codec_of(objective)),
        objective.encode_many([example], codec_of(objective))[0],
    )
    for a, b in zip(alone if isinstance(alone, list) else [alone], many, strict=True):
        assert all(np.array_equal(a[k], b[k], equal_nan=np.asarray(a[k]).dtype.kind == "f") for k in a)


def test_draw_is_a_function_of_seed_step_and_row(objective: Objective):
    data = Memory(lay_out(items_of(objective), 128, packed=True))
    ids = np.arange(data.rows)

    def at(rows: np.ndarray, step: int) -> dict[str, np.ndarray]:
        return draws.draw(objective, data, rows, codec=codec_of(objective), seed=1, step=step)

    before = {k: v.copy() for k, v in data.columns.items()}
    whole = at(ids, 3)
    for k, v in data.columns.items():
        np.testing.assert_array_equal(v, before[k], err_msg=f"{k} was changed in place")
    for part in (ids[::-1], ids[:1], ids[-1:]):
        for k, v in at(part, 3).items():
            np.testing.assert_array_equal(v, whole[k][part], err_msg=k)
    for k, v in objective.draw(
        data.batch(ids[:0]), [], draws.Look(data.rows, ids[:0], data.batch, codec_of(objective))
    ).items():
        assert len(v) == 0, k
    if draws.draws(objective) and objective.supervised is False:
        assert any(not np.array_equal(v, at(ids, 4)[k]) for k, v in whole.items())


def test_counts_and_sums_have_the_same_keys_and_columns_are_declared(objective: Objective):
    batch = batch_of(objective, drawn(objective, items_of(objective)), 128, packed=True)
    counts, sums = objective.counts(batch), objective.sums(model_for(objective), batch)
    assert counts.keys() == sums.keys() and any("@" not in k for k in counts)
    assert all(v.ndim == 0 and v.item() > 0 for v in counts.values())
    source = torch.arange(len(batch["tokens"])) % 2
    sliced = {**batch, "source": source} if "source" in objective.columns else batch
    counts, more = objective.counts(sliced), objective.sums(model_for(objective), sliced)
    assert counts.keys() == more.keys()
    for k, v in sums.items():
        slices = [more[f"{k}@{s}"] for s in (0, 1) if f"{k}@{s}" in more]
        if slices:
            torch.testing.assert_close(torch.stack(slices).sum(), v.detach())


def test_one_batch_equals_micro_batches_in_loss_and_gradient(objective: Objective):
    model = model_for(objective)
    batch = batch_of(objective, drawn(objective, items_of(objective)), 128, packed=False)
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(len(batch["tokens"]))]
    torch.testing.assert_close(loss_of(objective, model, [batch]), loss_of(objective, model, rows))
    alike(grads(objective, model, [batch]), grads(objective, model, rows))


def test_alone_padded_packed_and_reordered_are_the_same(objective: Objective):
    model, items = model_for(objective), drawn(objective, items_of(objective))
    want = grads(objective, model, [batch_of(objective, items, 128, packed=False)])
    assert any(bool(g.any()) for g in want)
    variants = {
        "packed": [batch_of(objective, items, 128, packed=True)],
        "reordered": [batch_of(objective, items[::-1], 128, packed=False)],
        "packed, reordered": [batch_of(objective, items[::-1], 120, packed=True)],
        "longer rows": [batch_of(objective, items, 129, packed=False)],
        "alone": [batch_of(objective, [i], len(np.asarray(i["tokens"])), packed=False) for i in items],
    }
    for name, batches in variants.items():
        alike(want, grads(objective, model, batches), name)


def test_rows_of_one_document_need_neither_doc_nor_pos(objective: Objective):
    model, items = model_for(objective), drawn(objective, items_of(objective))
    for item in items[:4]:
        full = lay_out([item], len(np.asarray(item["tokens"])), packed=False)
        plain = {k: v for k, v in tensors(collate.simplify(full)).items() if k in objective.columns}
        whole = {k: v for k, v in tensors(full).items() if k in objective.columns}
        assert "doc" not in plain
        counts = objective.counts(plain)
        assert {k: float(v) for k, v in counts.items()} == {
            k: float(v) for k, v in objective.counts(whole).items()
        }
        for k, v in objective.sums(model, plain).items():
            torch.testing.assert_close(v, objective.sums(model, whole)[k], atol=1e-10, rtol=1e-8)


def test_padding_has_no_influence_whatever_it_holds(objective: Objective):
    model = model_for(objective)
    batch = batch_of(objective, drawn(objective, items_of(objective)), 128, packed=False)
    chance = torch.Generator().manual_seed(0)
    noise = torch.randint(0, codec_of(objective).vocab_size, batch["tokens"].shape, generator=chance)
    dirty = {**batch, "tokens": batch["tokens"].where(batch["doc"] >= 0, noise)}
    alike(grads(objective, model, [batch]), grads(objective, model, [dirty]), atol=1e-12)


def test_a_row_of_padding_alone_gives_zero_and_no_nan(objective: Objective):
    model = model_for(objective)
    batch = batch_of(objective, drawn(objective, items_of(objective)), 128, packed=False)
    empty = {
        k: torch.full_like(v[:1], -1) if k == "doc" else torch.zeros_like(v[:1]) for k, v in batch.items()
    }
    both = {k: torch.cat((batch[k], empty[k])) for k in batch}
    alike(grads(objective, model, [batch]), grads(objective, model, [both]), atol=1e-12)
    for k, v in objective.sums(model, empty).items():
        assert float(v.detach()) == 0 == float(objective.counts(empty)[k]), k


def test_ignored_targets_give_zero_gradient(objective: Objective):
    if not LABELS & objective.columns:
        pytest.skip("the data is the label: nothing but padding can be ignored")
    model = model_for(objective)
    batch = batch_of(objective, drawn(objective, items_of(objective)), 128, packed=True)
    ignored = {k: torch.full_like(v, IGNORE) if k in LABELS else v for k, v in batch.items()}
    sums, counts = objective.sums(model, ignored), objective.counts(ignored)
    for k, v in sums.items():
        if k.startswith("replaced"):
            continue  # whether a token was replaced is known without a label
        assert float(v.detach()) == 0 == float(counts[k]), k
        if v.requires_grad:
            found = torch.autograd.grad(v, list(model.parameters()), allow_unused=True, retain_graph=True)
            assert not any(bool(g.any()) for g in found if g is not None), k


def test_swapping_segments_changes_the_output(objective: Objective):
    if "segment" not in objective.columns:
        pytest.skip("one segment")
    model = model_for(objective)
    batch = batch_of(objective, drawn(objective, items_of(objective)), 128, packed=True)
    swapped = {**batch, "segment": 1 - batch["segment"]}
    assert not torch.allclose(loss_of(objective, model, [batch]), loss_of(objective, model, [swapped]))
    assert any(
        not torch.allclose(a, b)
        for a, b in zip(grads(objective, model, [batch]), grads(objective, model, [swapped]), strict=True)
    )


def predicted(objective: Objective) -> list[Example]:
    """What a user asks."""
    gaps = [{"text": "The [MASK] sat."}, {"text": "[MASK] said no, and the owl [MASK] to the [MASK]."}]
    pairs = [{"a": a, "b": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
    if objective.supervised:
        return examples_of(objective)
    return [
        *(gaps if "mlm" in objective.heads else []),
        *(pairs if "next" in objective.heads else []),
    ]


def close(a: Any, b: Any) -> bool:
    """Equal JSON, numbers within 1e-5."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and not isinstance(a, bool):
        return a == pytest.approx(b, abs=1e-5)
    return a == b


def test_predictions_are_the_same_alone_together_and_reordered(objective: Objective):
    if not predicts(objective):
        pytest.skip("predicts nothing")
    examples = predicted(objective)
    predictor = Predictor(model_for(objective), codec_of(objective), objective)
    want = predictor.predict(examples)
    assert len(want) == len(examples) and not any("error" in p for p in want), want
    assert json.loads(json.dumps(want)) == want
    assert close(predictor.predict(examples[::-1])[::-1], want)
    assert close([predictor.predict([e])[0] for e in examples], want)
    if objective.supervised:
        scores, majority = objective.score(want, examples), objective.majority(examples)
        assert objective.main_metric in scores and objective.main_metric in majority


def test_one_batch_can_be_overfitted(objective: Objective):
    model = model_for(objective).float().train()
    batch = batch_of(objective, drawn(objective, items_of(objective)), 128, packed=True)
    batch = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def figure() -> float:
        """What falls: the loss; of rewards, whose loss is a gradient's only, minus what they should raise."""
        if objective.needs == "rollout":
            return -float((token_logps(model, batch) * batch["advantage"]).sum().detach())
        return loss_of(objective, model, [batch]).item()

    first = figure()
    for _ in range(120 if "generator" in objective.heads else 80):
        optimizer.zero_grad()
        loss_of(objective, model, [batch]).backward()
        optimizer.step()
        if objective.needs == "rollout" and figure() < first - 10:
            break  # what is driven away has no floor
    assert figure() < (first - 10 if objective.needs == "rollout" else first / 3)
