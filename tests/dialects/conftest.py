"""A gateway with the defaults, for tests that need no other configuration."""

from collections.abc import AsyncIterator

import pytest
from gateway import InProcess, in_process
from provider import Provider


@pytest.fixture
async def gateway(provider: Provider) -> AsyncIterator[InProcess]:
    """A new one for each test, so that its list of streams is the test's own."""
    async with in_process(provider.url) as running:
        yield running
