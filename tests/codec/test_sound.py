"""Sounds: frames against transformers and a literal transcription, files good and bad, augmentation."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from exnihilo import codec as codecs
from exnihilo.codec.marks import Marks, Waves
from exnihilo.codec.sound import mel, mulaw, read
from exnihilo.codec.sound.augment import Augment, mixed
from exnihilo.codec.sound.layout import Frames, Patches
from exnihilo.codec.sound.read import Unreadable, load, save
from exnihilo.config import CodecConfig
from exnihilo.errors import MissingExtra
from exnihilo.world.sounds import KINDS, render

RATE = 16_000


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that swells, so that quiet frames are there too."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    return (rng.standard_normal(n) * np.linspace(0, 0.3, n) ** 2).astype(np.float32)


# frames -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mels", [80, 128])
def test_log_mel_is_whispers(mels: int):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
    x = wave(3.0)
    want = extractor(x, sampling_rate=RATE, padding=False, return_tensors="np")["input_features"][0].T
    found = mel.log_mel([torch.from_numpy(x)], mels=mels)[0].numpy()
    assert found.shape == want.shape == (300, mels)
    np.testing.assert_allclose(found, want, atol=1e-4)


def test_log_mel_is_the_recipe_written_out_in_float64():
    x = wave(0.5).astype(np.float64)
    padded = np.pad(x, 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[t * 160 : t * 160 + 400] * window for t in range(len(x) // 160)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    logs = np.log10(np.maximum(power @ mel.filters(RATE, 400, 80).double().numpy(), 1e-10))
    want = (np.maximum(logs, logs.max() - 8) + 4) / 4
    found = mel.log_mel([torch.from_numpy(x).float()])[0].numpy()
    np.testing.assert_allclose(found, want, atol=1e-4)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_filter_banks_are_asts():
    transformers = pytest.importorskip("transformers")
    extractor = transformers.ASTFeatureExtractor(max_length=98)
    x = wave(1.0)
    want = extractor(x, sampling_rate=RATE, return_tensors="np")["input_values"][0]
    found = (mel.fbank([torch.from_numpy(x)])[0].numpy() + 4.2677393) / (2 * 4.5689974)
    np.testing.assert_allclose(found, want, atol=1e-4)


def test_many_sounds_at_once_are_what_they_are_alone():
    waves = [torch.from_numpy(wave(s, i)) for i, s in enumerate((0.3, 0.0625, 1.0, 0.31))]
    for made in (mel.log_mel, mel.fbank):
        for alone, together in zip(waves, made(waves), strict=True):
            torch.testing.assert_close(made([alone])[0], together, atol=1e-5, rtol=1e-5)
    assert mel.log_mel([]) == [] == mel.fbank([])


def test_another_rate_keeps_the_frames_in_time():
    t = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * t).astype(np.float32)
    slow = mel.log_mel([torch.from_numpy(tone[::2].copy())], rate=8000)[0]
    fast = mel.log_mel([torch.from_numpy(tone)], rate=RATE)[0]
    assert slow.shape == fast.shape == (100, 80)
    assert mel.filters(8000, 200, 80).shape == (101, 80)


@settings(max_examples=20, deadline=None)
@given(st.integers(400, 5000))
def test_fold_and_unfold_are_inverse_to_sixteen_bits(count: int):
    x = wave(count / RATE, count)
    for layout in (Frames(), Patches(mels=32, length=64)):
        folded = layout.fold(x)
        assert folded.shape == (layout.positions(len(x)), layout.samples) and folded.dtype == np.int16
        back = layout.unfold(folded)[: len(x)]
        assert np.abs(back - x[: len(back)]).max() <= 0.5 / 32768 + 1e-9
        vectors = layout.vectors([torch.from_numpy(layout.unfold(folded))], [len(x)])[0]
        assert vectors.shape == (len(folded), int(np.prod(layout.held)))
        assert torch.isfinite(vectors).all()


def test_files_of_sixteen_bits_are_stored_exactly(tmp_path: Path):
    save(tmp_path / "a.wav", wave(0.2) * 3, RATE)
    x = load(tmp_path / "a.wav", RATE)
    assert np.array_equal(Frames().unfold(Frames().fold(x))[: len(x)], x)


# files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats_channels_and_rates(tmp_path: Path, suffix: str):
    t = np.arange(44_100) / 44_100
    left = 0.5 * np.sin(2 * np.pi * 440 * t)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([left, 0 * left], 1), 44_100)
    found = load(tmp_path / f"a.{suffix}", RATE)
    assert found.dtype == np.float32 and abs(len(found) - RATE) <= 1200  # mp3 pads
    middle = found[4000:12_000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.05)  # the mean of both
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(440, abs=5)


def bad_files(folder: Path) -> dict[str, Path]:
    """Each kind of file that cannot be heard, by the reason that is counted."""
    save(folder / "whole.wav", wave(1.0), RATE)
    body = (folder / "whole.wav").read_bytes()
    (folder / "cut.wav").write_bytes(body[:9000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is no sound at all.")
    soundfile.write(folder / "none.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan] * 800), RATE, subtype="FLOAT")
    return {
        "cut short": folder / "cut.wav",
        "empty": folder / "empty.wav",
        "that are no sounds": folder / "text.wav",
        "without samples": folder / "none.wav",
        "with samples that are no numbers": folder / "nan.wav",
        "that cannot be opened": folder / "absent.wav",
    }


def test_what_cannot_be_heard_says_why_and_which(tmp_path: Path):
    for reason, path in bad_files(tmp_path).items():
        with pytest.raises(Unreadable, match=path.name) as caught:
            load(path, RATE)
        assert caught.value.reason == reason
    with pytest.raises(Unreadable, match="hours"):
        load(tmp_path / "whole.wav", RATE, longest=0.5)
    with pytest.raises(Unreadable, match="world:"):
        load("world:unicorn:1", RATE)


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "a.wav", wave(0.1), RATE)
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert len(load(tmp_path / "a.wav", RATE)) == 1600  # not needed where the rate is the same
    with pytest.raises(MissingExtra, match="audio"):
        load(tmp_path / "a.wav", 8000)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_samples_or_a_reason(tmp_path_factory: pytest.TempPathFactory, body: bytes):
    path = tmp_path_factory.mktemp("bytes") / "a.wav"
    path.write_bytes(b"RIFF" + body)
    try:
        assert np.isfinite(load(path, RATE)).all()
    except Unreadable as error:
        assert error.reason and "a.wav" in str(error)


# the world, mu-law, marks -----------------------------------------------------------------------------------


def test_the_worlds_sounds_are_pure_and_differ():
    for kind in KINDS:
        a = render(f"world:{kind}:1", RATE)
        assert np.array_equal(a, render(f"world:{kind}:1", RATE)) and np.abs(a).max() <= 1
        assert not np.array_equal(a, render(f"world:{kind}:2", RATE))
    assert len(render("world:bell+drum:1:0.5", 8000)) == 8000 + 800
    for bad in ("world:bell", "world:bell:x", "world:bell:1:x", "world:bell:1:1:1", "world::1"):
        with pytest.raises(ValueError, match="expected"):
            render(bad)


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.float32, st.integers(0, 50), elements=st.floats(-2, 2, width=32)))
def test_mu_law_is_monotone_and_fine_near_silence(x: np.ndarray):
    levels = mulaw.encode(x)
    assert np.array_equal(np.argsort(levels, kind="stable"), np.argsort(mulaw.decode(levels), kind="stable"))
    clipped = np.clip(x, -1, 1)
    step = 0.0225 * (np.abs(clipped) + 1 / 255)  # half the width of a level there
    assert (np.abs(mulaw.decode(levels) - clipped) <= step + 1e-6).all()
    assert np.array_equal(mulaw.encode(mulaw.decode(levels)), levels)
    assert np.array_equal(mulaw.of_text(mulaw.to_text(levels)), levels)


def test_waves_and_marks_are_codecs_like_any(tmp_path: Path):
    levels = np.arange(256, dtype=np.uint8)
    for made in (codecs.train(CodecConfig(kind="waves"), ()), codecs.train(CodecConfig(kind="marks"), ())):
        made.save(tmp_path / made.kind)
        again = codecs.load(tmp_path / made.kind)
        assert type(again) is type(made) and again.hash == made.hash
    waves = Waves.make()
    ids = waves.encode(mulaw.to_text(levels))
    assert ids == list(range(5, 261)) == waves.tokenizer.encode(mulaw.to_text(levels)).ids
    assert waves.decode([1, *ids, 2]) == mulaw.to_text(levels)
    assert waves.encode("no level: x") == [] and waves.token_bytes().sum() == 256
    marks = Marks.make()
    assert (marks.pad_id, marks.cls_id, marks.eos_id, marks.mask_id) == (0, 2, 3, 4)
    assert marks.token_id("[DIST]") == 5 and marks.decode([2, 3]) == ""


# augmentation -----------------------------------------------------------------------------------------------

ALL = Augment(shift=0.05, noise=1.0, gain=6.0, speed=0.1, time_masks=2, freq_masks=2)


def test_augmentation_is_a_function_of_the_generator():
    x = wave(0.5)
    a, b, c = (ALL.wave(x, RATE, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c) and len(a) == len(x)
    assert np.array_equal(Augment().wave(x, RATE, np.random.default_rng(0)), x)
    frames = torch.randn(50, 80)
    assert torch.equal(Augment().spectrum(frames, np.random.default_rng(0)), frames)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000))
def test_masks_hide_at_most_what_they_may(frames: int, seed: int):
    x = torch.arange(float(frames * 80)).view(frames, 80)
    change = Augment(time_masks=1, time_mask=10, freq_masks=1, freq_mask=16)
    hidden = change.spectrum(x, np.random.default_rng(seed)) == x.mean()
    assert int(hidden.all(1).sum()) <= min(10, frames // 3)
    assert int(hidden.all(0).sum()) <= 16 or frames // 3 >= frames
    before = x.clone()
    change.spectrum(x, np.random.default_rng(seed))
    assert torch.equal(x, before)


def test_shift_moves_and_mixing_adds():
    x = np.zeros(1600, np.float32)
    x[800] = 1
    moved = Augment(shift=0.02).wave(x, RATE, np.random.default_rng(3))
    assert moved.sum() == 1 and moved.argmax() != 800 and abs(int(moved.argmax()) - 800) <= 320
    y = mixed(np.ones(5, np.float32), np.full(2, 3, np.float32), 0.5)
    assert y.tolist() == [2, 2, 2, 2, 2]


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8000, 1)])
def test_a_long_file_read_in_blocks_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, channels: int
):
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((round(2.3 * rate), channels)) * 0.1).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", noise, rate, subtype="FLOAT")
    whole = read.load(tmp_path / "long.wav", 16_000)
    monkeypatch.setattr(read, "BLOCK", 0.5)
    parts = read.load(tmp_path / "long.wav", 16_000)
    assert len(parts) == len(whole)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    noise[-5] = np.nan
    soundfile.write(tmp_path / "nan.wav", noise, rate, subtype="FLOAT")
    with pytest.raises(Unreadable, match="no numbers"):
        read.load(tmp_path / "nan.wav", 16_000)
