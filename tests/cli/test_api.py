"""The public surface: thin, and pinned here. A change of it is a decision, made in this file."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import exnihilo as xn
from exnihilo import api, environment
from exnihilo.cli.verbs import VERBS
from exnihilo.errors import UsageError

ROOT = Path(__file__).parents[2]

SURFACE = {
    "train": "(recipe=None, *, resume=False, force=False, overlay=None, overrides=(), progress=True, "
    "**settings)",
    "plan": "(recipe='gpt', *, overlay=None, overrides=(), measure=True, **settings)",
    "doctor": "(recipe, *, max_examples=None, samples=3, overlay=None, overrides=(), **settings)",
    "load": "(run, *, device='auto')",
    "predict": "(run, examples=None, *, file=None, out=None, resume=False, force=False, fields=None, "
    "top_k=None, batch_tokens=None, device='auto', progress=True)",
    "sample": "(run, prompt='', *, n=1, max_new_tokens=128, temperature=1.0, top_k=None, top_p=None, "
    "min_p=None, seed=0, stop=(), device='auto')",
    "stream": "(run, prompt='', *, max_new_tokens=128, temperature=1.0, top_k=None, top_p=None, min_p=None, "
    "seed=0, stop=(), device='auto')",
    "chat": "(run, *, system='', device='auto', **sampling)",
    "eval": "(run, *, data=None, max_tokens=None, max_examples=None, device='auto', dtype='fp32', "
    "grader='', suite='', overrides=(), progress=True, **replies)",
    "probe": "(run, *, data=None, text=None, texts=8, length=None, draws=2, block=1, seed=0, device='auto', "
    "out=None)",
    "export": "(run, *, to='hf', out, dtype=None, force=False)",
    "import_": "(source, *, out, force=False)",
    "serve": "(runs, *, started=None, **settings)",
    "recipes": "()",
    "tokenizer": "(action, path=None, *, out=None, overrides=(), **settings)",
    "lr_find": "(recipe='gpt', *, low=1e-05, high=1.0, trials=60, out=None, overlay=None, overrides=(), "
    "**settings)",
    "report": "(run, *, out=None)",
    "compare": "(runs, *, out=None)",
    "world": "(view='scenes', *, out, count=200, start=0, kind=None, size=64, rate=16000, force=False)",
    "quickstart": "(*, data=None, minutes=None, run=None, seed=0, device='auto', force=False, encoder=False)",
}


def bare(signature: inspect.Signature) -> str:
    kept = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(kept))


def test_names_and_signatures_are_pinned() -> None:
    assert set(xn.__all__) == {*SURFACE, "ExNihiloError"}
    assert {name: bare(inspect.signature(getattr(xn, name))) for name in SURFACE} == SURFACE


def test_command_line_and_python_have_the_same_verbs() -> None:
    spelled = {name.replace("-", "_") + ("_" if name == "import" else "") for name in VERBS}
    assert spelled == set(SURFACE) - {"load", "stream"}
    assert all(inspect.getdoc(getattr(api, name)) for name in SURFACE)


def test_importing_the_package_leaves_torch_alone() -> None:
    code = "import exnihilo as xn, sys; assert 'torch' not in sys.modules; print(sorted(xn.recipes()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "gpt" in done.stdout


def test_a_verb_stays_a_verb_when_its_room_is_imported() -> None:
    code = (
        "import exnihilo as xn\nassert callable(xn.recipes)\nbefore = xn.recipes()\n"
        "import exnihilo.recipes.gpt\nimport exnihilo.report.plot as p\nfrom exnihilo import report\n"
        "assert xn.recipes() == before and callable(report) and report.plot is p\n"
        "import inspect; assert 'run' in inspect.signature(xn.report).parameters\n"
        "assert exnihilo.recipes.gpt.recipe().recipe == 'gpt'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_versions_agree() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert xn.__version__ == declared


def test_every_recipe_has_a_description() -> None:
    assert all(len(text) > 20 for text in xn.recipes().values())


def test_errors_are_one_family() -> None:
    with pytest.raises(xn.ExNihiloError):
        xn.train("gpt", minuts=3)
    with pytest.raises(UsageError, match="run=DIR"):
        xn.train(resume=True)
    with pytest.raises(UsageError, match="does not exist"):
        xn.train(resume=True, run="no/such/run")


def test_threads_are_counted_by_what_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_quota", lambda: 1)
    assert environment.cores() == 1
    monkeypatch.setattr(environment, "_quota", lambda: None)
    assert environment.cores() >= 1


def test_the_environment_is_set_before_torch_and_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for idle, spins in ((True, "2000"), (False, None)):
        for name in names:
            monkeypatch.setenv(name, "")  # so that what is set here does not outlive the test
            monkeypatch.delenv(name)
        monkeypatch.setattr(environment, "quiet", lambda idle=idle: idle)
        environment.prepare()
        assert (os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT")) == ("PASSIVE", spins)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    environment.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ
