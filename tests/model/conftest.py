"""Every family that the folder lists."""

from __future__ import annotations

import pytest

from exnihilo.model.family import names


@pytest.fixture(params=names())
def family(request: pytest.FixtureRequest) -> str:
    return request.param
