"""Series: ETTh1, 336 hours to the next 96, and masked pretraining on its own data, before and after.

    python bench/series.py etth1 [--seeds 0 1 2] [--steps 200]      the standard split, all test windows
    python bench/series.py etth1 --choose key=value ...             settings are chosen here, on validation
    python bench/series.py pretrain [--seeds 0 1 2] [--tune 200]    few rows to learn forecasting of, with and
                                                                    without masked pretraining on all

Data: etth1 (EXNIHILO_DATA/etth1/ETTh1.csv): 8640 rows to learn from, 2880 to choose on, 2880 for the test,
standardised by the first part, all seven variables, every window of the test (2785 of each variable, the last
batch too). The naive forecasts are computed in the same run, on the same windows. Published figures (Zeng et
al. 2023, Nie et al. 2023; horizon 96): Linear 0.375, NLinear 0.374, PatchTST 0.370, FEDformer 0.376. Two
cores; quiet.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from common import data_folder, note, row

PUBLISHED = {"Linear": 0.375, "NLinear": 0.374, "PatchTST": 0.370, "FEDformer": 0.376}
SPLIT = [8640, 2880, 2880]
WINDOW: dict[str, Any] = {"history": 336, "horizon": 96, "patch": 24}
FEW = 960
"""Rows of the training part that `pretrain`'s forecaster may learn of: 40 days."""
FIGURES = ("mse", "mae", "mase", "wql", "coverage", "skill")
_T2 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5% of Student's t of so many seeds


def table() -> Path:
    return data_folder() / "etth1" / "ETTh1.csv"


def trained(
    recipe: str,
    run: Path,
    *,
    seed: int,
    steps: int,
    options: dict[str, Any],
    data: Path | None = None,
    **more: Any,
) -> float:
    """Seconds of a training run."""
    import exnihilo as xn

    began = time.perf_counter()
    settings = {**more, "options": options, "seed": seed, "steps": steps}
    xn.train(recipe, data=str(data or table()), run=str(run), force=True, progress=False, **settings)
    return time.perf_counter() - began


def judged(run: Path, part: str, data: Path | None = None) -> dict[str, float]:
    """Figures of every window of a part."""
    import exnihilo as xn

    return xn.eval(run, data=f"{data or table()}:{part}", progress=False)


def etth1(a: argparse.Namespace) -> None:
    """The standard split."""
    part = "val" if a.choose else "test"
    found: list[float] = []
    for seed in a.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            options = {**WINDOW, "split": SPLIT, "point": "mean", **a.options}
            seconds = trained("forecasting", run, seed=seed, steps=a.steps, options=options, **a.given)
            figures = judged(run, part)
        found.append(figures["mse"])
        row(
            "series etth1 336 to 96",
            part=part,
            seed=seed,
            **{name: round(figures[name], 4) for name in FIGURES},
            seasonal_naive_mse=round(figures["seasonal_naive_mse"], 4),
            last_value_mse=round(figures["last_value_mse"], 4),
            windows=int(figures["windows"]),
            seconds=round(seconds, 1),
            steps=a.steps,
            published=PUBLISHED,
        )
    if len(found) > 1:
        row("series etth1 336 to 96, all seeds", part=part, seeds=len(found), **interval(found))


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95% interval."""
    n = len(values)
    mean = sum(values) / n
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = _T2.get(n, 2.5) * std / math.sqrt(n)
    return {"mse": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def short(folder: Path) -> tuple[Path, list[int]]:
    """(the table without all but the last `FEW` rows of its training part, its split)."""
    head, *rows = table().read_text(encoding="utf-8").splitlines()
    path = folder / "few.csv"
    path.write_text("\n".join([head, *rows[SPLIT[0] - FEW : sum(SPLIT)]]) + "\n", encoding="utf-8")
    return path, [FEW, *SPLIT[1:]]


def pretrain(a: argparse.Namespace) -> None:
    """A forecaster that may learn of few rows alone, from random weights and from masked pretraining on all
    rows of the training part; as many steps of forecasting, judged on the same windows."""
    part = "val" if a.choose else "test"
    arms: dict[str, list[float]] = {"random": [], "pretrained": []}
    for seed in a.seeds:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            few, split = short(root)
            seen = {**WINDOW, "split": SPLIT}
            seconds = trained("masked_series", root / "seen", seed=seed, steps=a.steps, options=seen)
            for arm in arms:
                options = {**WINDOW, "split": split, "point": "mean", **a.options}
                more: dict[str, Any] = {"control.seeds": 0, **a.given}
                if arm == "pretrained":
                    more["init"] = str(root / "seen")
                took = trained(
                    "forecasting", root / arm, data=few, seed=seed, steps=a.tune, options=options, **more
                )
                figures = judged(root / arm, part, few)
                arms[arm].append(figures["mse"])
                row(
                    "series pretraining",
                    start=arm,
                    part=part,
                    seed=seed,
                    mse=round(figures["mse"], 4),
                    skill=round(figures["skill"], 4),
                    seasonal_naive_mse=round(figures["seasonal_naive_mse"], 4),
                    rows=FEW,
                    steps=a.tune,
                    pretraining_steps=a.steps if arm == "pretrained" else 0,
                    seconds=round(took + (seconds if arm == "pretrained" else 0), 1),
                )
    for arm, values in arms.items():
        if len(values) > 1:
            row("series pretraining, all seeds", start=arm, part=part, seeds=len(values), **interval(values))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("etth1", "pretrain"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tune", type=int, default=200, help="pretrain: steps of forecasting")
    parser.add_argument("--choose", action="store_true", help="judge on the validation part")
    parser.add_argument("given", nargs="*", help="KEY=VALUE settings of the run")
    a = parser.parse_intermixed_args()
    from exnihilo.config_layers import split_override

    pairs = dict(split_override(text) for text in a.given)
    a.options = {k.removeprefix("options."): v for k, v in pairs.items() if k.startswith("options.")}
    a.given = {k: v for k, v in pairs.items() if not k.startswith("options.")}
    if not table().is_file():
        note(f"{table()} is not there: set EXNIHILO_DATA")
        return
    {"etth1": etth1, "pretrain": pretrain}[a.what](a)


if __name__ == "__main__":
    main()
