"""One world and some of its documents, shared by the tests of this room."""

import pytest

from exnihilo.world import Document, World


@pytest.fixture(scope="session")
def world() -> World:
    return World(0)


@pytest.fixture(scope="session")
def docs(world: World) -> list[Document]:
    return list(world.stories(800))
