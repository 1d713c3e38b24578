"""Encoders of sounds over HTTP: data URLs, the same answers as `predict`, and nothing but data URLs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from exnihilo.codec.marks import Marks
from exnihilo.codec.sound.read import save
from exnihilo.config import ModelConfig
from exnihilo.interop import hf
from exnihilo.model import build, resolve
from exnihilo.objective import registry
from exnihilo.predictions.run import load_run
from exnihilo.serve import media
from exnihilo.serve.settings import Settings
from exnihilo.world.sounds import render

pytest.importorskip("soundfile", reason="needs the extra 'audio'")
FACTS = {"kind": "multiclass", "labels": ["bell", "drum", "horn"], "counts": {}}


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, codec = tmp_path_factory.mktemp("sounds") / "ears", Marks.make()
    objective = registry.create("sound_classification", {"rate": 8000}, length=64, facts=FACTS)
    settings = objective.model_settings
    sizes: dict[str, Any] = {"depth": 2, "width": 32, "heads": 2, "context": 64}
    config = ModelConfig(
        family="modernbert", vocab_size=codec.vocab_size, labels=settings["labels"],
        inputs=settings["inputs"], outputs=settings["outputs"], **sizes,
    )  # fmt: skip
    model, generator = build(resolve(config, codec.vocab_size)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    what = {"objective": "sound_classification", "options": {"rate": 8000}, "length": 64, "facts": FACTS}
    hf.save(model, codec, folder, objective=what)
    return folder


@pytest.fixture(scope="module")
def client(ears: Path, serving: Callable[..., Any]) -> Iterator[httpx.Client]:
    with serving([ears], Settings(reload=0, ready_after=0.01)) as server, server.client() as found:
        yield found


def url(path: Path, kind: str = "audio/wav") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_a_sound_is_classified_as_predict_does(client: httpx.Client, ears: Path, tmp_path: Path) -> None:
    paths = []
    for kind in ("bell", "drum"):
        paths.append(tmp_path / f"{kind}.wav")
        save(paths[-1], render(f"world:{kind}:1", 8000), 8000)
    ours = load_run(ears).predict([{"sound": str(path)} for path in paths])
    [card] = client.get("/v1/models").json()["data"]
    assert card["endpoints"] == ["/v1/classify"]
    body = {"model": "ears", "input": [url(path) for path in paths]}
    reply = client.post("/v1/classify", json=body)
    assert reply.status_code == 200, reply.text
    found = reply.json()["data"]
    assert [one["label"] for one in found] == [one["label"] for one in ours]
    assert found[0]["probabilities"] == pytest.approx(ours[0]["probabilities"], abs=1e-5)
    assert str(tmp_path) not in reply.text
    few = client.post("/v1/classify", json={"model": "ears", "input": url(paths[0]), "top_k": 2}).json()
    assert len(few["data"][0]["probabilities"]) == 2
    assert client.get("/health/ready").json()["models"] == {"ears": "ready"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/etc/passwd", "no data URL"),
        ("world:bell:1", "no data URL"),
        ("a fine film", "no data URL"),
        ("data:audio/wav,UklGRg==", "no data URL"),
        ("data:image/png;base64,iVBORw0KGgo=", "of image/png"),
        ("data:audio/wav;base64,@@@@", "not base64"),
        ("data:audio/wav;base64,", "input-1.wav is empty"),
        ("data:audio/wav;base64,UklGRgAAAAA=", "input-1.wav is no sound"),
    ],
)
def test_what_is_no_sound_is_refused_by_its_number(
    client: httpx.Client, tmp_path: Path, given: str, said: str
) -> None:
    good = tmp_path / "a.wav"
    save(good, render("world:bell:1", 8000), 8000)
    reply = client.post("/v1/classify", json={"model": "ears", "input": [url(good), given]})
    error = reply.json()["error"]
    assert reply.status_code == 400 and said in error["message"] and error["param"] == "input[1]"
    assert "/tmp" not in error["message"] and "exnihilo-" not in error["message"]


def test_files_go_with_the_answer(
    monkeypatch: pytest.MonkeyPatch, client: httpx.Client, tmp_path: Path
) -> None:
    made: list[str] = []
    original = media.tempfile.mkdtemp
    monkeypatch.setattr(media.tempfile, "mkdtemp", lambda **k: made.append(original(**k)) or made[-1])
    good = tmp_path / "a.wav"
    save(good, render("world:bell:1", 8000), 8000)
    assert client.post("/v1/classify", json={"model": "ears", "input": url(good)}).status_code == 200
    assert client.post("/v1/classify", json={"model": "ears", "input": "x"}).status_code == 400
    assert len(made) == 2 and not any(Path(folder).exists() for folder in made)
    told = client.post("/v1/classify", json={"model": "ears", "input": url(good), "truncate": True})
    assert told.status_code == 400 and told.json()["error"]["param"] == "truncate"
    other = client.post("/v1/tag", json={"model": "ears", "input": "x"})
    assert other.status_code == 400 and "it answers at /v1/classify" in other.json()["error"]["message"]
