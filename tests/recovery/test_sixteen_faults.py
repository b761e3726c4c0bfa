"""The sixteen faults of `scripts/faults`; the slow ones take a fifth of their time."""

import pytest
import pytest_asyncio
from fault_test.faults import FAULTS, Installation, Pace
from lab.places import own_gateway
from lab.provider import Provider

from server.config.check import parse
from server.config.settings import Recovery, Streams, Upstream

BRIEF = Pace(scale=0.2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation():
    async with Provider() as primary, Provider() as fallback, own_gateway(BRIEF.tables(primary, fallback)) as root:
        yield Installation(root, primary, fallback, BRIEF)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_fault(installation, fault) -> None:
    """The caller gets what the fault leaves possible, and the providers see no request too many."""
    await fault.run(installation, fault.name)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_defaults_are_those_of_the_gateway(installation) -> None:
    """With --defaults the configuration has no limit of its own, and the limit that is expected is the gateway's."""
    pace = Pace(defaults=True)
    settings = parse(pace.tables(installation.primary, installation.fallback), {})
    assert settings.recovery == Recovery()
    assert settings.streams == Streams()
    for upstream in settings.upstreams:
        plain = Upstream(name=upstream.name, base_url=upstream.base_url, continuation=upstream.continuation)
        assert upstream == plain
        assert upstream.ttft_timeout == upstream.idle_timeout == pace.limit


def test_sixteen() -> None:
    """There are sixteen faults, as the table in the README has."""
    assert len(FAULTS) == 16
