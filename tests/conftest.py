"""What every test may use: the modules beside this one, and the scripted provider as an upstream."""

import itertools
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from hypothesis import settings
from provider import Provider

# A deadline measures the machine, which others use as well.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

_names = itertools.count()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def provider() -> AsyncIterator[Provider]:
    """One provider for the whole session; tests keep apart by the names of their models."""
    async with Provider() as running:
        yield running


@pytest.fixture
def model() -> str:
    """A model name that no other test uses."""
    return f"model-{next(_names)}"
