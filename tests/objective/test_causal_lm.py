"""Next-token prediction: shifted by one, one-hot cross-entropy, and blind to the names of tokens."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from exnihilo.codec import train as train_codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import DataError
from exnihilo.model import build
from exnihilo.objective.causal_lm import CausalLM, shift

V = 23
CONFIG = ModelConfig(depth=2, width=32, heads=2, context=32, vocab_size=V)


def rows(seed: int = 0, B: int = 3, T: int = 12) -> torch.Tensor:
    return torch.randint(0, V, (B, T + 1), generator=torch.Generator().manual_seed(seed))


def test_input_is_without_the_last_token_and_target_is_shifted_by_one():
    tokens = rows()
    inputs, targets = shift({"tokens": tokens})
    assert torch.equal(inputs["tokens"], tokens[:, :-1]) and torch.equal(targets, tokens[:, 1:])
    assert torch.equal(inputs["tokens"][:, 1:], targets[:, :-1])


def test_the_loss_is_cross_entropy_against_one_hot_targets_over_all_positions():
    model, objective, tokens = build(CONFIG), CausalLM(), rows()
    batch = {"tokens": tokens}
    logits = model.heads["tokens"].logits(model({"tokens": tokens[:, :-1]}))
    onehot = F.one_hot(tokens[:, 1:], V).float()
    want = -(onehot * logits.softmax(-1).log()).sum()
    torch.testing.assert_close(objective.sums(model, batch)["nll"], want)
    torch.testing.assert_close(
        objective.sums(model, batch)["nll"],
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"),
    )
    assert objective.counts(batch)["nll"].item() == 3 * 12


def test_nothing_is_predicted_across_documents_or_on_padding():
    doc = torch.tensor([[0, 0, 0, 1, 1, 2, -1, -1]])
    tokens = torch.arange(8)[None]
    _, targets = shift({"tokens": tokens, "doc": doc})
    assert targets.tolist() == [[1, 2, -100, 4, -100, -100, -100]]
    assert CausalLM().counts({"tokens": tokens, "doc": doc})["nll"].item() == 3


def test_pure_randomness_knows_nothing():
    nll = CausalLM().sums(build(CONFIG), {"tokens": rows(1, 16, 32)})["nll"].item() / (16 * 32)
    assert abs(nll / math.log(V) - 1) < 0.02


def test_the_loss_does_not_depend_on_which_id_a_token_has():
    """Token id 0 is as good as any other: permute the vocabulary, and nothing changes."""
    model, objective, tokens = build(CONFIG).double(), CausalLM(), rows()
    want = objective.sums(model, {"tokens": tokens})["nll"].item()
    order = torch.randperm(V, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        weight = model.front.tokens.weight
        weight[order] = weight.clone()
    got = objective.sums(model, {"tokens": order[tokens]})["nll"].item()
    assert got == pytest.approx(want, rel=1e-12)


def test_slices_add_up_and_are_not_trained_on():
    model, objective = build(CONFIG), CausalLM()
    batch = {"tokens": rows(), "source": torch.tensor([0, 2, 0])}
    counts, sums = objective.counts(batch), objective.sums(model, batch)
    assert set(counts) == set(sums) == {"nll", "nll@0", "nll@2"}
    assert sums["nll@0"].item() + sums["nll@2"].item() == pytest.approx(sums["nll"].item(), rel=1e-6)
    assert counts["nll@0"].item() == 24 and not sums["nll@0"].requires_grad and sums["nll"].requires_grad
    by_row = objective.row_losses(model, batch)
    assert by_row.tolist() == pytest.approx(
        [objective.sums(model, {"tokens": r[None]})["nll"].item() / 12 for r in batch["tokens"]], rel=1e-5
    )


def test_documents_begin_with_bos_end_with_eos_and_special_strings_stay_text():
    codec = train_codec(CodecConfig(kind="bytes"), ["abc"])
    item = CausalLM().encode({"text": "<|eos|> and <|pad|>"}, codec)
    tokens = np.asarray(item["tokens"]).tolist()
    assert tokens[0] == codec.bos_id and tokens[-1] == codec.eos_id
    assert not set(tokens[1:-1]) & set(codec.special_ids)
    assert codec.decode(tokens[1:-1]) == "<|eos|> and <|pad|>"


def test_a_document_in_parts_begins_once_and_ends_once():
    codec = train_codec(CodecConfig(kind="bytes"), ["abc"])
    parts = [
        {"text": "ab", "_end": False},
        {"text": "cd", "_begin": False, "_end": False},
        {"text": "e", "_begin": False},
    ]
    whole = np.asarray(CausalLM().encode({"text": "abcde"}, codec)["tokens"])
    joined = [np.asarray(items[0]["tokens"]) for items in CausalLM().encode_many(parts, codec)]
    assert np.array_equal(np.concatenate(joined), whole)


def test_an_example_without_text_is_refused_with_its_roles():
    codec = train_codec(CodecConfig(kind="bytes"), ["abc"])
    with pytest.raises(DataError, match="body") as error:
        CausalLM().encode({"body": "x"}, codec)
    assert "data.fields" in str(error.value)
