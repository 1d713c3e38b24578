"""The family `vit` against transformers: the same logits from the same folder, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exnihilo.codec.picture.patches import patchify, unpatchify
from exnihilo.interop import hf
from exnihilo.interop.load import load
from exnihilo.objective import registry

transformers = pytest.importorskip("transformers")
SIZE, PATCH = (8, 12), 4
NAMES = {0: "cat", 1: "dog", 2: "fox"}


def theirs(folder: Path, kind: str, **more: Any) -> Any:
    """A small ViT of theirs with random weights, written there."""
    torch.manual_seed(0)
    size = more.pop("image_size", list(SIZE))
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=size,
        patch_size=PATCH, encoder_stride=PATCH, id2label=NAMES,
        label2id={name: i for i, name in NAMES.items()}, **more,
    )  # fmt: skip
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def images(channels: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *size, channels), np.uint8)


def values(pixels: np.ndarray) -> torch.Tensor:
    return ((torch.from_numpy(pixels).double() / 255 - 0.5) / 0.5).float().permute(0, 3, 1, 2)


@torch.no_grad()
def ours(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """Logits of a folder, from pixels, through the objective that it says it was trained for."""
    loaded = load(folder)
    said = loaded.objective
    assert said is not None and said["objective"] == "picture_classification"
    objective: Any = registry.create(
        said["objective"], said["options"], length=said["length"], facts=said["facts"]
    )
    items = [objective.item(image, loaded.codec) for image in pixels]
    batch = {k: torch.as_tensor(np.stack([i[k] for i in items])) for k in items[0]}
    hidden = objective.hidden(loaded.model, batch)
    return objective.outputs(loaded.model, hidden, batch)["logits"].numpy()


@pytest.mark.parametrize(("channels", "size"), [(3, SIZE), (1, (8, 8))])
@torch.no_grad()
def test_their_weights_give_the_same_logits_here_and_back(
    tmp_path: Path, channels: int, size: tuple[int, int]
):
    shown = list(size) if size[0] != size[1] else size[0]
    model = theirs(tmp_path / "a", "ViTForImageClassification", num_channels=channels, image_size=shown)
    pixels = images(channels, size)
    want = model(values(pixels)).logits.numpy()
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(ours(tmp_path / "a", pixels), want, atol=1e-4, rtol=1e-4)
    loaded = load(tmp_path / "a")
    assert loaded.objective is not None and loaded.objective["facts"]["labels"] == list(NAMES.values())
    hf.save(loaded.model, loaded.codec, tmp_path / "b", objective=loaded.objective)
    back = transformers.ViTForImageClassification.from_pretrained(tmp_path / "b").eval()
    assert back.config.image_size == shown and back.config.num_channels == channels
    np.testing.assert_allclose(back(values(pixels)).logits.numpy(), want, atol=1e-6)
    np.testing.assert_allclose(ours(tmp_path / "b", pixels), want, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_masked_image_modelling_says_the_same_of_hidden_patches(tmp_path: Path):
    square = (12, 12)  # theirs takes no other
    model = theirs(tmp_path / "a", "ViTForMaskedImageModeling", image_size=12)
    pixels = images(size=square)
    hidden = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) < 0.6
    said = model(values(pixels), bool_masked_pos=hidden).reconstruction  # (N, C, H, W)
    want = patchify(said.permute(0, 2, 3, 1).contiguous(), PATCH)
    for folder in ("a", "b"):
        native, codec = hf.load(tmp_path / folder)
        assert codec is not None and codec.mask_id is not None and native.config.outputs == ("vectors",)
        objective: Any = registry.create("masked_picture", {"size": 12, "painter": False}, length=10)
        items = [objective.item(image, codec) for image in pixels]
        batch = {k: torch.as_tensor(np.stack([i[k] for i in items])) for k in items[0]}
        batch["picture"] = objective.seen(batch)
        place = torch.cat((torch.zeros(3, 1).bool(), hidden), 1)
        batch["kind"] = batch["kind"].masked_fill(place, 0)
        batch["tokens"] = batch["tokens"].masked_fill(place, codec.mask_id)
        batch["mask"] = place.long()
        batch["picture"] = batch["picture"].masked_fill(place.unsqueeze(-1), 0.0)
        states = objective.hidden(native, batch)
        got = native.heads["vectors"].logits(states[place])
        torch.testing.assert_close(got, want[hidden], atol=1e-4, rtol=1e-4)
        hf.save(
            native,
            codec,
            tmp_path / "b",
            objective={"objective": "masked_picture", "options": {"size": 12}},
        )
    back = transformers.ViTForMaskedImageModeling.from_pretrained(tmp_path / "b").eval()
    torch.testing.assert_close(back(values(pixels), bool_masked_pos=hidden).reconstruction, said)


@torch.no_grad()
def test_a_bare_model_gives_its_states(tmp_path: Path):
    model = theirs(tmp_path / "a", "ViTModel")
    want = model(values(images())).last_hidden_state
    native, codec = hf.load(tmp_path / "a")
    objective: Any = registry.create("masked_picture", {"size": SIZE}, length=7)
    items = [objective.item(image, codec) for image in images()]
    batch = {k: torch.as_tensor(np.stack([i[k] for i in items])) for k in items[0]}
    got = native({**batch, "picture": objective.seen(batch)})
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_marks_that_transformers_has_none_of_are_kept_here(tmp_path: Path):
    theirs(tmp_path / "a", "ViTForImageClassification")
    model, codec = hf.load(tmp_path / "a")
    with torch.no_grad():
        model.front.tokens.weight[3] = 7.0  # [SEP]
    hf.save(model, codec, tmp_path / "b")
    again, _ = hf.load(tmp_path / "b")
    assert torch.equal(again.front.tokens.weight, model.front.tokens.weight)


@pytest.mark.parametrize(
    ("key", "value"), [("patch_size", [4, 2]), ("num_channels", 4), ("image_size", 9), ("hidden_act", "relu")]
)
def test_what_cannot_be_obeyed_is_refused(tmp_path: Path, key: str, value: Any):
    import json

    theirs(tmp_path / "a", "ViTForImageClassification")
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(Exception, match="config.json"):
        load(tmp_path / "a")


def test_patches_come_back_from_their_order():
    pixels = images()
    np.testing.assert_array_equal(unpatchify(patchify(pixels, PATCH), (2, 3), PATCH), pixels)


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTForMaskedImageModeling", "ViTModel"])
def test_imports_and_exports_prove_themselves_on_pixels(tmp_path: Path, kind: str):
    import json

    from exnihilo.proof import export_run, import_folder

    theirs(tmp_path / "a", kind, image_size=8)
    run = import_folder(tmp_path / "a", out=tmp_path / "run")
    proof = json.loads((run / "proof.json").read_text())
    assert {"logits", "transformers_logits", "source_logits"} <= set(proof["checks"])
    assert all(entry["held"] for entry in proof["checks"].values())
    again = export_run(run, to="hf", out=tmp_path / "b", dtype=None)
    assert again["proved"] and again["checks"]["transformers_logits"]["max_difference"] < 1e-4


def test_how_pictures_are_prepared_goes_with_the_folder(tmp_path: Path):
    import json

    theirs(tmp_path / "a", "ViTForImageClassification", image_size=8)
    how = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        "resample": 3,
        "size": {"height": 8, "width": 8},
    }
    (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps(how))
    loaded = load(tmp_path / "a")
    assert loaded.objective is not None
    options = loaded.objective["options"]
    assert options["mean"] == [0.1, 0.2, 0.3] and options["resample"] == "bicubic" and "fit" not in options
    hf.save(loaded.model, loaded.codec, tmp_path / "b", objective=loaded.objective)
    written = json.loads((tmp_path / "b" / "preprocessor_config.json").read_text())
    assert {name: written[name] for name in how} == how
    (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps({**how, "rescale_factor": 1.0}))
    with pytest.raises(Exception, match="rescale_factor"):
        load(tmp_path / "a")
