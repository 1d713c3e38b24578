"""Every decoder that the folder lists, and every encoder."""

from __future__ import annotations

import pytest

from exnihilo.model.family import find, names


@pytest.fixture(params=[name for name in names() if not find(name).encoder])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[name for name in names() if find(name).encoder])
def encoder(request: pytest.FixtureRequest) -> str:
    return request.param
