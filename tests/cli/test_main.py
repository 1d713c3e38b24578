"""The command line from outside: exit codes, one clear error, JSON on the last line, a quick --help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exnihilo.cli import main
from exnihilo.cli.main import plain
from exnihilo.cli.parse import Arguments, Verb
from exnihilo.cli.verbs import VERBS
from exnihilo.errors import DataError


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "exnihilo", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}, check=False
    )


def test_help_is_quick_and_leaves_torch_alone() -> None:
    code = (
        # the processor's time, which other work on the machine does not lengthen
        "import sys, time; t = time.process_time(); from exnihilo.cli import main; main(['--help']); "
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules; print(time.process_time() - t)"
    )
    best = min(
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout.split()[-1]
        )
        for _ in range(3)
    )
    assert best < 0.5


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_has_a_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    page = capsys.readouterr().out
    assert f"usage: exnihilo {name}" in page
    for option in VERBS[name].options:
        assert f"{option}=" in page
    assert main(["help", name]) == 0


def test_no_words_show_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("exnihilo 0.")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", "gtp"], "did you mean 'gpt'?"),
        (["train", "gpt", "--minuts", "3"], "did you mean 'minutes'?"),
        (["train", "gpt", "modle.depth=3"], "did you mean 'model.depth'?"),
        (["train", "gpt", "minutes=ten"], "a number, above 0"),
        (["train", "--resume"], "run=DIR"),
        (["export", "runs/x"], "out=DIR"),
        (["sample"], "exnihilo sample RUN"),
        (["compare", "runs/x"], "no other RUN given"),
        (["tokenizer", "sow"], "exnihilo tokenizer show DIR"),
        (["predict", "runs/x", "text", "--file", "a.csv"], "a text ('text') and a file (a.csv)"),
        (["report", "no/such/folder"], "a run folder"),
    ],
)
def test_wrong_use_is_one_error_and_exit_code_2(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("error: ") and seen.err.count("error: ") == 1
    assert hint in seen.err and "Traceback" not in seen.err
    assert "\n  expected: " in seen.err and "\n  next: " in seen.err


def _patched(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(a: Arguments) -> None:
        raise error

    monkeypatch.setitem(VERBS, "recipes", Verb("recipes", "", "exnihilo recipes", fail))


def test_failure_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _patched(monkeypatch, DataError("x.txt is empty", expected="text", next="check data="))
    assert main(["recipes"]) == 1
    assert capsys.readouterr().err == "error: x.txt is empty\n  expected: text\n  next: check data=\n"


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    _patched(monkeypatch, DataError("x"))
    monkeypatch.setenv("EXNIHILO_DEBUG", "1")
    with pytest.raises(DataError):
        main(["recipes"])


def test_interrupt_is_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _patched(monkeypatch, KeyboardInterrupt())
    assert main(["recipes"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_json_is_the_only_thing_on_stdout() -> None:
    done = run("recipes", "--json")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 1 and "gpt" in json.loads(lines[0])["recipes"]
    assert "gpt" in done.stderr


def test_red_only_on_a_terminal() -> None:
    done = run("nonsense")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_dry_run_shows_every_key_with_its_origin_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "gpt",
        "--dry-run",
        "--json",
        "model.depth=1",
        "model.context=16",
        "batch.tokens=32",
        "steps=3",
    ]
    assert main([*words, "codec.vocab_size=64", "threads=1"]) == 0
    seen = capsys.readouterr()
    figures = json.loads(seen.out.splitlines()[-1])
    assert "depth = 1 # command line" in seen.err
    assert figures["origins"]["model.depth"] == "command line"
    assert figures["plan"]["steps"] == 3 and figures["plan"]["tokens"] == 96
    assert list(tmp_path.iterdir()) == []


def test_plain_makes_any_figure_json() -> None:
    import numpy as np

    given = {
        "a": float("nan"),
        "b": Path("x"),
        "c": (1, 2),
        "d": np.float32(0.5),
        "e": np.array([1, 2]),
        3: None,
    }
    assert json.loads(json.dumps(plain(given), allow_nan=False)) == {
        "a": None, "b": "x", "c": [1, 2], "d": 0.5, "e": [1, 2], "3": None
    }  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_cleanly() -> None:
    code = (
        "import time, sys\nfrom exnihilo.cli import main\nfrom exnihilo.cli.parse import Verb\n"
        "from exnihilo.cli.verbs import VERBS\n"
        "def wait(a):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "VERBS['recipes'] = Verb('recipes', '', '', wait)\nsys.exit(main(['recipes']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a shell starts what runs behind it deaf to Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
