"""Influence on models that read numbers (sounds, pictures, series) and say several things, against laws."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import UsageError
from exnihilo.model import Model, build
from exnihilo.objective import registry
from exnihilo.probe import during, examples, influence, surfaces
from exnihilo.probe.rows import Others, Rows
from exnihilo.probe.run import probe
from exnihilo.probe.speech import Said
from exnihilo.probe.subject import Subject
from exnihilo.probe.trust import doubts, summary
from exnihilo.world import recalls


def reader(outputs: tuple[str, ...] = ("classes",), **more: Any) -> Model:
    """An encoder that reads two numbers a position."""
    shape: dict[str, Any] = dict(
        family="modernbert", depth=2, width=32, heads=2, context=32, vocab_size=8, outputs=outputs, labels=3,
        inputs={"dots": (2,)},
    )  # fmt: skip
    return build(ModelConfig(**{**shape, **more}), seed=0)


def items(lengths: tuple[int, ...] = (7, 7, 7), seed: int = 0) -> list[dict[str, np.ndarray]]:
    """[CLS] (id 1), then positions of two numbers."""
    random = np.random.default_rng(seed)
    out = []
    for length in lengths:
        tokens, kind = np.zeros(length, np.int32), np.ones(length, np.int8)
        tokens[0], kind[0] = 1, 0
        out.append(
            {"tokens": tokens, "kind": kind, "dots": random.normal(size=(length, 2)).astype(np.float32)}
        )
    return out


# distributions -------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_distances_are_those_of_torch(seed: int):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(1, 2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    logits = Said.of_logits(a).moved(Said.of_logits(b))
    want = kl_divergence(Categorical(logits=a), Categorical(logits=b))
    torch.testing.assert_close(logits, want)
    bits = Said.of_bits(a).moved(Said.of_bits(b))
    torch.testing.assert_close(bits, kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b)).sum(-1))
    normal = Said.normal(a, b.exp()).moved(Said.normal(b, a.exp()))
    torch.testing.assert_close(normal, kl_divergence(Normal(a, b.exp()), Normal(b, a.exp())).sum(-1))


@pytest.mark.parametrize("make", [Said.of_logits, Said.of_bits, lambda x: Said.normal(x, x.exp())])
def test_coordinates_measure_small_changes(make: Any):
    """Half the squared change of the coordinates is the KL, to second order."""
    x = torch.randn(1, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-3 * torch.randn(1, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobian = torch.autograd.functional.jacobian(lambda y: make(y).coordinates().flatten(), x).flatten(1)
    change = jacobian @ step.flatten()
    assert 0.5 * float(change.square().sum()) == pytest.approx(float(make(x).moved(make(x + step))), rel=0.02)


def test_quantiles_of_a_normal_distribution_give_it_back():
    z, levels = NormalDist(-1.0, 0.5), (0.9, 0.1, 0.5)
    said = Said.of_quantiles(torch.tensor([[[[z.inv_cdf(q) for q in levels]]]]), levels)
    assert said.mean_BQC is not None and said.scale_BQC is not None
    assert said.mean_BQC.item() == pytest.approx(-1.0) and said.scale_BQC.item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="numbers"):
        said.logp()


# numbers in the place of tokens --------------------------------------------------------------------


def test_a_swap_of_numbers_is_those_of_another_example_and_marks_stay():
    rows = Rows.of(items(), ("dots",))
    random, swap = np.random.default_rng(0), Others(rows)
    assert rows.other(random, 0, 0, swap) is None  # [CLS] in all
    found = rows.other(random, 0, 3, swap)
    assert any(np.array_equal(found, rows.items[n]["dots"][3]) for n in (1, 2))  # type: ignore[arg-type]
    batch = rows.batch(0, torch.device("cpu"), [{}, {3: found}])
    moved = (batch["dots"][0] != batch["dots"][1]).any(-1)
    assert moved.nonzero().flatten().tolist() == [3] and (batch["tokens"][0] == batch["tokens"][1]).all()
    alone = Rows.of(items((5,)), ("dots",))
    own = alone.other(random, 0, 2, Others(alone))
    assert any(np.array_equal(own, alone.items[0]["dots"][t]) for t in (1, 3, 4))  # type: ignore[arg-type]


def test_the_whole_is_measured_by_definition():
    """Against a loop that swaps by hand, for examples of several lengths."""
    model, rows = reader(), Rows.of(items((5, 7)), ("dots",))
    found = influence.resampling(Subject.of(model), rows, draws=1)
    assert found.sites == (-1,) and found.lengths == (5, 7) and found.nats_NQT.shape == (2, 1, 7)
    assert np.isnan(found.nats_NQT[0, 0, 5:]).all() and found.nats_NQT[0, 0, 0] == 0.0
    a, b = rows.items
    raw = {name: torch.from_numpy(value)[None] for name, value in a.items()}
    raw["tokens"] = raw["tokens"].long()
    head = model.heads["classes"]
    with torch.no_grad():
        base = head.logits(model(raw)[:, 0]).log_softmax(-1)
        swapped = {**raw, "dots": raw["dots"].clone()}
        swapped["dots"][0, 2] = torch.from_numpy(b["dots"][2])
        moved = head.logits(model(swapped)[:, 0]).log_softmax(-1)
    want = float((base.exp() * (base - moved)).sum())
    assert found.nats_NQT[0, 0, 2] == pytest.approx(want, rel=1e-3, abs=1e-7)
    screen = influence.screened(Subject.of(model), rows, candidates=2, rest=1, also=[1])
    assert 3 <= int((~np.isnan(screen.nats_NQT[0, 0])).sum()) <= 4


def test_a_block_is_swapped_together():
    rows = Rows.of(items(), ("dots",))
    found = influence.resampling(Subject.of(reader()), rows, draws=1, block=7)
    assert found.forwards == 3 + 3 and np.unique(found.nats_NQT[0, 0]).size == 1
    assert (found.nats_NQT > 0).all()


def test_regression_and_several_labels_are_read_as_their_objective_means_them():
    rows = Rows.of(items(), ("dots",))
    raw = rows.batch(0, torch.device("cpu"))
    model = reader()
    z = model.heads["classes"].logits(model(raw)[:, 0]).detach()
    for kind, want in (("multilabel", Said.of_bits(z[:, None])), ("regression", Said.normal(z[:, None]))):
        objective: Any = SimpleNamespace(config=SimpleNamespace(kind=kind), per_item=frozenset({"logits"}))
        said = Subject(model, "classes")._read(objective, {"logits": z})
        assert float(said.moved(want)) == pytest.approx(0.0, abs=1e-9)
    nothing: Any = SimpleNamespace(config=None, per_item=frozenset())
    with pytest.raises(UsageError, match="nothing to probe"):
        Subject(model, "classes")._read(nothing, {"a": z})


def test_chosen_sites_need_texts_of_one_length():
    rows = Rows.of(items((5, 7)), ("dots",))
    with pytest.raises(UsageError, match="one length"):
        influence.resampling(Subject.of(reader(("tags",))), rows, sites=[-1])
    with pytest.raises(UsageError, match="without a position"):
        Rows.of([{"tokens": np.zeros(0, np.int64)}])


def test_both_sides_count_where_both_are_seen():
    nats = np.zeros((1, 1, 9))
    nats[0, 0, [2, 8]] = 1.0
    both = influence.Influence(nats, (4,), 0.0, 0, causal=False)
    assert both.by_distance()[[2, 4]].tolist() == [0.5, 0.5] and both.reach() == 4
    assert influence.Influence(nats, (4,), 0.0, 0).reach() == 2
    assert influence.Influence(nats, (-1,), 0.0, 0).reach() == 2  # positions, of a whole


def test_a_window_of_a_decoder_hides_what_is_beyond_it():
    shape = ModelConfig(depth=2, width=32, heads=2, context=64, vocab_size=20, window=4)
    subject = Subject.of(build(shape, seed=0))
    assert subject.window == 6
    found = influence.resampling(subject, np.random.default_rng(0).integers(0, 20, (2, 20)), draws=2)
    assert (found.nats_QT[15, :9] == 0.0).all() and (found.nats_QT[15, 9:16] > 0).all()
    assert Subject.of(build(shape.model_copy(update={"global_every": 2}), seed=0)).window is None


# a run of sounds -----------------------------------------------------------------------------------


def test_a_run_that_hears_draws_its_spectrogram(tmp_path: Path):
    codec = codecs.train(CodecConfig(kind="marks"), [])
    facts = {"labels": ["bell", "drum"], "counts": {"bell": 1, "drum": 1}, "examples": 2}
    objective = registry.create("sound_classification", {"pool": "mean"}, length=64, facts=facts)
    shape = ModelConfig(family="modernbert", depth=1, width=32, heads=2, context=64)
    shape = shape.model_copy(update={"vocab_size": codec.vocab_size, **objective.model_settings})
    model = build(shape, seed=0)
    given = [{"sound": f"world:bell:{n}", "label": "bell"} for n in range(2)]
    given.insert(1, {"sound": str(tmp_path / "none.wav"), "label": "bell"})
    rows = examples.encoded(objective, codec, model, given, 2)
    assert len(rows) == 2 and rows.inputs == ("sound",) and rows.items[0]["sound"].shape[1] == 4 * 128
    subject = Subject.of(model, objective)
    assert subject.reads and subject.single
    found = influence.resampling(subject, rows.cut(12), draws=1)
    raw = rows.cut(12).batch(0, torch.device("cpu"))
    with torch.no_grad():
        hidden = model(objective.inputs(raw), objective.attention)
        mean = hidden[:, 1:].mean(1, keepdim=True)
        want = Said.of_logits(model.heads["classes"].logits(mean))
        assert float(want.moved(subject.says(raw))) == pytest.approx(0.0, abs=1e-6)
    assert found.nats_QT[0, 0] == 0.0 and (found.nats_QT[0, 1:] > 0).all()
    made = surfaces.draw(rows.cut(12).items[0], rows.inputs, found.nats_QT[0], tmp_path, subject)
    assert [p.name for p in made] == ["spectrogram.png"] and made[0].stat().st_size > 1000


@pytest.mark.parametrize("draw", ["patches", "series", "numbers", "ast"])
def test_what_is_drawn_of_other_inputs(draw: str, tmp_path: Path):
    random, path = np.random.default_rng(0), tmp_path / "a.png"
    if draw == "patches":
        surfaces.patches(random.random((8, 8, 3)), random.random(4), (2, 2), path)
    elif draw == "series":
        surfaces.series(random.random((6, 5)), np.zeros(6), 4, path)
    elif draw == "ast":
        surfaces.spectrogram(random.random((6, 256)), random.random(6), path, grid=(2, 3))
    else:
        surfaces.numbers(random.random((6, 5)), random.random(6), path)
    assert path.stat().st_size > 1000


# tasks as data, and during training ----------------------------------------------------------------


def test_a_run_of_a_task_is_judged_by_its_truth_and_watched_on_the_way(tmp_path: Path, monkeypatch):
    import exnihilo as xn

    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path / "cache"))
    more: dict[str, Any] = {
        "data": "recall:copy_last:8:2000", "model__context": 8, "model__depth": 1, "model__width": 32,
        "model__heads": 2, "optim__lr": 1e-2, "batch__tokens": 1024, "batch__micro_tokens": 1024,
        "compile": "off", "threads": 1, "dtype": "fp32", "eval__every": 10, "progress": False,
    }  # fmt: skip
    xn.train("recall", steps=30, run=str(tmp_path / "plain"), **more)
    xn.train("recall", steps=30, run=str(tmp_path / "watched"), eval__probe=2, **more)
    import json

    def lines(name: str, kind: str) -> list[dict[str, Any]]:
        rows = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        return [row for row in rows if row["kind"] == kind]

    told = lines("watched", "eval")
    assert all({"val_first_to_last", "val_reach"} <= row.keys() for row in told[:2])
    plain = [row["loss"] for row in lines("plain", "train")]
    assert plain == [row["loss"] for row in lines("watched", "train")]  # it leaves no trace
    figures = probe(tmp_path / "watched", texts=4, draws=1)
    truth = figures["truth"]
    assert truth["task"] == "copy_last" and truth["trusted"] == (truth["accuracy"] >= 0.9)
    assert figures["future"] == 0.0 and any("copy_last" in line for line in summary(figures))
    if truth["trusted"]:
        assert truth["hit"] == 1.0 and truth["false_positives"] < 0.05


def test_texts_of_a_task_are_its_ids_as_characters():
    task = recalls.make("needle", length=16)
    rows_NT, _ = task.rows(3)
    codec = codecs.train(CodecConfig(kind="chars"), [task.characters])
    from exnihilo.probe import faith

    told = faith.known(task, 3, 0, codec)
    for row, ids, answer in zip(rows_NT, told.rows_NT, told.answers_N, strict=True):
        assert codec.decode([*ids[1:].tolist(), int(answer)], skip_special=False) == task.text(row)
        assert ids[0] == codec.bos_id
    lesson = task.draw(np.random.default_rng([0, 1]))
    assert told.truth[1] == tuple(t + 1 for t in lesson.truth)
    assert recalls.parse("recall:needle:16") is not None and recalls.parse("books/") is None
    with pytest.raises(UsageError, match="recall:needle:x"):
        recalls.parse("recall:needle:x")
    with pytest.raises(UsageError, match="no task"):
        recalls.parse("recall:nedle")


def test_doubling_distances_hold_the_ends():
    for length in (1, 2, 3, 100):
        found = during._doubling(length)
        assert found[0] == 0 and found[-1] == length - 1 and len(set(found)) == len(found)


def test_doubts_are_named():
    base = {"total": [0.5, 0.4, 0.6], "untrained_total": [0.0, 0.0, 0.1], "texts": 8, "future": 0.0}
    assert doubts(base) == []
    assert "leaks" in doubts({**base, "future": 0.1})[0]
    assert "overlap" in doubts({**base, "total": [0.5, 0.05, 0.6]})[0]
    truth = {"trusted": False, "verdict": "the model has not learnt needle"}
    assert "not learnt" in doubts({**base, "truth": truth})[0]
