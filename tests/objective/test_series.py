"""Forecasting, pretraining, classification and tokens of series: what is looked at, what is asked, what is
said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exnihilo.codec import train as train_codec
from exnihilo.codec.marks import Marks
from exnihilo.config import CodecConfig, DataConfig, ModelConfig, SourceConfig
from exnihilo.data import examples as read_examples
from exnihilo.data.base import Noted
from exnihilo.errors import ConfigError, DataError
from exnihilo.infer.predict import Predictor
from exnihilo.metrics.forecast import seasonal_naive
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.objective import _windows, registry
from exnihilo.objective.base import Example
from exnihilo.objective.forecasting import Forecasting

CODEC = Marks.make()
SMALL: dict[str, Any] = {"history": 16, "horizon": 8, "patch": 4}


def table(path: Path, count: int = 120, **columns: Any) -> str:
    """A CSV of hours with one column, or those that are given."""
    times = np.datetime64("2024-03-01", "s") + np.arange(count) * np.timedelta64(1, "h")
    held = columns or {"x": np.sin(np.arange(count) * 2 * np.pi / 24) * 3 + 10}
    head = ",".join(["date", *held])
    rows = (",".join(map(str, row)) for row in zip(times, *held.values(), strict=True))
    path.write_text("\n".join([head, *rows]) + "\n")
    return str(path)


def ready(name: str, found: list[Example], **options: Any) -> Any:
    first = registry.create(name, options, length=64)
    return registry.create(name, options, length=64, facts=first.survey(found))


def model_for(objective: Any, seed: int = 0) -> Model:
    more = objective.model_settings
    config = ModelConfig(
        family="modernbert", depth=1, width=16, heads=2, context=64, vocab_size=CODEC.vocab_size,
        labels=objective.labels, inputs=more["inputs"], straight=more.get("straight"),
    )  # fmt: skip
    return build(config, heads=objective.heads, seed=seed)


def forecaster(path: str, **options: Any) -> tuple[Forecasting, Predictor]:
    objective = ready("forecasting", [{"series": path, "part": "train"}], **{**SMALL, **options})
    return objective, Predictor(model_for(objective), CODEC, objective)


def drawn(objective: Any, items: list[Any], training: bool = True) -> dict[str, np.ndarray]:
    from exnihilo.data import collate
    from exnihilo.objective.base import Look

    lengths = [len(i["tokens"]) for i in items]
    columns = collate.of_items([[(n, 0, size)] for n, size in enumerate(lengths)], items, row=64, pad_id=0)
    keys = [np.random.default_rng(n) for n in range(len(items))]
    look = Look(len(items), np.arange(len(items)), lambda ids: columns, CODEC, training)
    return objective.draw(columns, keys, look)


# what is looked at ------------------------------------------------------------------------------------------


def test_a_forecast_does_not_look_at_what_it_forecasts(tmp_path: Path) -> None:
    count = 60
    values = np.sin(np.arange(count) / 3)
    other = values.copy()
    other[52:] += 100  # the last window's horizon
    outputs = []
    for n, column in enumerate((values, other)):
        path = table(tmp_path / f"{n}.csv", count, x=column)
        objective, predictor = forecaster(path, split=[40, 12, 8])
        objective.facts["moments"] = {"x": [0.0, 1.0]}
        [(items, found)] = predictor.raw([{"series": path, "part": "test"}])
        assert [int(i["start"]) for i in items] == [52]
        outputs.append(found[0]["forecast"])
    assert np.array_equal(*outputs)


def test_training_reads_the_training_part_alone(tmp_path: Path) -> None:
    values = np.arange(120.0)
    path = table(tmp_path / "a.csv", x=values)
    objective = ready("forecasting", [{"series": path, "part": "train"}], **SMALL, split=[80, 20, 20])
    mean, std = objective.facts["moments"]["x"]
    assert (mean, std) == pytest.approx((values[:80].mean(), values[:80].std()))
    items = objective.encode({"series": path, "part": "train"}, CODEC)
    for seed in range(5):
        made = drawn(objective, items)
        del seed
        target = made["target"] * made["level"][..., 1:] + made["level"][..., :1]
        assert np.nanmax(target * std + mean) <= values[79] + 1e-3
    held = objective.encode({"series": path, "part": "val"}, CODEC)
    starts = [int(i["start"]) for i in held]
    assert min(starts) == 80 and max(starts) + 8 == 100


def test_every_window_of_a_stretch_is_drawn_and_the_same_key_draws_the_same(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", x=np.arange(120.0))
    objective = ready("forecasting", [{"series": path, "part": "all"}], **SMALL)
    items = objective.encode({"series": path, "part": "all"}, CODEC)
    assert sum(int(i["offsets"]) for i in items) == 120 - 24 + 1
    again = drawn(objective, items)
    assert all(
        np.array_equal(v, again[k], equal_nan=True)
        for k, v in drawn(objective, items).items()
        if v.dtype.kind == "f"
    )


def test_missing_values_are_masked_not_filled_and_have_no_loss(tmp_path: Path) -> None:
    values = np.arange(60.0)
    values[[20, 21, 30]] = np.nan
    path = table(tmp_path / "a.csv", 60, x=values)
    objective = ready("forecasting", [{"series": path, "part": "all"}], **SMALL)
    items = objective.encode({"series": path, "part": "all"}, CODEC)
    made = drawn(objective, items, training=False)
    there = made["series"][..., 4:8]
    first = np.concatenate([np.arange(int(i["start"]) - 16, int(i["start"]) + 8) for i in items]).reshape(
        -1, 24
    )
    want = ~np.isnan(values[first]) & (np.arange(24) < 16)
    assert (there[:, 1:7].reshape(len(items), 24) == want).all()
    batch = {k: torch.from_numpy(v) for k, v in made.items()}
    counted = int(objective.counts(batch)["pinball"])
    assert counted == int((~np.isnan(values[first[:, 16:]])).sum())
    sums = objective.sums(model_for(objective), batch)
    assert torch.isfinite(sums["pinball"])


def test_channels_are_alike_and_scale_and_level_change_nothing(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=120).cumsum()
    path = table(tmp_path / "a.csv", x=x, y=1000 + 50 * x)
    _, predictor = forecaster(path)
    one, two = predictor.predict([{"series": path}])[0]["forecasts"]
    assert np.allclose(np.array(two["0.5"]), 1000 + 50 * np.array(one["0.5"]), rtol=1e-4)


def test_quantiles_never_cross_and_the_times_go_on(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", 60)
    _, predictor = forecaster(path)
    [said] = predictor.predict([{"series": path}])[0]["forecasts"]
    held = np.array([said[f"{q / 10:g}"] for q in range(1, 10)])
    assert (np.diff(held, axis=0) >= 0).all() and held.shape == (9, 8)
    assert said["time"][0] == "2024-03-03 12:00:00" and said["time"][-1] == "2024-03-03 19:00:00"
    assert said["channel"] == "x"


def test_a_constant_series_is_forecast_near_its_value(tmp_path: Path) -> None:
    path = table(tmp_path / "flat.csv", 60, x=np.full(60, 7.0))
    objective, predictor = forecaster(path)
    [said] = predictor.predict([{"series": path}])[0]["forecasts"]
    assert np.isfinite(said["0.5"]).all() and abs(np.array(said["0.5"]) - 7).max() < 1
    assert any("constant" in note for note in objective.facts["notes"])


# scores -----------------------------------------------------------------------------------------------------


def test_scores_are_those_of_all_windows_and_naive_forecasts_stand_beside(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.sin(np.arange(200) * 2 * np.pi / 24) + 0.1 * rng.normal(size=200)
    path = table(tmp_path / "a.csv", 200, x=values)
    objective, predictor = forecaster(path, split=[120, 40, 40])
    part = {"series": path, "part": "test"}
    predictions = predictor.predict([part])
    assert json.loads(json.dumps(predictions)) == predictions and predictions[0]["windows"] == 33
    found = objective.score(predictions, [part])
    z = (values - values[:120].mean()) / values[:120].std()
    [(items, raw)] = predictor.raw([part])
    median = np.stack([out["forecast"][:, 4] for out in raw])
    actual = np.stack([z[int(i["start"]) :][:8] for i in items])
    past = np.stack([z[int(i["start"]) - 16 : int(i["start"])] for i in items])
    assert found["mse"] == pytest.approx(np.square(actual - median).mean(), rel=1e-5)
    assert found["windows"] == 33
    assert found["last_value_mse"] == pytest.approx(np.square(actual - past[:, -1:]).mean(), rel=1e-9)
    naive = seasonal_naive(past, 24, 8)  # a season is longer than this history: the last value of each place
    assert found["seasonal_naive_mse"] == pytest.approx(np.square(actual - naive).mean(), rel=1e-9)
    base = objective.majority([part])
    assert base["mse"] == pytest.approx(found["seasonal_naive_mse"]) and base["skill"] == 0
    assert found["skill"] == pytest.approx(1 - found["wql"] / found["seasonal_naive_wql"])
    scale = np.abs(z[24:120] - z[:96]).mean()
    assert found["mase"] == pytest.approx((np.abs(actual - median).mean(1) / scale).mean(), rel=1e-5)


def test_a_run_validates_itself_on_some_windows_and_its_baseline_on_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_windows, "LOSS_WINDOWS", 10)
    monkeypatch.setattr(_windows, "LEAST_WINDOWS", 3)
    count = 200
    path = table(tmp_path / "a.csv", count, x=np.arange(count) % 24, y=np.arange(count) % 7)
    objective, predictor = forecaster(path, split=(100, 60, 40))
    whole = {"series": path, "part": "val"}
    own = {**whole, "_side": 1, "_split": True}  # as a run's own validation part comes
    every = 2 * (60 - 8 + 1)  # of both channels
    for example, windows in ((whole, every), (own, 10)):
        found = predictor.predict([example])
        assert found[0]["windows"] == windows
        assert objective.majority([example])["mse"] == pytest.approx(
            objective.score(found, [example])["seasonal_naive_mse"]
        )
    assert len(objective.encode(whole, CODEC)) == 10  # what the validation loss is over


def test_the_future_has_no_score(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", 60)
    objective, predictor = forecaster(path)
    with pytest.raises(DataError, match="no truth"):
        objective.score(predictor.predict([{"series": path}]), [{"series": path}])


# covariates, options ----------------------------------------------------------------------------------------


def test_covariates_of_the_future_are_read_and_must_be_there(tmp_path: Path) -> None:
    count = 60
    price = np.random.default_rng(0).normal(size=count)
    x = [*np.arange(50.0), *[""] * 10]
    path = table(tmp_path / "a.csv", count, x=x, price=price)
    objective, predictor = forecaster(path, known="price", targets="x")
    one = predictor.predict([{"series": path}])[0]["forecasts"][0]["0.5"]
    changed = price.copy()
    changed[52] += 5
    other = table(tmp_path / "b.csv", count, x=x, price=changed)
    two = predictor.predict([{"series": other}])[0]["forecasts"][0]["0.5"]
    assert not np.allclose(one, two)
    short = table(tmp_path / "c.csv", 50, x=x[:50], price=price[:50])
    assert "known for 0 of 8 moments" in predictor.predict([{"series": short}])[0]["error"]
    assert objective.facts["known"][0] == pytest.approx([price[:30].mean(), price[:30].std()], abs=0.2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"history": 10, "patch": 4}, "no multiple"),
        ({"split": [0.9, 0.2, 0.2]}, "more than 1"),
        ({"quantiles": [0.5, 0.1]}, "rise"),
        ({"targets": "x", "known": "x"}, "both name"),
        ({"step": "3 parsecs"}, "step"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        registry.create("forecasting", options)


def test_a_window_that_does_not_fit_says_what_would() -> None:
    with pytest.raises(ConfigError, match="model.context=16"):
        registry.create("forecasting", length=8)


def test_files_that_cannot_be_read_are_counted_by_reason_or_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("")
    objective = registry.create("forecasting", SMALL, length=64)
    [found] = objective.encode_many([{"series": str(tmp_path / "bad.csv"), "part": "train"}], CODEC)
    assert isinstance(found, Noted) and found.note == "empty"
    strict = registry.create("forecasting", {**SMALL, "bad": "stop"}, length=64)
    with pytest.raises(DataError, match="bad.csv"):
        strict.encode_many([{"series": str(tmp_path / "bad.csv"), "part": "train"}], CODEC)


# pretraining, classes, tokens -------------------------------------------------------------------------------


def test_pretraining_hides_the_share_that_is_asked_and_its_head_goes_on(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    options = {**SMALL, "hidden": 0.5, "run": 2}
    objective = ready("masked_series", [{"series": path, "part": "train"}], **options)
    made = drawn(objective, objective.encode({"series": path, "part": "train"}, CODEC))
    assert (made["mask"].sum(1) == 3).all() and not made["series"][made["mask"] == 1][:, :8].any()
    after = ready("forecasting", [{"series": path, "part": "train"}], **SMALL)
    assert after.facts["outputs"] == objective.facts["outputs"]
    assert after.model_settings["inputs"] == objective.model_settings["inputs"]


def test_rows_with_labels_are_examples_with_labels(tmp_path: Path) -> None:
    (tmp_path / "wide.tsv").write_text("1\t0.5\t1.5\t\n2\t1\t2\t3\n1\tx\t2\t3\n")
    (tmp_path / "rows.jsonl").write_text(
        '{"values": [1, null, 3], "class": "up"}\n{"values": [], "class": "b"}\n'
    )
    np.savez(tmp_path / "a.npz", x=np.arange(6.0).reshape(2, 3), y=np.array(["p", "q"]))
    found = {}
    for name in ("wide.tsv", "rows.jsonl", "a.npz"):
        config = DataConfig(sources=(SourceConfig(path=str(tmp_path / name)),), val_fraction=0)
        got = read_examples(
            config, None, "train", roles=("series", "label"), view="series", cache=tmp_path / "c"
        )
        found[name] = [(e["series"], e["label"]) for e in got]
    assert found["wide.tsv"] == [("[0.5, 1.5]", "1"), ("[1.0, 2.0, 3.0]", "2")]
    assert found["rows.jsonl"] == [("[1, null, 3]", "up")]
    assert [label for _, label in found["a.npz"]] == ["p", "q"]


def test_a_long_series_is_classified_in_windows_and_other_channels_are_refused() -> None:
    rows = [{"series": json.dumps(list(range(i, i + 40))), "label": str(i % 2)} for i in range(4)]
    first = registry.create("series_classification", {"patch": 4}, length=6)
    objective = registry.create("series_classification", {"patch": 4}, length=6, facts=first.survey(rows))
    predictor = Predictor(model_for(objective), CODEC, objective)
    said = predictor.predict([{"series": rows[0]["series"]}, {"series": "[[1, 2], [3, 4]]"}])
    assert said[0]["windows"] == 2 and set(said[0]["probabilities"]) == {"0", "1"}
    assert "2 channels" in said[1]["error"]


def test_tokens_of_a_series_are_its_window_scaled_by_its_history(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    codec = train_codec(CodecConfig(kind="ids", ids=512), ())
    objective = ready("series_tokens", [{"series": path, "part": "train"}], history=16, horizon=8)
    items = objective.encode({"series": path, "part": "train"}, codec)
    ids = np.asarray(items[0]["tokens"])
    assert len(ids) == 25 and ids[0] == codec.bos_id and 1 <= ids[1:].min() and ids[1:].max() < 512
    with pytest.raises(Exception, match="codec.kind=ids"):
        objective.encode({"series": path, "part": "train"}, CODEC)


@pytest.mark.parametrize(
    "given", [{"val_fraction": 0.3}, {"pattern": "{label}_{n}"}, {"encoding": "latin-1"}]
)
def test_options_of_data_that_series_do_not_read_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    table(tmp_path / "a.csv")
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.csv")),), **given)
    with pytest.raises(ConfigError, match=next(iter(given))):
        list(
            read_examples(
                config, None, "train", roles=("series",), extras=("part",), view="series", cache=tmp_path
            )
        )


def test_a_table_is_divided_by_time_and_a_part_can_be_named(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    how: dict[str, Any] = {
        "roles": ("series",),
        "extras": ("part",),
        "view": "series",
        "cache": tmp_path / "c",
    }
    config = DataConfig(sources=(SourceConfig(path=path),))
    sides = [[e["part"] for e in read_examples(config, None, side, **how)] for side in ("train", "val")]
    assert sides == [["train"], ["val"]]
    whole = config.model_copy(update={"val_fraction": 0.0})
    assert [e["part"] for e in read_examples(whole, None, "train", **how)] == ["all"]
    named = DataConfig(sources=(SourceConfig(path=f"{path}:test"),), val_fraction=0)
    assert [e["part"] for e in read_examples(named, None, "train", **how)] == ["test"]
