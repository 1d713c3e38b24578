"""Training types that hear: frames where they belong, windows, masks that leak nothing, texts read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exnihilo.codec import train as train_codec
from exnihilo.codec.marks import Marks
from exnihilo.codec.sound.layout import Frames
from exnihilo.codec.sound.read import Unreadable, save
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate, packing
from exnihilo.data.base import Noted
from exnihilo.errors import ConfigError
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.objective import draws, registry
from exnihilo.objective._hearing import segments
from exnihilo.world.sounds import render

MARKS = Marks.make()
NAMES = [f"world:{kind}:{i}:0.{3 + i}" for i, kind in enumerate(("bell", "drum", "horn", "wind"))]
EXAMPLES = [{"sound": name, "label": name.split(":")[1]} for name in NAMES]


class Memory:
    """Rows in memory, as `draw` looks at a data set."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns, self.rows = columns, len(columns["tokens"])

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v[np.asarray(rows)] for k, v in self.columns.items()}


def made(name: str, examples: list[dict[str, Any]] = EXAMPLES, *, length: int = 64, **options: Any) -> Any:
    first = registry.create(name, options, length=length)
    return registry.create(name, options, length=length, facts=first.survey(examples))


def packed(objective: Any, examples: list[dict[str, Any]], row: int = 128) -> Memory:
    items = [i for several in objective.encode_many(examples, MARKS) for i in several]
    lengths = np.array([len(i["tokens"]) for i in items], np.int64)
    plan = packing.plan(lengths, row, overlap=0, max_padding=1.0)
    return Memory(collate.of_items([plan.pieces(r) for r in range(plan.rows)], items, row=row, pad_id=0))


def drawn(objective: Any, data: Memory, **how: Any) -> dict[str, np.ndarray]:
    return draws.draw(objective, data, np.arange(data.rows), codec=MARKS, **how)


def model_of(objective: Any, codec: Any = MARKS, **more: Any) -> Any:
    family = "qwen3" if objective.attention.value == "causal" else "modernbert"
    sizes: dict[str, Any] = {"depth": 2, "width": 32, "heads": 2, "context": 128, **more}
    settings = objective.model_settings
    config = ModelConfig(
        family=family,
        vocab_size=codec.vocab_size,
        labels=settings["labels"],
        inputs=settings["inputs"],
        **sizes,
    )
    return build(config, heads=objective.heads).eval()


# frames ----------------------------------------------------------------------------------------------------


def test_rows_hold_the_frames_of_their_sounds():
    objective = made("sound_classification", stack=2, standardise=False, mels=80)
    data = packed(objective, EXAMPLES)
    columns = drawn(objective, data)
    found = segments(columns["kind"], columns["doc"])
    assert len(found) == 4 and columns["sound"].shape == (data.rows, 128, 160)
    layout, seen = Frames(), set()
    for b, start, end in found:
        label = int(columns["label"][b, start - 1])
        name = NAMES[[e["label"] for e in EXAMPLES].index(objective.names[label])]
        wave = torch.from_numpy(layout.unfold(layout.fold(render(name, 16_000))))
        want = layout.vectors([wave], [len(wave)])[0].numpy()
        np.testing.assert_allclose(columns["sound"][b, start:end], want, atol=1e-5)
        seen.add(name)
    assert len(seen) == 4
    outside = columns["kind"] == 0
    assert not columns["sound"][outside].any() and "wave" not in columns


@pytest.mark.parametrize("stack", [1, 8])
def test_standardised_sounds_are_alike_however_loud(stack: int, tmp_path: Path):
    wave = render(NAMES[0], 16_000)
    for name, gain in (("loud", 1.0), ("soft", 0.5)):
        save(tmp_path / f"{name}.wav", wave * gain, 16_000)
    examples = [{"sound": str(tmp_path / f"{name}.wav"), "label": name} for name in ("loud", "soft")]
    objective = made("sound_classification", examples, stack=stack)
    columns = drawn(objective, packed(objective, examples))
    places = segments(columns["kind"], columns["doc"])
    loud, soft = (columns["sound"][b, start:end] for b, start, end in places)
    assert loud.shape[1] == stack * 128 and len(loud) == -(-len(wave) // (160 * stack))
    assert abs(loud.mean()) < 1e-5 and loud.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(loud - soft).mean() < 0.02  # but for 16 bits
    assert objective.config.model_dump()["stack"] == stack and objective.config.standardise is True
    with pytest.raises(ConfigError, match="stack and standardise"):
        made("sound_classification", examples, frames="ast", stack=4)


def test_what_is_not_drawn_is_heard_on_the_way_in():
    objective = made("sound_classification")
    data = packed(objective, EXAMPLES)
    columns = drawn(objective, data)
    batch = {k: torch.from_numpy(v) for k, v in data.columns.items()}
    np.testing.assert_allclose(objective.heard(batch).numpy(), columns["sound"], atol=1e-6)


def test_augmentation_is_of_training_alone_and_pure():
    augment = {"shift": 0.02, "noise": 1.0, "time_masks": 1, "freq_masks": 1, "mixup": 0.4}
    objective = made("sound_classification", augment=augment)
    data = packed(objective, EXAMPLES)
    plain = drawn(made("sound_classification"), data)["sound"]
    np.testing.assert_array_equal(drawn(objective, data)["sound"], plain)
    a, b, c = (drawn(objective, data, seed=1, step=s) for s in (0, 0, 1))
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(a["sound"], plain) and not np.array_equal(a["sound"], c["sound"])
    share = a["mix"][a["kind"] == 1]
    assert ((share >= 0.5) & (share <= 1)).all() and (share < 1).any()
    firsts = (a["pos"] == 0) & (a["doc"] >= 0)
    assert (a["label_mixed"][firsts] >= 0).all() and (a["label_mixed"] != a["label"])[firsts].any()


def test_mixup_of_a_sound_with_itself_is_the_plain_loss():
    plain, mixing = made("sound_classification"), made("sound_classification", augment={"mixup": 0.4})
    data, model = packed(plain, EXAMPLES), model_of(plain)
    batch = {k: torch.from_numpy(v) for k, v in drawn(mixing, data).items()}
    a, b = plain.sums(model, batch)["ce"], mixing.sums(model, batch)["ce"]
    torch.testing.assert_close(a, b)


def test_long_sounds_are_heard_in_windows_and_bad_ones_counted(tmp_path: Path):
    long = "world:bell+drum+horn:1:0.9"
    save(tmp_path / "short.wav", np.zeros(100, np.float32), 16_000)
    (tmp_path / "bad.wav").write_text("nothing")
    examples = [{"sound": long, "label": "bell"}, {"sound": str(tmp_path / "short.wav"), "label": "bell"},
                {"sound": str(tmp_path / "bad.wav"), "label": "drum"}]  # fmt: skip
    objective = made("sound_classification", [*EXAMPLES, *examples], stack=2)
    windows, short, bad = objective.encode_many(examples, MARKS)
    assert len(windows) == 3 and sum(i["samples"] for i in windows) == len(render(long))
    assert isinstance(short, Noted) and short.note == "shorter than 25 ms"
    assert isinstance(bad, Noted) and bad.note == "that are no sounds"
    model = model_of(objective)
    found = Predictor(model, MARKS, objective).predict([e["sound"] for e in examples])
    assert found[0]["windows"] == 3 and "short.wav" in found[1]["error"] and "bad.wav" in found[2]["error"]
    strict = made("sound_classification", bad="stop")
    with pytest.raises(Unreadable, match="bad.wav"):
        strict.encode_many(examples[2:], MARKS)
    skipping = made("sound_classification", long="skip", stack=2)
    assert skipping.encode_many(examples[:1], MARKS)[0].note == "longer than the model's positions"


@pytest.mark.parametrize("options", [{"pool": "mean"}, {"frames": "ast", "mels": 32, "spectrogram": 64}])
def test_other_ways_to_hear_learn_too(options: dict[str, Any]):
    objective = made("sound_classification", **options)
    data = packed(objective, EXAMPLES)
    batch = {k: torch.from_numpy(v) for k, v in drawn(objective, data).items()}
    model = model_of(objective).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = objective.sums(model, batch)["ce"] / objective.counts(batch)["ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(np.log(4), rel=0.1) and losses[-1] < losses[0] / 3


# masked ------------------------------------------------------------------------------------


def test_nothing_of_what_is_hidden_is_in_the_input():
    objective = made("masked_sound")
    data = packed(objective, EXAMPLES)
    columns = drawn(objective, data, seed=1)
    hidden = columns["mask"] == 1
    assert not columns["sound"][hidden].any() and (columns["tokens"][hidden] == MARKS.mask_id).all()
    assert (columns["kind"][hidden] == 0).all()
    share = hidden.sum() / (data.columns["kind"] == 1).sum()
    assert share == pytest.approx(0.6, abs=0.05)
    model = model_of(objective).double()
    batch = {k: torch.from_numpy(v) for k, v in columns.items()}
    changed = {**batch, "target": batch["target"] * 3 + 1}  # another loudness is the same shape
    a, b = (objective.sums(model, x)["mse"] for x in (batch, changed))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # but for what is added to a variance
    states = objective.hidden(model, batch)
    torch.testing.assert_close(objective.hidden(model, changed), states)


# tagging -----------------------------------------------------------------------------------


def test_events_come_back_from_perfect_outputs_in_windows_too():
    name = "world:bell+drum+horn:1:0.9"
    events = [{"start": 0.0, "end": 0.9, "label": "bell"}, {"start": 1.0, "end": 1.9, "label": "drum"},
              {"start": 1.5, "end": 2.9, "label": "horn"}]  # fmt: skip
    example = {"sound": name, "events": events}
    objective = made("sound_tagging", [example])
    [items] = objective.encode_many([example], MARKS)
    assert len(items) == 3
    outputs = [
        {"p": ((item["label"][:, None] >> np.arange(3)) & 1) * (item["kind"] == 1)[:, None]} for item in items
    ]
    found = objective.decode(example, items, outputs)
    scored = objective.score([found], [example])
    assert scored["event_f1"] == 1 and scored["micro_f1"] > 0.98
    assert objective.majority([example])["micro_f1"] < 0.7
    assert objective.calibrate([example], [items], [outputs])["threshold"] > 0
    batch = {k: torch.as_tensor(np.asarray(items[0][k])[None]) for k in ("kind", "label", "tokens")}
    assert float(objective.counts(batch)["bce"]) == 3 * (items[0]["kind"] == 1).sum()


# texts -------------------------------------------------------------------------------------

SAID = [{"sound": name, "text": text} for name, text in zip(NAMES, ("ab", "b a", "aab", "ba"), strict=True)]


def learnt(objective: Any, codec: Any, steps: int, lr: float = 3e-3) -> tuple[Any, list[float]]:
    items = [i for several in objective.encode_many(SAID, codec) for i in several]
    pieces = [[(i, 0, len(item["tokens"]))] for i, item in enumerate(items)]
    data = Memory(collate.of_items(pieces, items, row=64, pad_id=codec.pad_id))
    columns = draws.draw(objective, data, np.arange(data.rows), codec=codec)
    batch = {k: torch.from_numpy(v) for k, v in columns.items()}
    model = model_of(objective, codec).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    term = next(iter(objective.counts(batch)))
    losses = []
    for _ in range(steps):
        loss = objective.sums(model, batch)[term] / objective.counts(batch)[term]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model.eval(), losses


def test_ctc_reads_what_it_was_taught():
    objective = made("ctc", SAID)
    assert objective.facts["labels"] == ["<blank>", " ", "a", "b"]
    model, losses = learnt(objective, MARKS, 400)
    assert losses[-1] < 0.3
    found = Predictor(model, MARKS, objective).predict(NAMES)
    assert objective.score(found, SAID)["wer"] == 0
    assert [w["word"] for w in found[1]["words"]] == ["b", "a"]
    assert found[1]["words"][0]["end"] <= found[1]["words"][1]["start"]
    wide = registry.create("ctc", {"beam": 8}, length=64, facts=objective.facts)
    assert [p["text"] for p in Predictor(model, MARKS, wide).predict(NAMES)] == [p["text"] for p in found]
    too_much = {"sound": "world:bell:1:0.04", "text": "abab"}
    assert objective.encode_many([too_much], MARKS)[0].note == "with more to say than positions"
    assert objective.encode_many([{"sound": NAMES[0], "text": " "}], MARKS)[0].note == "without a text"


def test_the_flat_start_ends_with_the_plateau():
    objective = made("ctc", SAID)
    letters = "".join(e["text"] for e in SAID)
    share = np.array([letters.count(c) for c in sorted(set(letters))]) / len(letters)
    assert objective.facts["entropy"] == pytest.approx(-(share * np.log(share)).sum())
    data = packed(objective, SAID)
    plain, trained = drawn(objective, data), drawn(objective, data, seed=1)
    assert (plain["spread"] == -100).all() and (trained["spread"] != -100).any()
    assert not (trained["spread"] != -100)[data.columns["kind"] != 1].any()
    for b, start, end in segments(data.columns["kind"], data.columns["doc"]):
        ids = data.columns["targets"][b, start - 1 : end]
        said = trained["spread"][b, start:end]
        kept = said[said > 0]  # runs of the text, in its order
        runs = kept[np.flatnonzero(np.diff(kept, prepend=-1))]
        ids = ids[ids != -100]
        assert runs.tolist() == ids[np.flatnonzero(np.diff(ids, prepend=-1))].tolist()
    model = model_of(objective)
    batch = {k: torch.from_numpy(v) for k, v in trained.items()}
    sums = objective.sums(model, batch)
    assert float(sums["flat"].detach()) > 0  # at random weights the loss lies above the entropy
    objective.facts = {**objective.facts, "entropy": 1e6}
    assert float(objective.sums(model, batch)["flat"].detach()) == 0
    off = made("ctc", SAID, flat=0.0)
    assert (drawn(off, data, seed=1)["spread"] == -100).all()
    with pytest.raises(Exception, match="order of time"):
        registry.create("ctc", {"frames": "ast"}, length=2048)


def test_a_decoder_transcribes_what_it_was_taught_and_its_cache_changes_nothing():
    codec = train_codec(CodecConfig(kind="chars"), ["ab ba aab"])
    objective = made("transcription", SAID)
    model, losses = learnt(objective, codec, 100)
    assert losses[-1] < 0.1
    found = Predictor(model, codec, objective).predict(NAMES)
    assert objective.score(found, SAID)["wer"] == 0
    # without a cache: the likeliest next token of the whole row, again and again
    [item] = objective.query(SAID[2], codec)
    raw = {k: torch.as_tensor(np.asarray(item[k])[None]) for k in ("kind", "wave", "tokens")}
    raw["samples"] = torch.full_like(raw["tokens"], item["samples"])
    sound, ids = objective.heard(raw), [codec.bos_id]
    for _ in range(10):
        pad = torch.nn.functional.pad(sound, (0, 0, 0, len(ids)))
        tokens = torch.cat((raw["tokens"], torch.tensor([ids])), 1)
        kind = torch.cat((raw["kind"].long(), torch.zeros(1, len(ids), dtype=torch.long)), 1)
        with torch.no_grad():
            hidden = model({"tokens": tokens, "kind": kind, "sound": pad}, objective.attention)
        ids.append(int(model.heads["tokens"].logits(hidden[:, -1]).argmax()))
        if ids[-1] == codec.eos_id:
            break
    assert codec.decode(ids) == found[2]["text"] == "aab"


def test_samples_are_tokens():
    codec = train_codec(CodecConfig(kind="waves"), ())
    objective: Any = registry.create("sound_tokens", {"rate": 8000}, length=64)
    [[item], bad] = objective.encode_many([{"sound": NAMES[0]}, {"sound": "world:nothing:1"}], codec)
    assert len(item["tokens"]) == len(render(NAMES[0], 8000)) + 2 and bad.note
    assert item["tokens"][0] == codec.bos_id and item["tokens"][-1] == codec.eos_id
    with pytest.raises(Exception, match="codec.kind=waves"):
        objective.encode_many([{"sound": NAMES[0]}], MARKS)
