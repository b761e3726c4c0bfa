"""A gateway with the defaults, for tests that need no other configuration."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway import InProcess, in_process
from provider import Provider


@pytest.fixture
async def gateway(provider: Provider) -> AsyncIterator[InProcess]:
    """A new one for each test, so that its list of streams is the test's own."""
    async with in_process(provider.url) as running:
        yield running


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in which the tools of tests/tools/tool_examples.py leave a line for each call."""
    path = tmp_path / "marks"
    path.touch()
    monkeypatch.setenv("TOOL_MARKS", str(path))
    return path
