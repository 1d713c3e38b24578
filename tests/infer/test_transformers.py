"""Greedy texts are those of Transformers on the exported model, token for token, alone and in batches."""

from __future__ import annotations

import pytest
import torch

from exnihilo.infer import generate, log_likelihood
from exnihilo.interop import hf

transformers = pytest.importorskip("transformers")
FAMILIES = ("qwen3", "llama", "gpt2")


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
