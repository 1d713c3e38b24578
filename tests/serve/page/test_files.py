"""The page's files: what they may ask for, and how they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exnihilo.errors import ExNihiloError
from exnihilo.serve import page


@pytest.fixture
def client() -> Iterator[Any]:
    fastapi = pytest.importorskip("fastapi", reason="the extra serve is not installed")
    testclient = pytest.importorskip("fastapi.testclient", reason="httpx is not installed")
    app = fastapi.FastAPI()
    app.include_router(page.router())
    with testclient.TestClient(app) as client:
        yield client


@pytest.mark.parametrize("address", sorted(page.FILES))
def test_each_file_is_given_with_a_policy_that_forbids_the_outside(client: Any, address: str) -> None:
    name, kind = page.FILES[address]
    answer = client.get(address)
    assert answer.status_code == 200 and answer.headers["content-type"] == kind
    assert answer.content == (page.FOLDER / name).read_bytes()
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = client.get(address, headers={"If-None-Match": f'"other", W/{answer.headers["etag"]}'})
    assert again.status_code == 304 and again.content == b""
    assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.head(address).status_code == 200 and client.post(address).status_code == 405


def test_the_page_is_no_part_of_the_interface(client: Any) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


def test_no_file_names_an_address_elsewhere() -> None:
    """All addresses are relative, so that the page works behind a prefix; a name space of XML is none."""
    for path in page.FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]|url\(|@import|(src|href)=\"/", text), path.name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text), path.name


def test_each_file_that_the_page_asks_for_is_served() -> None:
    found = set()
    for path in page.FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'(?:src|href)="([\w./]+)"', text))
        found |= {name.removeprefix("./") for name in re.findall(r'from "(\./\w+\.js)"', text)}
    assert {f"/{name}" for name in found} == set(page.FILES) - {"/"}
    assert {name for name, _ in page.FILES.values()} == {path.name for path in page.FOLDER.iterdir()}


def test_a_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    with pytest.raises(ExNihiloError, match="index.html cannot be read"):
        page.router()
