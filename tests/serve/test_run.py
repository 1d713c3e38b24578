"""The command: its address, signals under load, Ctrl-C, SIGHUP, what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ENDLESS = {"2": -100, "4": -100}  # no end of a text, no end of a turn
TEXT = {"model": "talk", "prompt": "Once", "temperature": 0, "stream": True, "logit_bias": ENDLESS}


@contextmanager
def command(*words: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`exnihilo serve`, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "exnihilo", "serve", *words, "port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """Where it listens, once it does."""
    assert process.stdout is not None
    return process.stdout.readline().split("/v1")[0]


async def _stream(url: str, tokens: int) -> str:
    """The last event of a stream, or the body of what is none."""
    last = ""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        async with client.stream("POST", "/v1/completions", json={**TEXT, "max_tokens": tokens}) as answer:
            async for line in answer.aiter_lines():
                last = line or last
    return last


async def _under_load(process: subprocess.Popen[str], url: str, tokens: int) -> list[str]:
    """Streams that are all there when the signal comes, each one's last event."""
    asked = [asyncio.create_task(_stream(url, tokens)) for _ in range(6)]
    taken = 'exnihilo_prompt_tokens_total{model="talk"} 30.0'  # six times BOS and four bytes
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for _ in range(10_000):
            if taken in (await client.get("/metrics")).text:
                break
            await asyncio.sleep(0.005)
        else:
            raise AssertionError("the requests did not arrive")
    process.send_signal(signal.SIGTERM)
    return await asyncio.gather(*asked)


def test_sigterm_under_load_finishes_what_is_there(runs: dict[str, Path]) -> None:
    with command(str(runs["talk"]), "slots=4", "max_new_tokens=900") as process:
        url = address(process)
        ends = asyncio.run(_under_load(process, url, 900))
        assert ends == ["data: [DONE]"] * 6
        assert process.wait(60) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert "SIGTERM: no new connections" in said and "every request was finished" in said
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health/live")


def test_sigterm_says_what_it_cuts_and_sighup_looks(runs: dict[str, Path]) -> None:
    with command(str(runs["talk"]), "slots=1", "drain=0", "--json") as process:
        assert process.stderr is not None and process.stdout is not None
        line = ""
        while "/v1" not in line:
            line = process.stderr.readline()
        url = line.split("/v1")[0]
        process.send_signal(signal.SIGHUP)
        assert "no newer checkpoint" in process.stderr.readline()
        ends = asyncio.run(_under_load(process, url, 900))
        left = [json.loads(end.removeprefix("data: ")) for end in ends if "[DONE]" not in end]
        cut = [each["error"] for each in left]
        assert cut and all(error["code"] == "shutting_down" for error in cut)
        assert process.wait(20) == 1
        figures = json.loads(process.stdout.read().splitlines()[-1])
        assert figures["cut"] == len(cut) and figures["signal"] == "SIGTERM"
        assert f"{len(cut)} requests were cut" in process.stderr.read()


def test_ctrl_c_and_keys_of_file_and_environment(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\n\n two \n")
    with command(
        str(runs["base"]),
        f"keys={tmp_path / 'keys'}",
        "--no-page",
        "--log",
        env={"EXNIHILO_API_KEYS": "three"},
    ) as process:
        url = address(process)
        for key, status in (("one", 200), ("two", 200), ("three", 200), ("four", 401)):
            found = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
            assert found.status_code == status
        assert httpx.get(f"{url}/").status_code == 404
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None and "GET /v1/models 401" in process.stderr.read()


def test_what_the_command_refuses(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    from exnihilo.cli import main

    def says(*words: str) -> str:
        assert main(["serve", *words]) != 0
        return capsys.readouterr().err

    assert "no RUN given" in says()
    assert "does not exist" in says(str(tmp_path / "nothing"))
    assert "port" in says(str(runs["base"]), "port=99999")
    assert "slots" in says(str(runs["base"]), "slots=0")
    assert "did you mean" in says(str(runs["base"]), "slot=3")
    assert "cannot be read" in says(str(runs["base"]), f"keys={tmp_path / 'nothing'}")
    (tmp_path / "empty").write_text("\n")
    assert "holds no key" in says(str(runs["base"]), f"keys={tmp_path / 'empty'}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot be listened on" in says(str(runs["base"]), f"port={taken.getsockname()[1]}")


def test_python_serves_too(runs: dict[str, Path]) -> None:
    code = (
        "import os, signal, threading, exnihilo as xn\n"
        "said = []\n"
        "def up(address):\n"
        "    said.append(address); os.kill(os.getpid(), signal.SIGTERM)\n"
        f"how = xn.serve({str(runs['base'])!r}, port=0, slots=2, started=up)\n"
        "assert how['cut'] == 0 and how['address'] == said[0] and how['signal'] == 'SIGTERM', how\n"
        "try:\n    xn.serve([], slot=2)\n"
        "except xn.ExNihiloError as error:\n    assert 'slots' in str(error)\n"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
