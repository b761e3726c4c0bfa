"""A real model killed in mid-stream: `scripts/model_kills`, three times each way, in short answers."""

import pytest
from fault_test.kills import run

KILLS = 3
TOKENS = 40


@pytest.mark.timeout(400)  # each kill costs two answers and a start of the model, on a machine that may be busy
async def test_restart() -> None:
    """After a restart at temperature 0 the caller's text is the uninterrupted one."""
    tally = await run("restart", KILLS, seed=1, tokens=TOKENS)
    assert tally.wrong == []
    assert (tally.kills, tally.same) == (KILLS, KILLS)


@pytest.mark.timeout(400)
async def test_continuation() -> None:
    """After a continuation nothing is lost, repeated or garbled: the model's next words follow the delivered text."""
    tally = await run("continue", KILLS, seed=2, tokens=TOKENS)
    assert tally.wrong == []
    assert tally.kills == KILLS
