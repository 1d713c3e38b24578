"""Sound: spoken digits, an unseen speaker, strings of digits, pretraining before and after, front ends.

    python bench/sound.py digits [--minutes 2.5] [--seeds 0]      official split: takes 0-4 are the test
    python bench/sound.py speakers [--minutes 1]                  each speaker left out once
    python bench/sound.py strings [--minutes 8] [--by ctc]        clips joined to 3 to 6 digits: WER
    python bench/sound.py pretrain [--clips 100] [--minutes 1]    few labels, with and without pretraining
    python bench/sound.py front [--rounds 10]                     log-mel and patches against transformers
    python bench/sound.py loader [--steps 200]                    how long training waits for sounds

Data: fsdd (EXNIHILO_DATA/fsdd/recordings, five speakers). Strings are joined of clips of one speaker, those
of the test of test clips alone, so that no clip is on both sides. `--choose` looks at takes 40-49 instead and
trains on takes 5-39: settings are chosen there, never on the test. `--steps` instead of minutes: the same on
a busy machine. Two cores; quiet.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from common import data_folder, interleave, median, note, row

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PATTERN = "{label}_{speaker}_{take}"
TRAIN = ("*_[5-9].wav", "*_[1-4][0-9].wav")
TEST = "*_[0-4].wav"
CHOOSE = (("*_[5-9].wav", "*_[1-3][0-9].wav"), "*_4[0-9].wav")
RATE = 16_000


def split(a: argparse.Namespace) -> tuple[tuple[str, ...], str]:
    """Globs of the training takes, and of those that are looked at."""
    return CHOOSE if a.choose else (TRAIN, TEST)


def budget(a: argparse.Namespace) -> dict[str, Any]:
    return {"steps": a.steps} if a.steps else {"minutes": a.minutes}


def recordings() -> Path:
    return data_folder() / "fsdd" / "recordings"


def trained(
    recipe: str, data: list[str], val: str, run: Path, **given: Any
) -> tuple[dict[str, float], float]:
    """Metrics of the validation files after the last step, and the seconds of the whole call."""
    import exnihilo as xn

    began = time.perf_counter()
    pattern = {} if data[0].endswith(".jsonl") else {"data.pattern": PATTERN}
    result = xn.train(
        recipe, data=data, val=val, run=str(run), force=True, progress=False, **{**pattern, **given}
    )
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = [json.loads(line) for line in lines if "val_" in line][-1]
    found = {k.removeprefix("val_"): v for k, v in last.items() if k.startswith("val_")}
    del result
    return found, time.perf_counter() - began


def digits(a: argparse.Namespace) -> None:
    """The official split."""
    where, (train, test) = recordings(), split(a)
    scores: list[float] = []
    for seed in a.seeds:
        with tempfile.TemporaryDirectory() as folder:
            found, seconds = trained(
                "sound_classification",
                [str(where / name) for name in train],
                str(where / test),
                Path(folder) / "run",
                seed=seed,
                **budget(a),
                **a.given,
            )
        scores.append(found["accuracy"])
        row(
            "sound digits",
            part=test,
            seed=seed,
            accuracy=found["accuracy"],
            seconds=round(seconds, 1),
            **budget(a),
        )
    row("sound digits", part=test, seed="all", accuracy=round(sum(scores) / len(scores), 4))


def speakers(a: argparse.Namespace) -> None:
    """All takes of one speaker are the test, those of the others are learnt."""
    where = recordings()
    names = sorted({path.stem.split("_")[1] for path in where.glob("*.wav")})
    scores: list[float] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found, _ = trained(
                "sound_classification",
                [str(where / f"*_{other}_*.wav") for other in names if other != name],
                str(where / f"*_{name}_*.wav"),
                Path(folder) / "run",
                **budget(a),
                **a.given,
            )
        scores.append(found["accuracy"])
        row("sound speakers", left_out=name, accuracy=found["accuracy"], **budget(a))
    row("sound speakers", left_out="mean", accuracy=sum(scores) / len(scores))


def joined(folder: Path, side: str, count: int, seed: int, names: tuple[str, ...]) -> Path:
    """A table of strings of digits, joined of clips of one speaker, of the takes that `names` match."""
    from exnihilo.codec.sound.read import load, save

    rng = np.random.default_rng(seed)
    where = recordings()
    by_speaker: dict[str, list[Path]] = {}
    for name in names:
        for path in sorted(where.glob(name)):
            by_speaker.setdefault(path.stem.split("_")[1], []).append(path)
    held = {path: load(path, RATE) for paths in by_speaker.values() for path in paths}
    rows = []
    (folder / side).mkdir()
    for i in range(count):
        paths = by_speaker[sorted(by_speaker)[i % len(by_speaker)]]
        chosen = [paths[j] for j in rng.integers(0, len(paths), int(rng.integers(3, 7)))]
        wave = np.concatenate([np.pad(held[p], (0, int(rng.integers(400, 2400)))) for p in chosen])
        save(folder / side / f"{i}.wav", wave, RATE)
        said = " ".join(WORDS[int(p.stem.split("_")[0])] for p in chosen)
        rows.append({"path": f"{side}/{i}.wav", "text": said})
    table = folder / f"{side}.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return table


def strings(a: argparse.Namespace) -> None:
    """Strings of digits, by CTC or by a decoder."""
    import exnihilo as xn
    from exnihilo.metrics.edit import errors

    train, test = split(a)
    for seed in a.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = joined(folder, "train", a.count, 0, train)
            held = joined(folder, "test", 250, 1, (test,))
            run = folder / "run"
            found, seconds = trained(a.by, [str(data)], str(held), run, seed=seed, **budget(a), **a.given)
            row(
                "sound strings",
                by=a.by,
                seed=seed,
                wer=found["wer"],
                cer=found["cer"],
                exact=found["exact"],
                seconds=round(seconds, 1),
                **budget(a),
            )
            rows = [json.loads(line) for line in held.read_text().splitlines()]
            for beam in (1, 16) if a.by == "ctc" else (1,):
                if a.by == "ctc":
                    told = json.loads((run / "objective.json").read_text())
                    told["options"]["beam"] = beam
                    (run / "objective.json").write_text(json.dumps(told))
                began = time.perf_counter()
                heard = xn.predict(run, [str(folder / r["path"]) for r in rows])
                took = time.perf_counter() - began
                again = errors([r["text"] for r in rows], [p["text"] for p in heard])
                what = {"wer": again["wer"], "cer": again["cer"], "strings": len(rows)}
                row("sound strings, asked", by=a.by, seed=seed, beam=beam, **what, seconds=round(took, 1))


def pretrain(a: argparse.Namespace) -> None:
    """Few labels: from random weights, and from masked pretraining on all training clips without labels.

    Each seed draws other clips that have labels, the same for both; both take as many steps on them.
    """
    from exnihilo.train.control import interval

    where, (train, test) = recordings(), split(a)
    found: dict[str, list[float]] = {"random": [], "pretrained": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = [str(where / pattern) for pattern in train]
        heard, seconds = trained(
            "masked_sound", data, str(where / test), folder / "heard", **budget(a), **a.given
        )
        row("sound pretrain", start="pretraining", loss=heard["loss"], seconds=round(seconds, 1), **budget(a))
        clips = np.array(sorted(str(path) for pattern in train for path in where.glob(pattern)))
        for seed in a.seeds:
            few = folder / f"few{seed}"
            few.mkdir()
            for path in np.random.default_rng(seed).choice(clips, a.clips, replace=False):
                shutil.copy(path, few)
            for kind, init in (("random", None), ("pretrained", str(folder / "heard"))):
                told, _ = trained(
                    "sound_classification",
                    [str(few)],
                    str(where / test),
                    folder / "run",
                    epochs=a.epochs,
                    seed=seed,
                    **{"control.seeds": 0},
                    **({"init": init} if init else {}),
                    **a.given,
                )
                found[kind].append(told["accuracy"])
                row("sound pretrain", clips=a.clips, start=kind, seed=seed, accuracy=told["accuracy"])
    gains = [b - r for b, r in zip(found["pretrained"], found["random"], strict=True)]
    for kind, values in {**found, "gain": gains}.items():
        mean, low, high = interval(values)
        bounds = [round(low, 4), round(high, 4)] if len(values) > 1 else None
        row("sound pretrain", clips=a.clips, start=kind, seed="all", mean=round(mean, 4), interval=bounds)


def front(a: argparse.Namespace) -> None:
    """Milliseconds a batch of 16 clips of 5 s, and of 256 clips of half a second."""
    import torch
    from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

    from exnihilo.codec.sound.layout import Patches
    from exnihilo.codec.sound.mel import log_mel

    rng = np.random.default_rng(0)
    whisper, ast = WhisperFeatureExtractor(), ASTFeatureExtractor()
    for count, length in ((16, 5.0), (256, 0.5)):
        waves = [(rng.standard_normal(round(length * RATE)) * 0.1).astype(np.float32) for _ in range(count)]
        held = [torch.from_numpy(wave) for wave in waves]
        patches, sizes = Patches(), [len(wave) for wave in waves]
        how: dict[str, Any] = {"sampling_rate": RATE, "return_tensors": "np"}
        sides = {
            "exnihilo log-mel": lambda h=held: log_mel(h),
            "transformers log-mel": lambda w=waves, h=how: whisper(w, padding="longest", **h),
        }
        found = {k: median(v) for k, v in interleave(sides, a.rounds).items()}
        ratio = found["transformers log-mel"] / found["exnihilo log-mel"]
        row("sound front", what="log-mel", clips=count, seconds=length, ratio=round(ratio, 2), times=found)
        if count == 16:
            both = {
                "exnihilo patches": lambda h=held, s=sizes, p=patches: p.vectors(h, s),
                "transformers patches": lambda w=waves, h=how: ast(w, **h),
            }
            found = {k: median(v) for k, v in interleave(both, a.rounds).items()}
            ratio = found["transformers patches"] / found["exnihilo patches"]
            row(
                "sound front",
                what="AST patches",
                clips=count,
                seconds=length,
                ratio=round(ratio, 2),
                times=found,
            )


def loader(a: argparse.Namespace) -> None:
    """The share of training's time in which it waits for a batch, and what making one takes."""
    from exnihilo.train.batches import Batches

    waits: list[float] = []
    makes: list[float] = []
    ends: list[float] = []
    get, make = Batches.get, Batches.make

    def timed_get(self: Batches, step: int) -> Any:
        began = time.perf_counter()
        found = get(self, step)
        ends.append(time.perf_counter())
        waits.append(ends[-1] - began)
        return found

    def timed_make(self: Batches, step: int) -> Any:
        began = time.thread_time()
        found = make(self, step)
        makes.append(time.thread_time() - began)
        return found

    Batches.get, Batches.make = timed_get, timed_make  # type: ignore[method-assign]
    where, (train, test) = recordings(), split(a)
    with tempfile.TemporaryDirectory() as name:
        data, val = [str(where / glob) for glob in train], str(where / test)
        given = {"steps": a.steps or 200, "eval.every": 1_000_000, **a.given}
        trained("sound_classification", data, val, Path(name) / "run", **given)
    skip = len(waits) // 3  # the first ones, in which the machine is got to know
    span = ends[-1] - ends[skip - 1]
    row(
        "sound loader",
        waiting=round(sum(waits[skip:]) / span, 4),
        making_s=round(median(makes), 4),
        step_s=round(span / (len(ends) - skip), 4),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    kinds = {
        "digits": digits,
        "speakers": speakers,
        "strings": strings,
        "pretrain": pretrain,
        "front": front,
        "loader": loader,
    }
    parser.add_argument("what", choices=tuple(kinds))
    parser.add_argument("--minutes", type=float, default=2.5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--choose", action="store_true", help="a part of the training takes is the test")
    parser.add_argument("--by", choices=("ctc", "transcription"), default="ctc")
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], help="further settings, KEY=VALUE")
    a = parser.parse_args()
    from exnihilo.config_layers import parse_value

    a.given = {key: parse_value(key, value) for key, value in (word.split("=", 1) for word in a.set)}
    note(f"data: {recordings()}")
    kinds[a.what](a)


if __name__ == "__main__":
    main()
