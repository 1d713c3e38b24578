"""Greedy texts are those of Transformers on the exported model, token for token, alone and in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exnihilo.infer import Engine, Request, Sampling, generate, log_likelihood, stream
from exnihilo.interop import hf

transformers = pytest.importorskip("transformers")
FAMILIES = ("qwen3", "llama", "gpt2", "ministral")


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_transformers_generate(family, make_model, bytes_codec, tmp_path):
    model = make_model(family, vocab=bytes_codec.vocab_size, context=64, seed=7)
    hf.save(model, bytes_codec, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompts = ["", "Once upon a time", "a", "The old fox said:", "\n", "日本"]
    ours = generate(model, bytes_codec, prompts, temperature=0, max_new_tokens=24)
    for g in ours:
        ids = torch.tensor([g.prompt_ids])
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=len(g.ids),
            pad_token_id=0,
        )
        assert g.ids == out[0, ids.shape[1] :].tolist()
    whole = [g for g in ours if g.finish_reason == "length"]
    assert all(len(g.ids) == 24 for g in whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hundred_prompts_alone_together_streamed_and_guessed(family, make_model, bytes_codec, tmp_path):
    """Batch of one = batch of many = streaming = speculation = Transformers, token for token."""
    model = make_model(family, vocab=bytes_codec.vocab_size, context=64, seed=9)
    hf.save(model, bytes_codec, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    draws = np.random.default_rng(0)
    prompts = [draws.integers(5, bytes_codec.vocab_size, 3 + 5 * (i % 5)).tolist() for i in range(100)]
    wanted: list[list[int]] = [[] for _ in prompts]
    for length in range(5):  # their padding changes positions: texts of a length go together
        at = range(length, 100, 5)
        ids = torch.tensor([prompts[i] for i in at])
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            min_new_tokens=12,
            pad_token_id=0,
        )
        for i, row in zip(at, out[:, ids.shape[1] :].tolist(), strict=True):
            wanted[i] = row
    none = frozenset({bytes_codec.eos_id})
    bias = Sampling(temperature=0, logit_bias={bytes_codec.eos_id: -1e9})  # as min_new_tokens has it
    asked = [Request(ids, 12, bias) for ids in prompts]
    together = Engine(model, slots=32, eos=none).run(asked)
    assert [c.ids for (c,) in together] == wanted
    engine = Engine(model, slots=1, eos=none)
    assert [engine.run([r])[0][0].ids for r in asked] == wanted
    for how in ("lookup", model):
        assert [c.ids for (c,) in Engine(model, slots=8, speculate=how).run(asked)] == wanted
    for prompt in prompts[:10]:
        pieces = stream(model, bytes_codec, prompt, temperature=0, max_new_tokens=12)
        (whole,) = generate(model, bytes_codec, [prompt], temperature=0, max_new_tokens=12)
        assert "".join(pieces) == whole.text


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_transformers(family, make_model, bytes_codec, tmp_path):
    model = make_model(family, vocab=bytes_codec.vocab_size, context=64, seed=8)
    hf.save(model, bytes_codec, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt, continuations = "The fox lives", [" in a den.", " at sea.", "!"]
    for ours, text in zip(
        log_likelihood(model, bytes_codec, prompt, continuations), continuations, strict=True
    ):
        before, after = [bytes_codec.bos_id, *bytes_codec.encode(prompt)], bytes_codec.encode(text)
        ids = torch.tensor([[*before, *after]])
        labels = torch.tensor([[-100] * len(before) + after])
        with torch.no_grad():
            mean = theirs(ids, labels=labels).loss.item()
        assert ours == pytest.approx(-mean * len(after), abs=2e-4)
