"""The source of rollouts: what it draws, how it scores, what it weighs, and that any step can be replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exnihilo.codec import train as train_codec
from exnihilo.config import AlarmsConfig, CodecConfig, ModelConfig, RolloutConfig, RunConfig
from exnihilo.config_layers import dump
from exnihilo.errors import ConfigError, DataError
from exnihilo.eval.graders.base import Graded
from exnihilo.model import build
from exnihilo.objective import _branches, registry
from exnihilo.objective._rl.advantages import gae, of_groups, to_go, whiten
from exnihilo.objective.rlvr import RLVR
from exnihilo.parallel.mesh import World
from exnihilo.train import facts
from exnihilo.train.gradients import step_gradients
from exnihilo.train.source import records, rows, steps
from exnihilo.train.source.base import Parts
from exnihilo.train.source.records import Drawn, Record
from exnihilo.train.source.reference import Reference
from exnihilo.train.source.replay import replay
from exnihilo.train.source.rollout import Rollouts
from exnihilo.train.source.tasks import Tasks
from exnihilo.train.source.weights import Weights

ALONE = World(0, 1, torch.device("cpu"))
CODEC = train_codec(CodecConfig(kind="bytes"), ["0123456789"])
TASKS = [
    {"prompt": [{"role": "user", "content": f"{i} and {i * 3 % 7}?"}], "answer": str(i)} for i in range(11)
]
GRADER = "regex:.*[a-zA-Z].*"  # a random model writes a letter about as often as not


def model_of(objective: RLVR, seed: int = 0, context: int = 64) -> Any:
    shape = ModelConfig(depth=2, width=32, heads=2, context=context, vocab_size=CODEC.vocab_size)
    return build(shape, heads=objective.heads, seed=seed)


@pytest.fixture
def source(tmp_path: Path) -> Any:
    made: list[Rollouts] = []

    def create(
        rollout: dict[str, Any] | None = None,
        *,
        world: World = ALONE,
        tasks: Any = None,
        context: int = 64,
        **values: Any,
    ) -> Rollouts:
        how = RolloutConfig(**{"prompts": 4, "group": 4, "max_new_tokens": 8, **(rollout or {})})
        config = RunConfig(**{"objective": "rlvr", "grader": GRADER, "rollout": how, **values})
        objective = registry.create("rlvr", config.options, length=64)
        assert isinstance(objective, RLVR)
        model = model_of(objective, context=context)
        config = config.model_copy(update={"model": model.config})
        reference = Reference(model_of(objective, 7), "a stranger") if objective.pieces.referenced else None
        found = Rollouts(
            Parts(
                config=config,
                run=tmp_path / "run",
                world=world,
                model=model,
                objective=objective,
                codec=CODEC,
                weights=Weights(model, model.config, heads=objective.heads),
                tasks=tasks or Tasks(TASKS, context=64),
                reference=reference,
            ),
            micro_rows=8,
        )
        made.append(found)
        return found

    yield create
    for one in made:
        one.close()


def batch_of(found: Rollouts, step: int = 0) -> tuple[Record, ...]:
    found.get(step)
    assert found._batch is not None
    return found._batch.records


def test_groups_share_a_prompt_stand_together_and_hold_the_stop_token(source: Any) -> None:
    found = source()
    drawn = batch_of(found)
    assert [r.group for r in drawn] == [g for g in range(4) for _ in range(4)]
    for group in records.groups(drawn):
        assert len({r.prompt for r in group}) == 1 and len({r.example for r in group}) == 1
        assert list(group[0].prompt) == found.prompts[group[0].example]
        assert len({r.completion for r in group}) > 1  # each draws with numbers of its own
    for r in drawn:
        assert len(r.completion) == len(r.mask) == len(r.logprobs) and all(r.mask)
        last = r.completion[-1]
        assert (last in found.sampler.stops) == (r.reason == "eos") == r.stopped
        assert not set(r.completion[:-1]) & found.sampler.stops
    mixed = [drawn[0], drawn[4], drawn[1]]
    with pytest.raises(DataError, match="interleaved"):
        records.groups(mixed)
    with pytest.raises(DataError, match="different prompts"):
        records.groups([drawn[0], replace(drawn[1], prompt=(1, 2))])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_and_trainer_say_the_same_at_any_temperature(source: Any, temperature: float) -> None:
    found = source({"temperature": temperature})
    step = found.get(0)
    model, objective = found.parts.model, found.objective
    told = step_gradients(model, objective, step.micros, ALONE).terms
    assert told["policy@drift"] < 1e-5
    objective.facts["temperature"] = 1.3  # one side alone: seen at once
    told = step_gradients(model, objective, step.micros, ALONE).terms
    assert told["policy@drift"] > 1e-3


def test_a_batch_is_a_function_of_weights_seed_and_step_alone(source: Any) -> None:
    want = [batch_of(source(), step) for step in (0, 3)]
    slots = source({"slots": 3})
    assert [batch_of(slots, step) for step in (0, 3)] == want
    assert batch_of(source(seed=1), 0) != want[0]
    assert {r.example for r in want[0]} != {r.example for r in want[1]}
    seen = [r.example for step in range(3) for r in batch_of(source({"group": 2, "prompts": 4}), step)[::2]]
    assert len(set(seen[:11])) == 11  # each prompt once a pass


class Half(World):
    """One of two workers, whose other half answers nothing."""

    def gather(self, value: Any) -> list[Any]:
        return [value] * 2


def test_workers_draw_what_one_worker_draws(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"prompts": 4, "updates": 2, "keep": False}
    whole = {(r.group, i % 4): r for i, r in enumerate(batch_of(source(how)))}
    halves = [batch_of(source(how, world=Half(rank, 2, torch.device("cpu")))) for rank in (0, 1)]
    assert len(halves[0]) == len(halves[1]) == 8
    for half in halves:
        for i, r in enumerate(half):
            assert whole[r.group, i % 4] == r


def test_what_is_written_is_what_was_drawn_and_any_step_can_be_replayed(source: Any) -> None:
    found = source({"prompts": 4, "updates": 2})
    run = found.parts.run
    run.mkdir(exist_ok=True)
    (run / "config.toml").write_text(dump(found.parts.config), encoding="utf-8")
    facts.write(run, "rlvr", found.objective)
    taken = {step: found.get(step) for step in range(4)}
    for step, want in taken.items():
        again = replay(run, step)
        assert np.array_equal(again.step.rows, want.rows) and again.step.tokens == want.tokens
        assert len(again.step.micros) == len(want.micros)
        for a, b in zip(again.step.micros, want.micros, strict=True):
            assert a.batch.keys() == b.batch.keys()
            assert all(torch.equal(a.batch[k], b.batch[k]) for k in a.batch)
    assert replay(run, 3).records == batch_of(found, 3)
    with pytest.raises(DataError, match="no rollouts of step 9"):
        replay(run, 9)
    with pytest.raises(DataError, match="no run folder"):
        replay(run / "nothing", 0)
    path = records.path_of(run / "rollouts", 0)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="no file of rollouts"):
        replay(run, 0)


def test_a_step_has_its_share_of_the_groups_and_only_the_first_is_fresh(source: Any) -> None:
    found = source({"prompts": 4, "updates": 2})
    first, second = found.get(0), found.get(1)
    assert len(first.rows) == len(second.rows) == 2 and found.rows_per_step == 8
    assert all("fresh" in m.batch for m in first.micros)
    assert not any("fresh" in m.batch for m in second.micros)


def test_how_rows_are_laid_out_changes_neither_loss_nor_gradient(source: Any) -> None:
    found = source({"prompts": 3, "group": 5, "max_new_tokens": 12})
    drawn = Drawn(0, 0, batch_of(found))
    model, objective = found.parts.model, found.objective

    def gradient(layout: rows.Layout) -> tuple[float, torch.Tensor]:
        step = steps.step_of(drawn, 0, found.how, objective, layout)
        model.zero_grad()
        told = step_gradients(model, objective, step.micros, ALONE)
        return told.loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    base = found.layout
    loss, want = gradient(replace(base, share=False, micro_tokens=10**6))
    for changed in (
        {"share": True},
        {"micro_tokens": 1},
        {"share": True, "micro_tokens": 1},
        {"micro_tokens": 100},
    ):
        other, got = gradient(replace(base, **changed))
        assert other == pytest.approx(loss, abs=1e-5)
        assert float((got - want).abs().max()) <= 1e-5 * max(1.0, float(want.abs().max()))


def test_long_prompts_are_shared_and_short_ones_are_not() -> None:
    layout = rows.Layout(width=64, micro_tokens=4096)
    assert rows.together(100, [8] * 8, layout) == 8 and rows.together(3, [64] * 8, layout) == 1


def test_micro_batches_of_like_lengths_waste_little() -> None:
    lengths = sorted(np.random.default_rng(0).integers(5, 200, 64).tolist())
    ends = rows.cuts(lengths, 2000)
    parts = [lengths[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    assert sum(map(len, parts)) == 64 and all(part[-1] * len(part) <= 2000 for part in parts)
    padded = sum(part[-1] * len(part) for part in parts)
    assert padded < 1.3 * sum(lengths) < 64 * lengths[-1]
    assert rows.cuts([5000], 2000) == [1]  # one row is never cut


def test_the_figures_are_counted_from_the_records(source: Any) -> None:
    found = source()
    drawn = batch_of(found)
    told = found.report(0)
    assert told["reward"] == pytest.approx(np.mean([r.reward for r in drawn]))
    assert told["pass@1"] == pytest.approx(np.mean([r.right for r in drawn]))
    assert told["pass@k"] == pytest.approx(np.mean([any(r.right for r in g) for g in records.groups(drawn)]))
    assert told["length"] == pytest.approx(np.mean([len(r.completion) for r in drawn]))
    assert told["stop_rate"] == pytest.approx(np.mean([r.reason == "eos" for r in drawn])) == 1 - told["cut"]
    flat = [len({r.reward for r in g}) == 1 for g in records.groups(drawn)]
    assert told["zero_variance"] == pytest.approx(np.mean(flat))
    for group, same in zip(records.groups(drawn), flat, strict=True):
        assert not same or all(not any(r.columns["advantage"]) for r in group)


def test_dynamic_sampling_replaces_groups_without_spread(source: Any) -> None:
    plain, dynamic = source(), source(options={"preset": "dapo"})
    before = [len({r.right for r in g}) for g in records.groups(batch_of(plain))]
    drawn = batch_of(dynamic)
    assert [r.group for r in drawn] == [g for g in range(4) for _ in range(4)]
    after = [len({r.right for r in g}) for g in records.groups(drawn)]
    assert sum(n == 2 for n in after) >= sum(n == 2 for n in before)
    for was, now, a, b in zip(
        before, after, records.groups(batch_of(plain)), records.groups(drawn), strict=True
    ):
        assert was == 1 or [r.completion for r in a] == [r.completion for r in b] and now == 2
    assert dynamic.report(0)["replaced"] > 0 or min(before) == 2
    assert batch_of(source(options={"preset": "dapo"})) == drawn
    never = source(
        {"rounds": 3}, options={"preset": "dapo", "overlong": 0}, grader="exact"
    )  # nothing is ever right
    assert never.get(0).micros and never.report(0)["zero_variance"] == 1
    assert never.report(0)["replaced"] == 2  # of each place, in the two rounds after the first


def test_what_cannot_be_graded_never_scores(source: Any, tmp_path: Path) -> None:
    tasks = Tasks([{"prompt": "2+2?", "answer": "none of the above"}, {"prompt": "3+3?"}], context=64)
    found = source({"prompts": 2}, tasks=tasks, grader="number")
    assert all(r.reward == 0 and not r.right and r.error for r in batch_of(found))
    assert found.report(0)["grader_errors"] == 8 and found.report(0)["zero_variance"] == 1
    own = tmp_path / "own.py"
    own.write_text(
        "def grade(example, completion):\n    return float('nan') if len(completion) % 2 else 1.0\n"
    )
    found = source(grader=f"{own}:grade", alarms=AlarmsConfig(grader="exact"))
    for r in batch_of(found):
        assert (r.reward, bool(r.error)) == ((0.0, True) if len(r.text) % 2 else (1.0, False))
    assert found.report(0)["independent"] == 0


def test_a_grader_that_fails_is_said_with_its_reasons_and_rows(
    source: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("def grade(example, completion):\n    return float('nan')\n")
    tasks = Tasks([{**t, "_at": f"line {i + 1}", "_index": i} for i, t in enumerate(TASKS)], context=64)
    found = source({"group": 2}, tasks=tasks, grader=f"{tmp_path / 'bad.py'}:grade")
    drawn = batch_of(found)
    said = capfd.readouterr().err
    n = len(drawn)
    assert all(r.reward == 0 and not r.right and "nan" in r.error for r in drawn)
    assert (
        f"{n} of {n} completions so far have no score, and count as 0: {n} returned nan (first: line" in said
    )
    found.close()
    assert "in all" not in capfd.readouterr().err  # nothing has come since
    for _ in range(3):
        found.troubles.add([Graded(None, f"raised {i}", failed=True) for i in range(20)], [{}] * 20)
    found.troubles.close()
    said = capfd.readouterr().err
    assert f"{n + 60} of {n + 60} completions in all" in said and "other reasons" in said


def test_parts_of_a_reward_and_what_length_adds(source: Any) -> None:
    spec = f"{GRADER}*1,length*-0.01"
    found = source(
        {"max_new_tokens": 10}, grader=spec, options={"preset": "dapo", "dynamic": False, "brevity": 0.5}
    )
    drawn = batch_of(found)
    for group in records.groups(drawn):
        n = np.array([len(r.completion) for r in group])
        held = n[[r.right for r in group]]
        spread = float(np.ptp(held)) if len(held) else 0.0
        for r, size in zip(group, n, strict=True):
            assert r.parts["overlong"] == (0 if size <= 8 else (8 - size) / 2)
            lam = 0.5 - (size - held.min()) / spread if spread and r.right else 0.0
            assert r.parts["brevity"] == pytest.approx(0.5 * lam)
            names = [k for k in r.parts if k not in ("overlong", "brevity")]
            graded = sum(w * r.parts[k] for w, k in zip((1, -0.01), names, strict=True))
            assert r.reward == pytest.approx(graded + r.parts["overlong"] + r.parts["brevity"])
    assert any(k.startswith("reward_") for k in found.report(0))


def _ref(found: Rollouts, r: Record) -> np.ndarray:
    """Log-probabilities under the reference, each completion alone."""
    assert found.parts.reference is not None
    laid = _branches.lay(r.prompt, [r.completion])
    batch = {k: torch.from_numpy(np.asarray(v))[None] for k, v in laid.items()}
    with torch.no_grad():
        return _branches.token_logps(found.parts.reference.model, batch)[0, -len(r.completion) :].numpy()


def test_a_divergence_in_the_reward_and_one_in_the_loss(source: Any) -> None:
    found = source(options={"preset": "rloo", "beta": 0.1})
    drawn = batch_of(found)
    gaps = [np.array(r.columns["old_logp"]) - _ref(found, r) for r in drawn]
    shaped = np.array([r.reward for r in drawn]) - [0.1 * g.sum() for g in gaps]
    want = of_groups("loo", shaped, np.array([r.group for r in drawn]))
    for r, a in zip(drawn, want, strict=True):
        np.testing.assert_allclose(r.columns["advantage"], a, atol=1e-5)
    found = source(options={"preset": "reinforce_pp", "beta": 0.1})
    drawn = batch_of(found)
    raw = [to_go(r.reward, 0.1 * (np.array(r.columns["old_logp"]) - _ref(found, r))) for r in drawn]
    white = whiten(np.concatenate(raw), np.ones(sum(map(len, raw))))
    got = np.concatenate([r.columns["advantage"] for r in drawn])
    np.testing.assert_allclose(got, white, atol=1e-4)
    found = source(options={"preset": "grpo", "beta": 0.04})
    for r in batch_of(found):
        np.testing.assert_allclose(r.columns["ref_logp"], _ref(found, r), atol=1e-5)
    assert all("ref_logp" in m.batch for m in found.get(0).micros)
    told = step_gradients(found.parts.model, found.objective, found.get(0).micros, ALONE).terms
    assert told["policy@ref"] > 0


def test_the_critics_values_targets_and_gradient(source: Any) -> None:
    found = source(options={"preset": "ppo", "gamma": 0.9, "lam": 0.8})
    model = found.parts.model
    with torch.no_grad():
        for p in model.heads["value"].parameters():
            p.normal_()
    for r in batch_of(found):
        ids = torch.tensor([[*r.prompt, *r.completion]])
        with torch.no_grad():
            value = model.heads["value"].logits(model({"tokens": ids}))[0].numpy()
        value = value[len(r.prompt) - 1 : -1]  # V of what stands before each token
        np.testing.assert_allclose(r.columns["value"], value, atol=1e-4)
        gained = np.array([0.0] * (len(value) - 1) + [r.reward])
        want = gae(gained, value, gamma=0.9, lam=0.8)
        np.testing.assert_allclose(r.columns["advantage"], want, atol=1e-4)
        np.testing.assert_allclose(r.columns["target"], want + value, atol=1e-4)
    model.zero_grad()
    told = step_gradients(model, found.objective, found.get(0).micros, ALONE)
    errors = [np.square(np.subtract(r.columns["value"], r.columns["target"])) for r in batch_of(found)]
    assert told.terms["value"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-3)
    assert any(bool(p.grad.any()) for p in model.heads["value"].parameters() if p.grad is not None)


def test_shuffled_rewards_are_the_same_rewards_elsewhere(source: Any) -> None:
    plain, shuffled = batch_of(source()), batch_of(source(options={"shuffle": True}))
    assert [r.completion for r in plain] == [r.completion for r in shuffled]
    assert [r.right for r in plain] == [r.right for r in shuffled]
    assert sorted(r.reward for r in plain) == sorted(r.reward for r in shuffled)
    assert [r.reward for r in plain] != [r.reward for r in shuffled]


def test_completions_that_were_cut_can_be_left_out(source: Any) -> None:
    found = source({"max_new_tokens": 2}, options={"skip_cut": True})
    cut = sum(len(r.completion) for r in batch_of(found) if not r.stopped)
    kept = sum(len(r.completion) for r in batch_of(found) if r.stopped)
    assert cut and sum(int(m.batch["mask"].sum()) for m in found.get(0).micros) == kept


def test_prompts_without_room_are_left_out_and_named(source: Any, capfd: pytest.CaptureFixture[str]) -> None:
    tasks = Tasks([{"prompt": "x" * 200}, *TASKS, {"prompt": "y" * 99}], context=64)
    found = source(tasks=tasks)
    assert "2 prompts leave no room to answer in 64 positions: number 1, number 13" in capfd.readouterr().err
    assert {r.example for step in range(3) for r in batch_of(found, step)} == set(range(1, 12))
    with pytest.raises(DataError, match="none of 1 prompts"):
        source(tasks=Tasks([{"prompt": "x" * 200}], context=64))


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"prompts": 2, "updates": 3}, {}, "rollout.updates"),
    ({"group": 1}, {}, "rollout.group=1"),
    ({}, {"grader": ""}, "grader"),
]


@pytest.mark.parametrize(("rollout", "values", "match"), REFUSED)
def test_settings_that_contradict_each_other_are_refused(
    source: Any, rollout: dict[str, Any], values: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        source(rollout, **values)


def test_a_calculator_answers_within_a_rollout(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that calls the tool, then says what it was told; nothing of the tool's turn is trained on."""
    from exnihilo.infer.request import Completion
    from exnihilo.train.source import sampler, turns

    end = CODEC.token_id("<|im_end|>")

    def said(text: str) -> Completion:
        ids = [*CODEC.encode(text), end]
        return Completion(ids, [-1.0] * len(ids), [-1.0] * len(ids), "eos", [-1.0] * len(ids))

    def first(self: Any, model: Any, prompts: Any, examples: Any, *, seed: int, places: Any) -> Any:
        return [[said("<calculator>6*7</calculator>") for _ in range(self.how.group)] for _ in prompts]

    def then(self: Any, model: Any, starts: Any, left: Any, *, seed: int, numbers: Any) -> Any:
        return [said("42") for _ in starts]

    monkeypatch.setattr(sampler.Own, "draw", first)
    monkeypatch.setattr(sampler.Own, "go_on", then)
    tasks = Tasks([{"prompt": "6*7?", "answer": "42"}], context=256)
    found = source(
        {"prompts": 1, "max_new_tokens": 60}, tasks=tasks, grader="exact", environment="calculator",
        context=256,
    )  # fmt: skip
    assert isinstance(found.sampler, turns.Turns)
    for r in batch_of(found):
        assert r.right and r.text == "42"
        kept = [i for i, m in zip(r.completion, r.mask, strict=True) if m]
        assert kept == [*CODEC.encode("<calculator>6*7</calculator>"), end, *CODEC.encode("42"), end]
        assert 0 in r.mask and sum(r.mask) == len(kept)
    masks = [m.batch["mask"].sum() for m in found.get(0).micros]
    assert sum(int(m) for m in masks) == sum(sum(r.mask) for r in batch_of(found))


def test_ids_that_the_tokenizer_does_not_have_are_no_text(source: Any) -> None:
    from exnihilo.infer.request import Completion

    found, spare = source(), CODEC.vocab_size + 3
    ids = [*CODEC.encode("a"), spare, *CODEC.encode("b"), CODEC.token_id("<|im_end|>")]
    assert found.sampler.text(Completion(ids, [], [], "eos", [])) == "ab"


def test_a_run_goes_through_it_and_its_row_has_the_figures(tmp_path: Path) -> None:
    """End to end, through the loop: the row of metrics, the files, and a replay of a step."""
    from exnihilo.interop import hf
    from exnihilo.train import run

    objective = registry.create("rlvr")
    assert isinstance(objective, RLVR)
    hf.save(model_of(objective), CODEC, tmp_path / "base")
    data = tmp_path / "tasks.jsonl"
    asked: Callable[[int], str] = lambda i: f"{i} and {i}?"  # noqa: E731
    data.write_text("".join(json.dumps({"prompt": asked(i), "answer": str(i)}) + "\n" for i in range(40)))
    config = RunConfig(
        recipe="rlvr",
        objective="rlvr",
        run=str(tmp_path / "run"),
        init=str(tmp_path / "base"),
        data=str(data),  # type: ignore[arg-type]
        grader=GRADER,
        rollout=RolloutConfig(prompts=3, group=3, max_new_tokens=5),
        steps=2,
        device="cpu",
        compile="off",
        threads=1,
    )
    run(config, progress=False)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [x for x in lines if x["kind"] == "train"]
    wanted = {
        "reward",
        "pass@1",
        "pass@k",
        "entropy",
        "length",
        "stop_rate",
        "zero_variance",
        "clip",
        "kl",
        "drift",
    }
    assert len(told) == 2 and all(wanted <= x.keys() for x in told)
    assert all(x["drift"] < 1e-4 for x in told)
    for step in range(2):
        again = replay(tmp_path / "run", step)
        assert len(again.records) == 9 and again.step.micros
