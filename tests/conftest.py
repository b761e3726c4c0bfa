"""For every test: the modules of `tests/support`, `scripts` and `deploy`, and the scripted provider as an upstream."""

import fcntl
import functools
import gc
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpcore2
import pytest
import pytest_asyncio
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
sys.path.insert(0, str(Path(__file__).parent / "support"))

import fast
from hypothesis import settings
from provider import Provider

# A deadline would measure the machine, which other processes use as well.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# The SDKs' clients share what they trust: each would read the machine's 140 authorities anew, which takes 35 ms.
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)

_names = itertools.count()


# Tests that share something costly, such as what pip has built or a model that is loaded, run in one worker.
TOGETHER = (
    "tests/e2e/test_real_model.py",
    "tests/examples/",
    "tests/packages/",
    "tests/recovery/test_sixteen_faults.py",
    "tests/recovery/test_third_party.py",
    "tests/tools/test_plugins.py",
    "tests/scripts/test_local_model.py",
)


class Together(LoadScopeScheduling):
    """Gives the tests of each group in TOGETHER to one worker, and the others one by one to whichever is free.

    pytest-xdist's own groups do nothing under pytest 9: it writes them into an attribute that is gone.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((group for group in TOGETHER if nodeid.startswith(group)), nodeid)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Together:
    """Distribute the tests so."""
    return Together(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `./scripts/test --fast`."""
    parser.addoption("--fast", action="store_true", help="run only the tests that need no other program")


def pytest_configure(config: pytest.Config) -> None:
    """Hold the tests of --fast to it."""
    starts_workers = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if config.getoption("fast") and not starts_workers:
        fast.forbid_programs()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files that need other programs."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_test and config.getoption("fast") and not fast.needs_nothing(collection_path) else None


def is_alone(item: pytest.Item) -> bool:
    """Whether a test measures or fills the machine, so that no other test may run beside it."""
    return item.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that run alone at the end, when the other workers have little left to do."""
    items.sort(key=is_alone)


def pytest_collection_finish() -> None:
    """Leave what imports and the collection have made out of every garbage collection of the tests."""
    gc.freeze()


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
