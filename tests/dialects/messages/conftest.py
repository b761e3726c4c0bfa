"""An upstream that speaks Messages, and requests for it."""

from collections.abc import AsyncIterator

import pytest
from messages_upstream import MessagesUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[MessagesUpstream]:
    """A new one for each test."""
    async with MessagesUpstream() as running:
        yield running
