"""For every test: the modules of `tests/support`, `scripts` and `deploy`, and the scripted provider as an upstream."""

import fcntl
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
sys.path.insert(0, str(Path(__file__).parent / "support"))

from hypothesis import settings
from provider import Provider

# A deadline would measure the machine, which other processes use as well.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

_names = itertools.count()


def is_alone(item: pytest.Item) -> bool:
    """Whether a test measures or fills the machine, so that no other test may run beside it."""
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that run alone at the end, in one worker, when the others have ended."""
    items.sort(key=is_alone)
    for item in filter(is_alone, items):
        item.add_marker(pytest.mark.xdist_group("alone"))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest-timeout, whose time must not run while a test waits
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test that is marked `alone` while no other worker runs a test."""
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if is_alone(item) else fcntl.LOCK_SH)
        return (yield)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def provider() -> AsyncIterator[Provider]:
    """One provider for the whole session. Each test has its own model names."""
    async with Provider() as running:
        yield running


@pytest.fixture
def model() -> str:
    """A model name that no other test uses."""
    return f"model-{next(_names):05}"


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in which the tools of tests/support/tool_examples.py leave a line for each call."""
    path = tmp_path / "marks"
    path.touch()
    monkeypatch.setenv("TOOL_MARKS", str(path))
    return path
