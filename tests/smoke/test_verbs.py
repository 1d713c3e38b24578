"""Every verb once, on a tiny run: what it prints, what it leaves, what it returns."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import exnihilo as xn
from exnihilo.cli import main
from exnihilo.config import RunConfig
from exnihilo.config_layers import load
from exnihilo.errors import ExNihiloError, ModelError, UsageError
from exnihilo.plan import budget, duration, make, size, sized, table
from exnihilo.report.folder import open_run

Capture = pytest.CaptureFixture[str]


def last(capsys: Capture) -> dict:
    """The one line of standard output, as JSON."""
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_train_leaves_a_run_folder(trained: Path) -> None:
    for name in ("config.toml", "env.json", "data.json", "metrics.jsonl", "model.safetensors", "config.json",
                 "tokenizer.json", "tokenizer_config.json", "generation_config.json"):  # fmt: skip
        assert (trained / name).is_file(), name
    run = open_run(trained)
    assert run.train["step"] == [1, 2, 3, 4, 5, 6]
    assert run.train["loss"][-1] < run.train["loss"][0]
    assert "depth = 1 # command line" in run.config_text
    assert run.config is not None and run.config.steps == 6


def test_train_refuses_a_folder_that_holds_a_run(trained: Path, corpus: Path, capsys: Capture) -> None:
    before = (trained / "model.safetensors").read_bytes()
    assert main(["train", "gpt", f"data={corpus}", "steps=1", f"run={trained}"]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (trained / "model.safetensors").read_bytes() == before


def test_resume_takes_the_settings_from_the_folder(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "again"
    shutil.copytree(trained, run)
    assert main(["train", "--resume", f"run={run}", "steps=8", "--force", "--json"]) == 0
    assert last(capsys)["step"] == 8
    assert open_run(run).train["step"] == list(range(1, 9))


def test_sample_streams_and_repeats(trained: Path, capsys: Capture) -> None:
    words = [
        "sample",
        str(trained),
        "The fox",
        "max_new_tokens=12",
        "seed=3",
        "temperature=0.8",
        "device=cpu",
    ]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.startswith("The fox")
    assert main([*words, "--json"]) == 0
    assert "The fox" + last(capsys)["texts"][0] + "\n" == first
    texts = xn.sample(trained, "The fox", n=3, max_new_tokens=12, seed=3, temperature=0.8, device="cpu")
    assert "The fox" + texts[0].text + "\n" == first
    assert len({generation.text for generation in texts}) > 1
    pieces = list(xn.stream(trained, "The fox", max_new_tokens=12, seed=3, temperature=0.8, device="cpu"))
    assert "".join(pieces) == texts[0].text


def test_sample_of_several(trained: Path, capsys: Capture) -> None:
    assert main(["sample", str(trained), "n=2", "max_new_tokens=4", "--prompt", "A dog", "--json"]) == 0
    figures = last(capsys)
    assert len(figures["texts"]) == 2 and figures["prompt"] == "A dog"
    assert main(["sample", str(trained), "x", "prompt=y"]) == 2


def test_eval_on_its_own_split_and_on_other_files(trained: Path, corpus: Path, capsys: Capture) -> None:
    assert main(["eval", str(trained), "--json", "device=cpu"]) == 0
    own = last(capsys)
    logged = open_run(trained).val["val_loss"][-1]
    assert own["loss"] == pytest.approx(logged, rel=1e-4)
    assert own["split"] == "validation" and own["bpb"] > 0
    assert main(["eval", str(trained), f"data={corpus}", "--json", "device=cpu"]) == 0
    other = last(capsys)
    assert other["split"] == "given" and other["tokens"] > own["tokens"]
    mixed = xn.eval(
        trained, data=[str(corpus / "1.txt"), str(corpus / "2.txt")], device="cpu", progress=False
    )
    assert mixed["loss@1"] > 0 and mixed["loss@2"] > 0
    with pytest.raises(ExNihiloError, match="absent"):
        xn.eval(trained, data=corpus / "absent.txt", progress=False)


def test_export_proves_itself(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "hf"
    assert main(["export", str(trained), "--to", "hf", "--out", str(out), "--json"]) == 0
    proof = last(capsys)
    assert proof["proved"] and proof["checks"]["logits"]["max_difference"] <= 1e-4
    assert proof["checks"]["tokenizer"]["same_ids"] == proof["checks"]["tokenizer"]["texts"]
    assert proof["inputs"].endswith("of the run's own data")
    if find_spec("transformers"):
        assert proof["checks"]["greedy"]["held"] and proof["checks"]["transformers_logits"]["held"]
    assert json.loads((out / "proof.json").read_text())["proved"]
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]
    assert main(["export", str(trained), "--to", "hf", "--out", str(out)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_export_in_bf16_is_what_was_rounded(trained: Path, tmp_path: Path) -> None:
    proof = xn.export(trained, out=tmp_path / "half", dtype="bf16")
    assert proof["proved"] and proof["dtype"] == "bf16"
    whole = (trained / "model.safetensors").stat().st_size
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.7 * whole


def test_export_that_is_not_equal_writes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exnihilo.interop import hf

    right = hf.save

    def wrong(model: object, *args: object, **more: object) -> None:
        import torch

        with torch.no_grad():
            next(model.parameters()).mul_(1.5)  # type: ignore[attr-defined]
        right(model, *args, **more)  # type: ignore[arg-type]
        with torch.no_grad():
            next(model.parameters()).div_(1.5)  # type: ignore[attr-defined]

    monkeypatch.setattr(hf, "save", wrong)
    with pytest.raises(ModelError, match="not equal"):
        xn.export(trained, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_import_of_an_export_is_a_run(trained: Path, tmp_path: Path) -> None:
    xn.export(trained, out=tmp_path / "hf")
    run = xn.import_(tmp_path / "hf", out=tmp_path / "run")
    a = xn.sample(run, "The", temperature=0, max_new_tokens=8, device="cpu")[0]
    b = xn.sample(trained, "The", temperature=0, max_new_tokens=8, device="cpu")[0]
    assert a.ids == b.ids
    with pytest.raises(UsageError, match="no folder"):
        xn.import_(tmp_path / "absent", out=tmp_path / "x")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(ModelError, match="mamba"):
        xn.import_(tmp_path / "hf", out=tmp_path / "y")


def test_report_and_compare(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    page = xn.report(trained, out=tmp_path / "page.html")
    assert "data:image/png;base64," in page.read_text(encoding="utf-8")
    assert main(["compare", str(trained), str(trained), "--json", f"--out={tmp_path / 'c.png'}"]) == 0
    assert len(last(capsys)["runs"]) == 2 and (tmp_path / "c.png").is_file()


def test_tokenizer_trains_and_shows(corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["tokenizer", "train", f"data={corpus}", f"out={tmp_path / 'tok'}", "codec.vocab_size=280"]
    assert main([*words, "--json"]) == 0
    made = last(capsys)
    assert made["vocab_size"] == 280
    assert main(words) == 2  # never over one that models were trained with
    capsys.readouterr()
    assert main(["tokenizer", "show", str(tmp_path / "tok"), "The old fox é", "--json"]) == 0
    shown = last(capsys)
    assert (
        shown["hash"] == made["hash"] and len(shown["ids"]) == len(shown["pieces"]) and shown["bytes"] == 14
    )
    assert main(["tokenizer", "shwo"]) == 2
    assert main([*words[:3], f"out={tmp_path / 'b'}", "model.depth=3"]) == 2
    assert "model.depth has no effect" in capsys.readouterr().err


def test_lr_find_suggests_a_rate(corpus: Path, tmp_path: Path) -> None:
    small = [
        "model.depth=1",
        "model.width=32",
        "model.context=32",
        "codec.vocab_size=300",
        "batch.tokens=128",
    ]
    more = ["threads=1", "device=cpu"]
    curve = xn.lr_find("gpt", data=str(corpus), trials=8, out=tmp_path / "lr.png", overrides=[*small, *more])
    assert 1e-6 < curve.suggestion < 1
    assert (tmp_path / "lr.png").read_bytes()[:4] == b"\x89PNG"


SMALL = [
    "model.depth=2",
    "model.width=32",
    "model.heads=2",
    "model.context=32",
    "codec.vocab_size=300",
    "batch.tokens=128",
]


def test_plan_counts_what_training_makes(trained: Path) -> None:
    import torch

    from exnihilo.model import build, resolve

    config, _ = load("gpt", [*SMALL, "steps=10", "device=cpu"])
    plan = make(config, measure=False)
    model = build(resolve(config.model, 300))
    count = sum({p.data_ptr(): p.numel() for p in model.parameters()}.values())
    assert plan.parameters == count and plan.weight_bytes == 4 * count
    assert (plan.steps, plan.tokens) == (10, 1280) and plan.seconds is None
    from exnihilo.optim import create

    optimizer = create(model, config.optim, resolve(config.model, 300))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = [
        v for entry in optimizer.state.values() for v in entry.values() if torch.is_tensor(v) and v.dim()
    ]
    assert plan.optimizer_bytes == sum(v.numel() * v.element_size() for v in state)


def test_plan_and_sweep_begin_where_init_says(trained: Path, corpus: Path) -> None:
    config, _ = load("gpt", [f"init={trained}", "steps=3", "device=cpu"])
    plan = make(config, measure=False)
    assert (plan.depth, plan.width, plan.context) == (1, 32, 32) and str(trained) in plan.vocab_note
    more = ["batch.tokens=128", "threads=1", "device=cpu"]
    cold = xn.lr_find("gpt", data=str(corpus), trials=5, overrides=[*SMALL, *more[1:]])
    warm = xn.lr_find("gpt", data=str(corpus), trials=5, overrides=[*more, f"init={trained}"])
    assert warm.losses[0] < cold.losses[0] - 0.3


def test_a_plan_has_the_size_that_its_minutes_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    from exnihilo.train import fitting

    monkeypatch.setattr(fitting, "machine", lambda *_: 1e8)
    for recipe, family in (("gpt", "qwen3"), ("bert", "bert")):
        config, origins = load(recipe, ["minutes=1", "device=cpu", "threads=1", "codec.kind=bytes"])
        small, marks = sized(config, origins)
        assert (small.model.depth, small.model.width, small.model.heads) == (2, 128, 2)
        assert small.batch.tokens == 512 and marks["model.depth"] == fitting.FITTED
        plan = make(small, measure=False)
        assert (plan.depth, plan.width, plan.step_tokens) == (2, 128, 512)
        assert plan.vocab_note == "bytes and special tokens" and small.model.family == family
    config, origins = load("gpt", ["minutes=1", "model.depth=6", "device=cpu"])
    assert sized(config, origins) == (config, origins)


def test_plan_measures(capsys: Capture) -> None:
    config, _ = load("gpt", [*SMALL, "minutes=1", "device=cpu", "threads=1"])
    plan = make(config)
    assert plan.tokens_per_second and plan.mfu and 0 < plan.mfu < 1.2
    assert plan.tokens == pytest.approx(60 * plan.tokens_per_second, rel=0.05, abs=128)
    assert plan.activation_bytes and plan.activation_bytes > 0
    text = table(plan)
    assert f"{plan.parameters:,}" in text and "tokens/s" in text
    json.dumps(plan.figures())


@pytest.mark.parametrize(
    ("settings", "speed", "expected"),
    [
        ({"steps": 5}, None, (5, 500, None)),
        ({"tokens": 450}, 100.0, (5, 500, 5.0)),
        ({"minutes": 1.0}, 100.0, (60, 6000, 60.0)),
        ({"minutes": 1.0, "steps": 5}, 100.0, (5, 500, 5.0)),
        ({"minutes": 1.0}, None, (None, None, 60.0)),
        ({"minutes": 1.0, "steps": 5}, None, (None, None, None)),
    ],
)
def test_budget_is_whichever_ends_first(settings: dict, speed: float | None, expected: tuple) -> None:
    assert budget(RunConfig(**settings), 100, speed) == expected


def test_words_for_sizes_and_times() -> None:
    assert [size(x) for x in (12, 1500, 2.5e6, 3e9)] == ["12 bytes", "1.5 kB", "2.5 MB", "3 GB"]
    assert [duration(x) for x in (5, 65, 7500)] == ["5 s", "1 min 05 s", "2 h 05 min"]
