"""Masking: exact numbers, shares within their bounds, nothing special ever; losses as in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import CodecError, ConfigError, DataError, UsageError
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.objective import draws, registry
from exnihilo.objective._masking import EVAL_RATE, LONGEST_SPAN, Masking, mask, wanted
from exnihilo.objective._text import ends_of, vocabulary
from exnihilo.objective.base import Look
from exnihilo.objective.masked_lm import MaskedLM
from exnihilo.objective.pieces import IGNORE

WORDS = "the cat sat on a mat and looked at unbelievable reddish foxes walking homewards slowly".split()
TEXT = " ".join(WORDS * 40)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return train_codec(CodecConfig(kind="wordpiece", vocab_size=90, lowercase=True), [TEXT, "x y z ! ?"])


def keys_of(rows: int, seed: int = 0) -> list[np.random.Generator]:
    return [draws.generator(seed, 0, row) for row in range(rows)]


def grid(
    codec: Codec, rows: int, T: int = 64, sizes: Sequence[int] = (40, 17, 3)
) -> tuple[np.ndarray, np.ndarray]:
    """Packed rows: [CLS] .. [SEP] pieces of these sizes, then padding."""
    ids = vocabulary(codec).regular
    cls, sep = ends_of(codec)
    rng = np.random.default_rng(5)
    tokens, doc = np.full((rows, T), codec.pad_id, np.int64), np.full((rows, T), -1, np.int32)
    at = 0
    for d, size in enumerate(sizes):
        tokens[:, at : at + size] = rng.choice(ids, (rows, size))
        tokens[:, at], tokens[:, at + size - 1] = cls, sep
        doc[:, at : at + size] = d
        at += size
    return tokens, doc


@pytest.mark.parametrize(
    "masking",
    [Masking(), Masking(rate=0.4), Masking(span=3.8), Masking(rate=0.3, span=10.0), Masking(rate=0.001)],
)
def test_each_piece_has_exactly_its_number_of_masks(codec: Codec, masking: Masking):
    tokens, doc = grid(codec, 50)
    new, targets = mask(tokens, doc, keys_of(50), masking, vocabulary(codec), 4)
    for d, size in enumerate((40, 17, 3)):
        chosen = ((targets != IGNORE) & (doc == d)).sum(1)
        n = size - 2
        assert set(chosen.tolist()) == {max(1, round(masking.rate * n))}
    assert (new[targets == IGNORE] == tokens[targets == IGNORE]).all()
    assert (targets[targets != IGNORE] == tokens[targets != IGNORE]).all()


@given(st.integers(0, 600), st.floats(0.001, 0.999))
def test_the_number_is_round_and_at_least_one(n: int, rate: float):
    assert int(wanted(np.array(n), rate)) == (max(1, round(rate * n)) if n else 0)


def test_specials_are_never_chosen_nor_drawn_in_a_million_draws(codec: Codec):
    masking, words = Masking(rate=0.9, mask=0.0, random=1.0), vocabulary(codec)
    special = words.special
    assert set(np.flatnonzero(special)) == {0, 1, 2, 3, 4} <= set(codec.special_ids) | {1}
    drawn = np.zeros(codec.vocab_size, np.int64)
    for seed in range(16):
        tokens, doc = grid(codec, 600, T=128, sizes=(126,))
        tokens[:, 7] = codec.unk_id
        new, targets = mask(tokens, doc, keys_of(600, seed), masking, words, 4)
        chosen = targets != IGNORE
        assert not special[tokens[chosen]].any()
        assert (new[special[tokens]] == tokens[special[tokens]]).all()
        drawn += np.bincount(new[chosen], minlength=codec.vocab_size)
    assert drawn.sum() > 1_000_000
    assert not drawn[special].any()
    # every other id is drawn equally often: chi-square of k-1 degrees, 5 deviations
    each = drawn[~special]
    k, mean = len(each), each.mean()
    assert ((each - mean) ** 2 / mean).sum() < k - 1 + 5 * np.sqrt(2 * (k - 1))


@pytest.mark.parametrize("span", [None, 3.8])
def test_shares_are_80_10_10_within_binomial_bounds(codec: Codec, span: float | None):
    tokens, doc = grid(codec, 3000)
    words = vocabulary(codec)
    new, targets = mask(tokens, doc, keys_of(3000), Masking(span=span), words, 4)
    chosen = targets != IGNORE
    n = int(chosen.sum())
    masked = int((new[chosen] == 4).sum())
    same = int((new[chosen] == tokens[chosen]).sum())
    stays = 0.1 + 0.1 / len(words.regular)  # a random token may be the one that was there
    for found, p in ((masked, 0.8), (same, stays), (n - masked - same, 0.2 - stays)):
        assert abs(found - n * p) < 4 * np.sqrt(n * p * (1 - p)), (found / n, p)


def test_every_position_is_as_likely(codec: Codec):
    tokens, doc = grid(codec, 4000)
    _, targets = mask(tokens, doc, keys_of(4000), Masking(), vocabulary(codec), 4)
    for d, n in ((0, 38), (1, 15)):
        inner = np.flatnonzero(doc[0] == d)[1:-1]
        p = max(1, round(0.15 * n)) / n
        times = (targets[:, inner] != IGNORE).sum(0)
        assert (abs(times - 4000 * p) < 5 * np.sqrt(4000 * p * (1 - p))).all()


def test_whole_words_are_masked_whole_and_never_more_than_asked(codec: Codec):
    o = MaskedLM(MaskedLM.Config(whole_word=True), length=64)
    items = o.encode({"text": TEXT}, codec)
    inside = vocabulary(codec).inside
    split = 0
    for i, item in enumerate(items):
        tokens = np.asarray(item["tokens"]).astype(np.int64)[None]
        assert inside[tokens].any()
        _, targets = mask(tokens, np.zeros_like(tokens), keys_of(1, i), o.config, vocabulary(codec), 4)
        chosen = targets[0] != IGNORE
        k = int(wanted(np.array((~vocabulary(codec).special[tokens]).sum()), 0.15))
        assert 1 <= chosen.sum() <= k
        assert k - chosen.sum() < 10  # no room for one more of the words here
        for at in np.flatnonzero(inside[tokens[0]])[
            int(inside[tokens[0, 1]]) :
        ]:  # a chunk may begin in a word
            assert chosen[at] == chosen[at - 1]
            split += chosen[at]
    assert split


def test_spans_are_geometric_runs(codec: Codec):
    tokens, doc = grid(codec, 2000, T=128, sizes=(128,))
    _, targets = mask(tokens, doc, keys_of(2000), Masking(span=4.0), vocabulary(codec), 4)
    chosen = (targets != IGNORE).astype(np.int8)
    edges = np.diff(np.pad(chosen, ((0, 0), (1, 1))), axis=1)
    lengths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    assert chosen.sum(1).min() == chosen.sum(1).max() == 19
    assert 2.5 < lengths.mean() < 4.5 and np.bincount(lengths)[1:4].argmax() == 0  # single ones are most
    single = mask(tokens, doc, keys_of(2000), Masking(span=1.0), vocabulary(codec), 4)[1] != IGNORE
    assert (single.sum(1) == 19).all()
    assert lengths.max() <= 19 and LONGEST_SPAN == 10


def test_evaluation_masks_15_percent_whatever_training_does(codec: Codec):
    o = registry.create("masked_lm", {"rate": 0.5, "span": 3.0}, length=64)
    tokens, doc = grid(codec, 20)
    columns = {"tokens": tokens, "doc": doc}
    ids = np.arange(20)
    for training, rate in ((True, 0.5), (False, EVAL_RATE)):
        look = Look(20, ids, lambda rows: columns, codec, training=training)
        out = o.draw(columns, keys_of(20), look)
        assert set(((out["targets"] != IGNORE) & (doc == 0)).sum(1).tolist()) == {round(rate * 38)}


def test_documents_are_cut_into_whole_chunks(codec: Codec):
    o = registry.create("masked_lm", length=16)
    items = o.encode({"text": TEXT}, codec)
    assert isinstance(items, list)
    lengths = {len(np.asarray(i["tokens"])) for i in items[:-1]}
    assert lengths == {16} and len(np.asarray(items[-1]["tokens"])) <= 16
    ids = [t for i in items for t in np.asarray(i["tokens"])[1:-1].tolist()]
    assert ids == codec.encode(TEXT)
    assert all(np.asarray(i["tokens"])[[0, -1]].tolist() == [codec.cls_id, codec.sep_id] for i in items)
    assert o.encode({"text": " "}, codec) == []
    with pytest.raises(DataError, match="text"):
        o.encode({"label": 1}, codec)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=4), st.integers(3, 40))
def test_any_text_is_encoded_without_loss(codec: Codec, texts: list[str], length: int):
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    o = registry.create("masked_lm", length=length)
    for text, items in zip(texts, o.encode_many([{"text": t} for t in texts], codec), strict=True):
        found = [t for i in items for t in np.asarray(i["tokens"])[1:-1].tolist()]
        assert found == codec.encode(text)
        assert all(3 <= len(np.asarray(i["tokens"])) <= length for i in items)


def test_options_that_cannot_be_are_refused(codec: Codec):
    for options in (
        {"mask": 0.9, "random": 0.2},
        {"whole_word": True, "span": 3.0},
        {"rate": 0},
        {"spam": 3},
    ):
        with pytest.raises(ConfigError):
            registry.create("masked_lm", options)
    with pytest.raises(ConfigError, match="3 or more"):
        registry.create("masked_lm", length=2)
    letters = train_codec(CodecConfig(kind="bytes"), ["abc"])
    tokens = np.full((1, 4), 7)
    columns = {"tokens": tokens, "doc": np.zeros((1, 4), np.int32)}
    look = Look(1, np.arange(1), lambda rows: columns, letters)
    with pytest.raises(CodecError, match="mask token"):
        registry.create("masked_lm").draw(columns, keys_of(1), look)


def test_gaps_are_filled_with_the_likeliest_tokens(codec: Codec):
    o = registry.create("masked_lm", {"top_k": 3}, length=24)
    config = ModelConfig(family="bert", depth=1, width=32, heads=2, context=24, vocab_size=codec.vocab_size)
    model = build(config, heads=o.heads)
    cat = codec.encode("cat")[0]
    with torch.no_grad():
        model.heads["mlm"].bias[cat] = 8.0
    found = Predictor(model, codec, o).predict(["The [MASK] sat.", {"text": "[MASK] [MASK]!"}, "no gap"])
    assert found[0]["text"] == "The cat sat." and found[1]["text"] == "cat cat!"
    (gap,) = found[0]["gaps"]
    assert gap[0]["token"] == "cat" and gap[0]["id"] == cat and len(gap) == 3
    probabilities = [c["probability"] for c in gap]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1
    assert "MASK" in found[2]["error"]
    with pytest.raises(UsageError, match="query"):
        registry.create("masked_lm").decode({"text": "[MASK]"}, [], [])


def test_the_loss_is_that_of_transformers_on_the_same_weights_and_batch(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    from exnihilo.interop import hf

    config = transformers.BertConfig(
        vocab_size=99, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertForPreTraining(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p))
    theirs.save_pretrained(tmp_path)
    ours = hf.load(tmp_path)
    model: Any = getattr(ours, "model", ours)
    model = model[0] if isinstance(model, tuple) else model
    mix = registry.create("mix", length=40)
    B, T = 5, 40
    g = torch.Generator().manual_seed(1)
    lengths = torch.tensor([40, 33, 12, 20, 7])
    real = torch.arange(T) < lengths[:, None]
    tokens = torch.randint(5, 99, (B, T), generator=g).where(real, 0)
    targets = tokens.where(real & (torch.rand(B, T, generator=g) < 0.2), IGNORE)
    targets[:, 1] = 0  # id 0 counts like any other
    segment = (torch.arange(T) > lengths[:, None] // 2).long() * real
    next_label = torch.tensor([0, 1, 1, 0, 1])
    label = torch.full((B, T), IGNORE)
    label[:, 0] = next_label
    batch = {
        "tokens": tokens,
        "doc": torch.where(real, 0, -1).int(),
        "pos": torch.arange(T).expand(B, T) * real,
        "segment": segment,
        "targets": targets,
        "label": label,
    }
    with torch.no_grad():
        sums, counts = mix.sums(model, batch), mix.counts(batch)
        want = theirs(
            input_ids=tokens, attention_mask=real.long(), token_type_ids=segment,
            labels=targets, next_sentence_label=next_label,
        )  # fmt: skip
        alone = theirs(input_ids=tokens, attention_mask=real.long(), token_type_ids=segment, labels=None)
        mlm = torch.nn.functional.cross_entropy(alone.prediction_logits.flatten(0, 1), targets.flatten())
        nsp = torch.nn.functional.cross_entropy(alone.seq_relationship_logits, next_label)
    assert float(counts["mlm"]) == int((targets != IGNORE).sum()) and float(counts["next"]) == B
    assert float(sums["mlm"] / counts["mlm"]) == pytest.approx(float(mlm), abs=1e-5)
    assert float(sums["next"] / counts["next"]) == pytest.approx(float(nsp), abs=1e-5)
    loss = sum(mix.weights.get(k, 1.0) * float(sums[k] / counts[k]) for k in sums)
    assert loss == pytest.approx(float(want.loss), abs=1e-5)
    right = (alone.seq_relationship_logits.argmax(-1) == next_label).sum()
    assert float(sums["next_accuracy"]) == float(right)
