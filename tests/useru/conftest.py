from __future__ import annotations

import pytest
from useru_world import World, simulate


@pytest.fixture(scope="session")
def world() -> World:
    return simulate(600, 0)


@pytest.fixture(scope="session")
def chinese() -> World:
    return simulate(300, 1, "zh")
