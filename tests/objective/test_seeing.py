"""Training types that see: patches where they belong, masks that leak nothing, mixing, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exnihilo.codec import train as train_codec
from exnihilo.codec.marks import Marks
from exnihilo.codec.picture.read import Unreadable, pixels
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate, packing
from exnihilo.data.base import Noted
from exnihilo.errors import ConfigError
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.objective import draws, registry
from exnihilo.objective._prefix import behind
from exnihilo.objective._seeing import starts

pytest.importorskip("PIL")
MARKS = Marks.make()
THINGS = ("red-kite@1", "blue-drum@2", "green-cup@3", "black-key@4")
EXAMPLES = [
    {
        "picture": f"world:{name}:{i}",
        "label": name.split("@")[0],
        "text": name.split("@")[0].replace("-", " "),
    }
    for i, name in enumerate(THINGS)
]
SMALL = {"size": 16}


class Memory:
    """Rows in memory, as `draw` looks at a data set."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns, self.rows = columns, len(columns["tokens"])

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v[np.asarray(rows)] for k, v in self.columns.items()}


def made(name: str, *, length: int = 64, **options: Any) -> Any:
    options = {**SMALL, **options}
    first = registry.create(name, options, length=length)
    return registry.create(name, options, length=length, facts=first.survey(EXAMPLES))


def packed(objective: Any, codec: Any = MARKS, row: int = 40) -> Memory:
    items = [i for several in objective.encode_many(EXAMPLES, codec) for i in several]
    lengths = np.array([len(i["tokens"]) for i in items], np.int64)
    plan = packing.plan(lengths, row, overlap=0, max_padding=1.0)
    return Memory(collate.of_items([plan.pieces(r) for r in range(plan.rows)], items, row=row, pad_id=0))


def drawn(objective: Any, data: Memory, codec: Any = MARKS, **how: Any) -> dict[str, np.ndarray]:
    return draws.draw(objective, data, np.arange(data.rows), codec=codec, **how)


def tensors(columns: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in columns.items()}


def model_of(objective: Any, codec: Any = MARKS, family: str = "", **more: Any) -> Any:
    family = family or ("qwen3" if objective.attention.value == "causal" else "modernbert")
    sizes: dict[str, Any] = {"depth": 2, "width": 32, "heads": 2, "context": 64, **more}
    settings = objective.model_settings
    config = ModelConfig(
        family=family,
        vocab_size=codec.vocab_size,
        labels=settings["labels"],
        inputs=settings["inputs"],
        **sizes,
    )
    return build(config, heads=objective.heads).eval()


def fitted(
    objective: Any, model: Any, batch: dict[str, torch.Tensor], steps: int, lr: float = 3e-3
) -> list[float]:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr)
    term = next(iter(objective.counts(batch)))
    losses = []
    for _ in range(steps):
        loss = objective.sums(model, batch)[term] / objective.counts(batch)[term]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


# patches ------------------------------------------------------------------------------------------


def test_rows_hold_the_patches_of_their_pictures():
    objective = made("picture_classification")
    data = packed(objective)
    columns = drawn(objective, data)
    found = starts(columns["kind"], columns["doc"], 16)
    assert len(found) == 4 and data.rows == 2  # of 17 positions each, two a row of 40
    for b, start in found:
        label = objective.names[int(columns["label"][b, start - 1])]
        image = pixels(next(e["picture"] for e in EXAMPLES if e["label"] == label), 16)
        want = objective.layout.vectors(objective.layout.fold(image)).numpy()
        np.testing.assert_allclose(columns["picture"][b, start : start + 16], want, atol=1e-6)
        assert columns["place"][b, start - 1].tolist() == [0, 0]
        assert columns["place"][b, start : start + 16].tolist() == [
            [r, c] for r in range(1, 5) for c in range(1, 5)
        ]
    assert not columns["picture"][columns["kind"] == 0].any() and "pixels" not in columns
    batch = {k: torch.from_numpy(v) for k, v in data.columns.items()}
    np.testing.assert_allclose(objective.seen(batch).numpy(), columns["picture"], atol=1e-6)


def test_a_row_is_a_picture_and_the_model_is_declared_for_it():
    objective = made("picture_classification", length=500)
    assert objective.row == 17 and objective.model_settings["context"] == 17
    assert objective.model_settings["inputs"] == {"picture": (48,)}
    with pytest.raises(ConfigError, match="model.context=17"):
        made("picture_classification", length=16)
    for wrong in ({"patch": 5}, {"mean": (0.1, 0.2)}, {"std": 0.0}, {"hidden": 1.0}, {"size": 4}):
        with pytest.raises(ConfigError):
            registry.create("masked_picture", {**SMALL, **wrong})
    with pytest.raises(ConfigError, match="mixup"):
        registry.create("caption", {"augment": {"mixup": 0.2}})


def test_two_coordinates_tell_places_apart_that_one_mixes_up():
    """A picture turned on its side has the same row of patches only where rows and columns are told apart."""
    objective = made("picture_classification")
    model = model_of(objective)
    batch = tensors(packed(objective, row=17).columns)
    raw = objective.inputs(batch)
    turned = {**raw, "place": raw["place"].flip(-1)}
    a, b = model(raw), model(turned)
    assert (a - b).abs().max() > 1e-3
    learned = model_of(objective, family="vit", context=17)
    torch.testing.assert_close(learned(raw), learned(turned))  # there positions are learnt, one a patch


def test_augmentation_is_of_training_alone_and_pure():
    augment = {"pad": 2, "flip": 0.5, "brightness": 0.3, "mixup": 0.4, "cutmix": 1.0}
    objective = made("picture_classification", augment=augment)
    data = packed(objective)
    plain = drawn(made("picture_classification"), data)["picture"]
    np.testing.assert_array_equal(drawn(objective, data)["picture"], plain)
    a, b, c = (drawn(objective, data, seed=1, step=s) for s in (0, 0, 1))
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(a["picture"], plain) and not np.array_equal(a["picture"], c["picture"])
    firsts = (a["pos"] == 0) & (a["doc"] >= 0)
    assert (a["label_mixed"][firsts] >= 0).all() and (a["mix"][firsts] < 1).any()
    alone = draws.draw(objective, data, np.array([1]), codec=MARKS, seed=1, step=0)
    for name in a:
        np.testing.assert_array_equal(alone[name][0], a[name][1])  # whatever stands beside it


def test_a_picture_mixed_with_its_like_has_the_plain_loss():
    plain, mixing = made("picture_classification"), made("picture_classification", augment={"mixup": 0.4})
    data, model = packed(plain), model_of(plain)
    batch = tensors(drawn(plain, data))
    firsts = (batch["pos"] == 0) & (batch["doc"] >= 0)
    same = {**batch, "label_mixed": batch["label"], "mix": torch.full(firsts.shape, 0.3)}
    torch.testing.assert_close(mixing.sums(model, same)["ce"], plain.sums(model, batch)["ce"])
    half = {**same, "label_mixed": batch["label"].where(~firsts, (batch["label"] + 1) % 4)}
    other = {**batch, "label": half["label_mixed"]}
    want = 0.3 * plain.sums(model, batch)["ce"] + 0.7 * plain.sums(model, other)["ce"]
    torch.testing.assert_close(mixing.sums(model, half)["ce"], want)


@pytest.mark.parametrize(("pool", "family"), [("mark", "vit"), ("mean", "modernbert")])
def test_classes_are_learnt_and_told(pool: str, family: str):
    objective = made("picture_classification", pool=pool)
    batch = tensors(drawn(objective, packed(objective)))
    model = model_of(objective, family=family)
    losses = fitted(objective, model, batch, 40)
    assert losses[0] == pytest.approx(np.log(4), rel=0.1) and losses[-1] < losses[0] / 3
    found = Predictor(model, MARKS, objective).predict([e["picture"] for e in EXAMPLES])
    assert [p["label"] for p in found] == [e["label"] for e in EXAMPLES]


def test_the_mean_is_over_the_patches_of_its_own_picture():
    objective = made("picture_classification", pool="mean")
    batch = tensors(drawn(objective, packed(objective)))
    model = model_of(objective)
    hidden = torch.randn(2, 40, 32)
    got = objective._logits(model, hidden, batch)
    want = [
        model.heads["classes"].logits(hidden[b, s : s + 16].mean(0))
        for b, s in starts(batch["kind"].numpy(), batch["doc"].numpy(), 16)
    ]
    torch.testing.assert_close(got, torch.stack(want))


@pytest.mark.parametrize(("family", "pool"), [("vit", "mark"), ("modernbert", "mean")])
def test_what_is_read_by_default_is_what_the_family_s_published_heads_read(family: str, pool: str):
    plain, told = made("picture_classification"), made("picture_classification", pool=pool)
    batch = tensors(drawn(plain, packed(plain)))
    model = model_of(plain, family=family)
    hidden = torch.randn(2, 40, 32)
    torch.testing.assert_close(plain._logits(model, hidden, batch), told._logits(model, hidden, batch))


def test_bad_files_are_counted_and_named(tmp_path: Path):
    (tmp_path / "bad.png").write_text("nothing")
    (tmp_path / "empty.jpg").write_bytes(b"")
    examples = [{"picture": str(tmp_path / name), "label": "red-kite"} for name in ("bad.png", "empty.jpg")]
    objective = made("picture_classification")
    bad, empty = objective.encode_many(examples, MARKS)
    assert isinstance(bad, Noted) and bad.note == "that are no pictures" and empty.note == "empty"
    found = Predictor(model_of(objective), MARKS, objective).predict([e["picture"] for e in examples])
    assert "bad.png" in found[0]["error"] and "empty.jpg" in found[1]["error"]
    with pytest.raises(Unreadable, match="bad.png"):
        made("picture_classification", bad="stop").encode_many(examples, MARKS)


# masked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("painter", [True, False])
def test_nothing_of_what_is_hidden_is_in_the_input(painter: bool):
    objective = made("masked_picture", painter=painter)
    data = packed(objective)
    columns = drawn(objective, data, seed=1)
    hidden = columns["mask"] == 1
    assert hidden.sum(1).tolist() == [24, 24] and not columns["picture"][hidden].any()
    if not painter:
        assert (columns["tokens"][hidden] == MARKS.mask_id).all() and (columns["kind"][hidden] == 0).all()
    model = model_of(objective).double()
    batch = tensors(columns)
    changed = {**batch, "target": batch["target"] * 3 + 1}  # another light is the same shape
    a, b = (objective.sums(model, x)["mse"] for x in (batch, changed))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)  # but for what is added to a variance
    torch.testing.assert_close(objective.hidden(model, changed), objective.hidden(model, batch))
    plain = made("masked_picture", painter=painter, normalise=False)
    head = model.heads[objective.heads[0]]
    said = head.logits(objective.hidden(model, batch)[batch["mask"] == 1])
    want = (said - batch["target"][batch["mask"] == 1]).square().mean(-1).sum()
    torch.testing.assert_close(plain.sums(model, batch)["mse"], want)


def test_the_encoder_reads_a_quarter_and_gives_what_it_gives_of_a_quarter():
    objective = made("masked_picture")
    batch = tensors(drawn(objective, packed(objective), seed=1))
    model, read = model_of(objective), []
    front = model.front.register_forward_hook(lambda m, args, out: read.append(out.x_BTD.shape[1]))
    states = objective.hidden(model, batch)
    front.remove()
    assert read == [2 * (1 + 4)] and states.shape == (2, 40, 16)
    # a row of the visible alone, and the same picture among others
    for b, start in starts(batch["kind"].numpy(), batch["doc"].numpy(), 16):
        one = {k: v[b : b + 1, start - 1 : start + 16] for k, v in batch.items() if k not in ("doc", "pos")}
        got = objective.hidden(model, one)
        torch.testing.assert_close(got[0], states[b, start - 1 : start + 16], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("painter", "family"), [(True, "vit"), (True, "modernbert"), (False, "vit")])
def test_masked_patches_are_learnt(painter: bool, family: str):
    objective = made("masked_picture", painter=painter)
    batch = tensors(drawn(objective, packed(objective, row=17), seed=1))
    model = model_of(objective, family=family, context=17)
    losses = fitted(objective, model, batch, 60, lr=1e-2)
    assert losses[-1] < 0.5 * losses[0] and losses[-1] < 0.8


# texts ------------------------------------------------------------------------------------------


def test_a_decoder_says_what_it_was_taught():
    codec = train_codec(CodecConfig(kind="chars"), [e["text"] for e in EXAMPLES])
    objective = made("caption")
    batch = tensors(drawn(objective, packed(objective, codec, row=32), codec))
    assert (batch["group"][batch["kind"] == 1] == 1).all() and not batch["group"][batch["kind"] == 0].any()
    model = model_of(objective, codec)
    assert fitted(objective, model, batch, 100, lr=1e-2)[-1] < 0.1
    found = Predictor(model, codec, objective).predict([e["picture"] for e in EXAMPLES])
    assert [p["text"] for p in found] == [e["text"] for e in EXAMPLES]
    scored = objective.score(found, EXAMPLES)
    assert scored["wer"] == 0 and scored["token_f1"] == 1
    assert objective.majority(EXAMPLES)["exact"] == 0.25
    assert objective.encode_many([{**EXAMPLES[0], "text": " "}], codec)[0].note == "without a text"


def test_the_picture_sees_itself_both_ways_and_never_the_text():
    codec = train_codec(CodecConfig(kind="chars"), [e["text"] for e in EXAMPLES])
    objective = made("caption")
    [[item], *_] = objective.encode_many(EXAMPLES, codec)
    batch = {k: torch.as_tensor(np.asarray(v)[None]) for k, v in item.items()}
    model = model_of(objective, codec)
    before = objective.hidden(model, batch)
    last = {**batch, "tokens": batch["tokens"].clone()}
    last["tokens"][0, -2] = 5
    after = objective.hidden(model, last)
    torch.testing.assert_close(after[0, :-2], before[0, :-2])
    raw = objective.inputs(batch)
    moved = {**raw, "picture": raw["picture"].clone()}
    moved["picture"][0, 15] += 1  # the last patch bears on the first, and on all of the text
    assert ((model(moved, objective.attention) - before).abs().amax(-1) > 1e-6).all()


def test_texts_go_on_behind_the_largest_coordinate():
    place = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int16)
    item: Any = {
        "tokens": np.zeros(4, np.int32),
        "place": place,
        "wave": np.ones((4, 3), np.int16),
        "samples": 9,
    }
    whole: Any = behind(item, [7, 8, 9])
    assert whole["place"][4:].tolist() == [[2, 2], [3, 3], [4, 4]]
    assert (
        whole["targets"].tolist() == [-100] * 4 + [8, 9, -100]
        and whole["group"].tolist() == [1] * 4 + [0] * 3
    )
    assert (
        whole["wave"].shape == (7, 3)
        and whole["samples"] == 9
        and "group" not in behind(item, [], block=False)
    )


# pixels ------------------------------------------------------------------------------------------


def test_pixels_are_tokens_and_come_back():
    codec = train_codec(CodecConfig(kind="waves"), ())
    objective = made("picture_tokens", length=300, size=8, colours=256)
    items = objective.encode_many([*EXAMPLES, {"picture": "world:nothing:1"}], codec)
    assert [len(i[0]["tokens"]) for i in items[:4]] == [66] * 4 and items[4].note
    assert objective.row == 65 and objective.model_settings["context"] == 65
    for example, several in zip(EXAMPLES, items, strict=False):
        text = codec.decode(several[0]["tokens"])
        want = pixels(example["picture"], 8)
        assert np.abs(objective.pixels_of(text).astype(int) - want).mean() < 3
    assert objective.pixels_of("").shape == (8, 8, 3)
    with pytest.raises(Exception, match="codec.kind=waves"):
        objective.encode_many(EXAMPLES, MARKS)


def test_the_painters_cost_is_counted():
    from exnihilo.model import flops_per_token, parameters, resolve

    sizes: dict[str, Any] = {"depth": 4, "width": 64, "heads": 2, "context": 65, "vocab_size": 6}
    config = resolve(ModelConfig(family="vit", inputs={"picture": (48,)}, outputs=("painter",), **sizes))
    model = build(config)
    assert parameters(config) == sum(p.numel() for p in model.parameters())
    whole = flops_per_token(config.model_copy(update={"outputs": ("vectors",)}), 65)
    assert 0.25 * whole < flops_per_token(config, 65) < 0.5 * whole
