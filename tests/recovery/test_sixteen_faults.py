"""The sixteen faults of `scripts/faults`, the slow ones in a fifth of their time."""

import pytest
import pytest_asyncio
from fault_test.faults import FAULTS, Bench, Pace
from fault_test.parts import gateway, provider

BRIEF = Pace(scale=0.2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench():
    async with provider() as primary, provider() as fallback, gateway(BRIEF.config(primary, fallback)) as root:
        yield Bench(root, primary, fallback, BRIEF)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_fault(bench, fault) -> None:
    """The caller gets what the fault leaves possible, and the providers see no request too many."""
    await fault.run(bench, fault.name)


def test_sixteen() -> None:
    """None of the faults has been lost on the way."""
    assert len(FAULTS) == 16
