"""Killed at random moments and resumed, a run ends with the bits of one that was not (bench/resume.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "resume.py"


def test_killed_and_resumed_it_is_the_same_bit_for_bit() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--trials", "3", "--seed", "11", "--steps", "20"],
        capture_output=True,
        text=True,
        timeout=250,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows[-1]["trials"] == rows[-1]["identical"] == 3
    assert sum(len(r["cuts"]) for r in rows[:-1]) >= 3
