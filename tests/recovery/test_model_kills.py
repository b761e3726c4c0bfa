"""A real model killed in mid-stream: the experiment of `scripts/model_kills`, three times each way."""

import pytest
from fault_test.kills import run

KILLS = 3


@pytest.mark.timeout(400)  # each kill costs two answers and a start of the model, on a machine that may be busy
async def test_restart() -> None:
    """By restart, at temperature 0, the caller's text is the uninterrupted one."""
    tally = await run("restart", KILLS, seed=1)
    assert tally.wrong == []
    assert (tally.kills, tally.same) == (KILLS, KILLS)


@pytest.mark.timeout(400)
async def test_continuation() -> None:
    """By continuation nothing is lost, told twice or garbled: the model's own next words follow what was delivered."""
    tally = await run("continue", KILLS, seed=2)
    assert tally.wrong == []
    assert tally.kills == KILLS
