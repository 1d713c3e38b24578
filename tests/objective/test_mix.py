"""Mixtures: one forward, own denominators, unions of what the members need; replaced-token detection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import ConfigError
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.model.generator import Generator, narrow
from exnihilo.model.model import Model
from exnihilo.model.sizes import resolve
from exnihilo.nn.layout import Attention
from exnihilo.objective import draws, registry
from exnihilo.objective.base import Columns
from exnihilo.objective.masked_lm import kept
from exnihilo.objective.mix import Mix
from exnihilo.objective.pieces import IGNORE
from exnihilo.objective.replaced_tokens import ReplacedTokens, sample

TEXTS = [
    f"The {a} {b} a {c}. It was {d}. Then the {a} went home, and nobody saw the {c} again. So it ends."
    for a, b, c, d in zip(
        "cat dog fox owl hen".split(), "saw ate had hid lost".split(), "hat pie cup map key".split(),
        "red big old new hot".split(), strict=True,
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def codec() -> Codec:
    return train_codec(CodecConfig(kind="wordpiece", vocab_size=150, lowercase=True), TEXTS * 2)


class Rows:
    def __init__(self, objective: Any, codec: Codec, length: int = 48) -> None:
        items = [i for items in objective.encode_many([{"text": t} for t in TEXTS], codec) for i in items]
        self.rows = len(items)
        names = {k for item in items for k in item} - {"tokens"}
        self.columns: Columns = {k: np.zeros((self.rows, length), np.int64) for k in names}
        self.columns["tokens"] = np.full((self.rows, length), codec.pad_id, np.int64)
        self.columns["doc"] = np.full((self.rows, length), -1, np.int32)
        self.columns["pos"] = np.zeros((self.rows, length), np.int64)
        for b, item in enumerate(items):
            n = len(np.asarray(item["tokens"]))
            for k, v in item.items():
                self.columns[k][b, :n] = v
            self.columns["doc"][b, :n], self.columns["pos"][b, :n] = 0, np.arange(n)

    def batch(self, rows: np.ndarray) -> Columns:
        return {k: v[rows] for k, v in self.columns.items()}


def batch_of(objective: Any, codec: Codec, step: int = 0) -> dict[str, torch.Tensor]:
    rows = Rows(objective, codec)
    columns = draws.draw(objective, rows, np.arange(rows.rows), codec=codec, seed=0, step=step)
    return {k: torch.from_numpy(v) for k, v in columns.items() if k in objective.columns}


def model_for(objective: Any, codec: Codec) -> Model:
    config = ModelConfig(family="bert", depth=2, width=64, heads=4, context=48, vocab_size=codec.vocab_size)
    return build(config, heads=objective.heads).double()


def test_the_losses_are_those_of_the_members_from_one_forward(codec: Codec):
    mix = registry.create("mix", {"weights": {"next_sentence": 0.5}, "masked_lm": {"rate": 0.3}}, length=48)
    assert isinstance(mix, Mix)
    assert mix.heads == ("mlm", "next") and {"targets", "label", "segment"} <= mix.columns
    assert mix.members["masked_lm"].config.rate == 0.3
    assert mix.weights == {"mlm": 1.0, "next": 0.5, "next_accuracy": 0.0}
    batch, model = batch_of(mix, codec), model_for(mix, codec)
    calls: list[Any] = []
    model.trunk.register_forward_hook(lambda *given: calls.append(given))
    counts, sums = mix.counts(batch), mix.sums(model, batch)
    assert len(calls) == 1
    for member in mix.members.values():
        for k, v in member.sums(model, batch).items():
            torch.testing.assert_close(sums[k], v)
            assert counts[k] == member.counts(batch)[k]
    assert counts["mlm"] != counts["next"] > 0
    figures = mix.metrics(
        {k: float(v.detach()) for k, v in sums.items()}, {k: float(v) for k, v in counts.items()}
    )
    assert {"mlm", "mlm_perplexity", "next", "next_accuracy"} == set(figures)
    assert 0 <= figures["next_accuracy"] <= 1


def test_masks_are_drawn_on_the_pairs_and_spare_their_marks(codec: Codec):
    mix = registry.create("mix", {"masked_lm": {"rate": 0.9}}, length=48)
    batch = batch_of(mix, codec)
    marks = {codec.cls_id, codec.sep_id, codec.pad_id}
    masked = batch["targets"][batch["targets"] != IGNORE]
    assert len(masked) and not marks & set(masked.tolist())
    for row, segment, doc in zip(batch["tokens"], batch["segment"], batch["doc"], strict=True):
        n = int((doc >= 0).sum())
        assert row[0] == codec.cls_id and row[n - 1] == codec.sep_id
        assert (row == codec.sep_id).sum() == 1 + int(segment.any())


def test_mixtures_that_cannot_be_are_refused():
    for options, said in (
        ({"objectives": ["next_sentence", "sentence_order"]}, "pairs of its own"),
        ({"objectives": ["masked_lm", "replaced_tokens"]}, "hidden states that others share"),
        ({"objectives": ["masked_lm", "causal_lm"]}, "mix cannot have causal_lm"),
        ({"objectives": ["masked_lm", "sentence_classification"]}, "mix cannot have"),
        ({"objectives": []}, "one or more"),
        ({"objectives": ["masked_lm", "masked_lm"]}, "each once"),
        ({"masked_ml": {"rate": 0.2}}, "masked_lm"),
        ({"weights": {"next": 1.0}}, "next_sentence"),
        ({"weights": {"masked_lm": 0}}, "above 0"),
        ({"masked_lm": 3}, "options of masked_lm"),
        ({"masked_lm": {"rat": 0.2}}, "rate"),
        ({"objectives": ["masked_lmm"]}, "masked_lm"),
    ):
        with pytest.raises(ConfigError, match=said):
            registry.create("mix", options, length=48)


def test_a_mix_of_masks_alone_is_masked_lm(codec: Codec):
    mix, alone = (
        registry.create("mix", {"objectives": ["masked_lm"]}, length=48),
        registry.create("masked_lm", length=48),
    )
    assert mix.heads == alone.heads and mix.columns == alone.columns
    a, b = batch_of(mix, codec), batch_of(alone, codec)
    assert all(torch.equal(a[k], b[k]) for k in a)


# replaced tokens ------------------------------------------------------------------------------------


def test_the_losses_are_those_of_the_paper_written_out(codec: Codec):
    o = registry.create("replaced_tokens", length=48)
    assert isinstance(o, ReplacedTokens) and o.weights["replaced"] == 50.0
    batch, model = batch_of(o, codec), model_for(o, codec)
    generator: Generator = model.heads["generator"]
    sums, counts = o.sums(model, batch), o.counts(batch)

    real = batch["doc"] >= 0
    raw = {k: batch[k] for k in ("tokens", "doc", "pos")}
    hidden = generator(raw, Attention.FULL)
    logits = F.linear(generator.mlm.transform(hidden), generator.mlm.weight, generator.mlm.bias)
    want = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum")
    torch.testing.assert_close(sums["mlm"], want)
    tokens, original = batch["tokens"].clone(), batch["tokens"].clone()
    for b, t in (batch["targets"] != IGNORE).nonzero().tolist():
        below = logits[b, t].detach().softmax(-1).cumsum(-1)
        tokens[b, t] = int((below <= batch["chance"][b, t] * below[-1]).sum())
        original[b, t] = batch["targets"][b, t]
    label = (tokens != original).double()
    out = model.heads["replaced"].logits(model({**raw, "tokens": tokens}, Attention.FULL))
    nll = F.binary_cross_entropy_with_logits(out, label, reduction="none")
    torch.testing.assert_close(sums["replaced"], nll[real].sum())
    assert float(sums["replaced_accuracy"]) == int(((out > 0) == label.bool())[real].sum())
    assert float(counts["replaced"]) == int(real.sum()) and float(counts["mlm"]) == len(kept(batch))
    assert 0 < label.sum() <= len(kept(batch))
    assert (batch["tokens"][batch["targets"] != IGNORE] == codec.mask_id).all()


def test_no_gradient_goes_through_the_sample_and_right_guesses_are_originals(codec: Codec):
    o = registry.create("replaced_tokens", length=48)
    batch, model = batch_of(o, codec), model_for(o, codec)
    sums = o.sums(model, batch)
    own = dict(model.heads["generator"].named_parameters())
    own.pop("weight")  # the embedding: both losses train it
    found = torch.autograd.grad(sums["replaced"], list(own.values()), allow_unused=True)
    assert all(g is None for g in found)
    generator: Generator = model.heads["generator"]
    right = int(batch["targets"][batch["targets"] != IGNORE][0])
    with torch.no_grad():
        generator.bias.fill_(-100.0)
        generator.bias[right] = 100.0  # it always says this
    tokens, replaced = o.corrupt(generator, generator({"tokens": batch["tokens"]}), batch)  # type: ignore[attr-defined]
    at = batch["targets"] != IGNORE
    assert (tokens[at] == right).all()
    assert torch.equal(replaced, at & (batch["targets"] != right))


def test_samples_have_the_generators_distribution():
    torch.manual_seed(0)
    logits = torch.randn(7)
    n = 200_000
    chance = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    ids = sample(logits.double().expand(n, 7), chance)
    torch.testing.assert_close(
        (torch.bincount(ids, minlength=7) / n).double(), logits.double().softmax(-1), atol=1e-5, rtol=0
    )
    edges = torch.tensor([0.0, 1 - 2**-24])
    assert sample(torch.tensor([[-1e9, 0.0, 0.0, -1e9]] * 2), edges).tolist() == [1, 2]


def test_the_generator_shares_the_embeddings_and_is_a_quarter_as_wide(codec: Codec):
    o = registry.create("replaced_tokens", length=48)
    model = model_for(o, codec)
    generator: Generator = model.heads["generator"]
    small = narrow(resolve(model.config))
    assert small.width == 16 and small.heads == 1 and small.head_dim == 16 and small.depth == 2
    assert generator.weight is model.front.tokens.weight
    assert model.float().heads["generator"].weight is model.front.tokens.weight
    names = [n for n, _ in model.named_parameters() if n.endswith("tokens.weight")]
    assert names == ["front.tokens.weight"]
    own = sum(p.numel() for n, p in generator.named_parameters() if n != "weight")
    assert own < sum(p.numel() for p in model.trunk.parameters())


def test_a_text_is_read_for_what_does_not_belong(codec: Codec):
    """Each token once, with its characters; a long text in chunks; the probability is the head's."""
    o = registry.create("replaced_tokens", length=12)
    config = ModelConfig(family="bert", depth=1, width=32, heads=2, context=12, vocab_size=codec.vocab_size)
    model = build(config, heads=o.heads, seed=3)
    text = "the cat sat on a mat and looked at foxes, slowly walking homewards"
    (found,) = Predictor(model, codec, o).predict([text])
    tokens = found["tokens"]
    assert [t["token"] for t in tokens] == [text[t["start"] : t["end"]] for t in tokens]
    assert len(tokens) == len(codec.encode(text)) > 12
    assert "".join(t["token"] for t in tokens) == text.replace(" ", "")
    assert found["replaced"] == max(t["replaced"] for t in tokens) and 0 < found["replaced"] < 1
    first = codec.encode(text)[:10]
    with torch.no_grad():
        hidden = model({"tokens": torch.tensor([[codec.cls_id, *first, codec.sep_id]])}, o.attention)
        wanted = model.heads["replaced"].logits(hidden).sigmoid()[0, 1:-1]
    assert [t["replaced"] for t in tokens[:10]] == pytest.approx(wanted.tolist(), abs=1e-5)
