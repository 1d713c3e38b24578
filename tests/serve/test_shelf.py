"""Names of models, newer checkpoints while requests run, checkpoints that break or vanish."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from exnihilo.errors import ExNihiloError, UsageError
from exnihilo.serve.models import Shelf, named
from exnihilo.serve.settings import Settings, of

TEXT = {"prompt": "Once", "max_tokens": 30, "temperature": 0}


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    assert list(named([tmp_path / "a", tmp_path / "b"])) == ["a", "b"]
    assert list(named([tmp_path / "x/a", tmp_path / "y/a", tmp_path / "b"])) == ["x/a", "y/a", "b"]
    steps = [tmp_path / "a/checkpoints" / f"step-{n:08d}" for n in (1, 2)]
    assert list(named([tmp_path / "a", *steps])) == ["a", "a@step-00000001", "a@step-00000002"]
    other = tmp_path / "z/a/checkpoints/step-00000001"
    assert len(set(named([*steps, other]))) == 3
    with pytest.raises(UsageError, match="twice"):
        named([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        Shelf.open([])
    with pytest.raises(ExNihiloError, match="does not exist"):
        Shelf.open([tmp_path / "nothing"])
    with pytest.raises(UsageError, match="slots"):
        Settings(slots=0)
    with pytest.raises(UsageError, match="did you mean 'slots'"):
        of({"slot": 4})
    for wrong in ({"port": 70000}, {"timeout": float("nan")}, {"api_keys": ("",)}, {"api_keys": "key"}):
        with pytest.raises(UsageError) as caught:
            Settings(**wrong)  # type: ignore[arg-type]
        assert next(iter(wrong)) in str(caught.value)


def texts(client: httpx.Client, model: str) -> str:
    answer = client.post("/v1/completions", json={**TEXT, "model": model})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def replace(run: Path, source: Path) -> None:
    """As a training run ends: the new weights are moved over the old ones."""
    for name in ("model.safetensors", "config.json"):
        shutil.copy(source / name, run / f"{name}.new")
        (run / f"{name}.new").rename(run / name)


def test_a_newer_checkpoint_is_taken_on_and_no_request_dropped(
    runs: dict[str, Path],
    decoder: Callable[..., Path],
    serving: Callable[..., Any],
    eventually: Callable[..., bool],
    tmp_path: Path,
) -> None:
    run, newer = shutil.copytree(runs["base"], tmp_path / "run"), decoder(tmp_path / "newer", seed=9)
    with serving([run, newer], Settings(slots=2, queue=100, reload=0.1)) as server:
        with server.client() as client:
            old, new = texts(client, "run"), texts(client, "newer")
            assert old != new  # side by side

        async def ask() -> list[Any]:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

                async def one() -> Any:
                    return await client.post("/v1/completions", json={**TEXT, "model": "run"})

                def taken_on(task: asyncio.Task[Any]) -> bool:
                    return task.done() and task.result().json()["choices"][0]["text"] == new

                asked: list[asyncio.Task[Any]] = []
                async with asyncio.timeout(100):
                    while len(asked) < 60 or not any(map(taken_on, asked)):  # however long it takes
                        asked.append(asyncio.create_task(one()))
                        if len(asked) == 11:
                            await asyncio.to_thread(replace, run, newer)
                        await asyncio.sleep(0.02 if len(asked) < 60 else 0.2)
                return await asyncio.gather(*asked, one())

        found = asyncio.run(ask())
        assert {r.status_code for r in found} == {200}
        said = [r.json()["choices"][0]["text"] for r in found]
        assert set(said) == {old, new} and said[0] == old and said[-1] == new
        assert len({r.json()["system_fingerprint"] for r in found}) == 2
        assert len(server.shelf._old) <= 1

        def ended() -> bool:
            server.shelf.reload()
            return not server.shelf._old

        assert eventually(ended)  # the old one's thread


def test_a_checkpoint_that_breaks_or_vanishes_leaves_the_old_one(
    runs: dict[str, Path],
    serving: Callable[..., Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(runs["base"], tmp_path / "run")
    with serving([run], Settings(slots=2, reload=0)) as server, server.client() as client:
        before = texts(client, "run")
        whole = (run / "model.safetensors").read_bytes()
        (run / "model.safetensors.new").write_bytes(whole[: len(whole) // 2])
        (run / "model.safetensors.new").rename(run / "model.safetensors")
        assert server.shelf.reload() == [] and texts(client, "run") == before
        assert "the older one stays" in capfd.readouterr().err
        assert server.shelf.reload() == [] and "stays" not in capfd.readouterr().err  # said once
        shutil.rmtree(run)
        assert server.shelf.reload() == [] and texts(client, "run") == before
        shutil.copytree(runs["base"], run)
        (run / "model.safetensors").touch()
        assert server.shelf.reload() == ["run"] and texts(client, "run") == before
