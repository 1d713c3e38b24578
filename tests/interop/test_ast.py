"""The family `ast` against transformers: the same logits from the same folder, both ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exnihilo.codec.sound.layout import Patches
from exnihilo.interop import hf
from exnihilo.interop.load import load
from exnihilo.objective import registry

transformers = pytest.importorskip("transformers")
MELS, FRAMES, RATE = 32, 64, 16_000


def theirs(folder) -> torch.nn.Module:
    """A small AST of theirs with random weights, written there."""
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_length=FRAMES,
        num_mel_bins=MELS,
        num_labels=3,
        id2label={0: "bell", 1: "dog", 2: "rain"},
        label2id={"bell": 0, "dog": 1, "rain": 2},
        initializer_range=0.3,
    )
    model = transformers.ASTForAudioClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def sounds() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(n) * 0.1).astype(np.float32) for n in (5000, 10_480, 10_560)]


@torch.no_grad()
def ours(folder, waves: list[np.ndarray]) -> np.ndarray:
    """Logits of a folder, from samples, through the objective that it says it was trained for."""
    loaded = load(folder)
    said = loaded.objective
    assert said is not None and said["objective"] == "sound_classification"
    objective = registry.create(
        said["objective"], said["options"], length=said["length"], facts=said["facts"]
    )
    out = []
    for wave in waves:
        item = objective._item(wave, objective.marks(loaded.codec))  # type: ignore[attr-defined]
        batch = {k: torch.as_tensor(np.asarray(v)[None]) for k, v in item.items() if k != "samples"}
        batch["samples"] = torch.full_like(batch["tokens"], len(wave))
        hidden = objective.hidden(loaded.model, batch)
        out.append(objective.outputs(loaded.model, hidden, batch)["logits"][0].numpy())
    return np.stack(out)


@torch.no_grad()
def reference(model: torch.nn.Module, waves: list[np.ndarray]) -> np.ndarray:
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=MELS, max_length=FRAMES)
    values = [extractor(w, sampling_rate=RATE, return_tensors="pt")["input_values"] for w in waves]
    return model(torch.cat(values)).logits.numpy()


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_their_weights_give_the_same_logits_here_and_back(tmp_path):
    model, waves = theirs(tmp_path / "a"), sounds()
    want = reference(model, waves)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(ours(tmp_path / "a", waves), want, atol=1e-4, rtol=1e-4)
    loaded = load(tmp_path / "a")
    assert loaded.objective is not None and loaded.objective["facts"]["labels"] == ["bell", "dog", "rain"]
    hf.save(loaded.model, loaded.codec, tmp_path / "b", objective=loaded.objective)
    back = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "b").eval()
    assert back.config.num_mel_bins == MELS and back.config.max_length == FRAMES
    np.testing.assert_allclose(reference(back, waves), want, atol=1e-6)
    np.testing.assert_allclose(ours(tmp_path / "b", waves), want, atol=1e-4, rtol=1e-4)


def test_patches_are_theirs_in_order_and_number():
    layout = Patches(mels=MELS, length=FRAMES)
    frames = torch.randn(FRAMES, MELS)
    image = ((frames - layout.mean) / (2 * layout.std)).t()[None, None]
    want = torch.nn.functional.unfold(image, (16, 16), stride=10)[0].t()
    torch.testing.assert_close(layout.cut(frames), want)
    assert layout.positions(0) == len(want) == 10


def test_marks_that_transformers_has_none_of_are_kept_here(tmp_path):
    theirs(tmp_path / "a")
    model, codec = hf.load(tmp_path / "a")
    with torch.no_grad():
        model.front.tokens.weight[4] = 7.0  # [MASK]
    hf.save(model, codec, tmp_path / "b")
    again, _ = hf.load(tmp_path / "b")
    assert torch.equal(again.front.tokens.weight, model.front.tokens.weight)
