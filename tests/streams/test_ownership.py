"""Who may go on with a stream without an ending: the decision as a table."""

from dataclasses import replace
from itertools import product

import pytest

from server.streams.ownership import Decision, Situation, decide

READ = Situation(read=True)
CANCEL = Situation(policy="cancel", linger=10.0)
CONTINUE = Situation(policy="continue", linger=10.0)
LATE = {"alone": 10.0}
FLAGS = ("live", "claiming", "draining", "aborting", "owes_ending", "growing", "read", "interrupted", "full")

TABLE = [
    # Somebody here goes on with it already.
    ("its relay is here", READ, {"live": True}, "LEAVE"),
    ("its relay is here, and it is aborted", READ, {"live": True, "aborting": True}, "LEAVE"),
    ("it is being claimed, for its readers", READ, {"claiming": True}, "FOLLOW"),
    ("it is being claimed, and nobody reads", CONTINUE, {"claiming": True}, "LEAVE"),
    ("it is being claimed, and it is aborted", CONTINUE, {"claiming": True, "aborting": True}, "LEAVE"),
    # This process is about to go.
    ("draining, with readers", READ, {"draining": True}, "FOLLOW"),
    ("draining, nobody reads", CONTINUE, {"draining": True}, "LEAVE"),
    ("draining, it owes an ending", CONTINUE, {"draining": True, "owes_ending": True}, "LEAVE"),
    ("draining, a client waits for the ending", CONTINUE, {"draining": True, "aborting": True}, "END"),
    # It is to end.
    ("aborted", CONTINUE, {"aborting": True}, "END"),
    ("aborted while it grows elsewhere", READ, {"aborting": True, "growing": True}, "END"),
    ("the store could not take its ending", CONTINUE, {"interrupted": True, "owes_ending": True}, "END"),
    ("so it is, though a reader came", READ, {"interrupted": True, "owes_ending": True}, "END"),
    ("so it is, though the client may come back", CANCEL, {"interrupted": True, "owes_ending": True}, "END"),
    # It has readers here.
    ("readers", READ, {}, "TAKE_OVER"),
    ("readers, whatever the policy", replace(CONTINUE, read=True), {}, "TAKE_OVER"),
    ("readers, whatever the limit", READ, {"full": True}, "TAKE_OVER"),
    ("readers, after the linger", replace(CANCEL, read=True), LATE, "TAKE_OVER"),
    ("readers, stopped by the store", READ, {"interrupted": True}, "TAKE_OVER"),
    ("readers, while it grows elsewhere", READ, {"growing": True}, "FOLLOW"),
    # Nobody reads it here, and it is not to outlive its client.
    ("its client may come back", CANCEL, {"alone": 9.9}, "LEAVE"),
    ("its client stays away", CANCEL, LATE, "END"),
    ("its client stays away, whatever the limit", CANCEL, {**LATE, "full": True}, "END"),
    ("stopped by the store, its client may come back", CANCEL, {"interrupted": True}, "LEAVE"),
    ("stopped by the store, its client stays away", CANCEL, {**LATE, "interrupted": True}, "END"),
    ("no linger is configured", replace(CANCEL, linger=0.0), {}, "END"),
    # Nobody reads it here, and it goes on without a client.
    ("without a client", CONTINUE, {}, "TAKE_OVER"),
    ("without a client, after the linger", CONTINUE, LATE, "TAKE_OVER"),
    ("without a client, but there is no room", CONTINUE, {"full": True}, "LEAVE"),
    ("without a client, but it had its room", CONTINUE, {"full": True, "interrupted": True}, "TAKE_OVER"),
]


@pytest.mark.parametrize(("base", "more", "decision"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(base, more, decision):
    """Each row of the table."""
    assert decide(replace(base, **more)) is Decision[decision]


def situations():
    """Give all situations there are."""
    for flags in product([False, True], repeat=len(FLAGS)):
        for policy, alone in product(["cancel", "continue"], [0.0, 10.0]):
            yield Situation(policy=policy, alone=alone, linger=10.0, **dict(zip(FLAGS, flags, strict=True)))


def test_in_every_situation():
    """Always: no second relay here, none while draining, none that goes on with what is to end; readers are served."""
    for now in situations():
        decision = decide(now)
        claims = decision in (Decision.TAKE_OVER, Decision.END)
        assert not (claims and (now.live or now.claiming)), now
        assert not (claims and now.draining and not now.aborting), now
        assert not (decision is Decision.TAKE_OVER and (now.aborting or now.owes_ending)), now
        assert not (decision is Decision.FOLLOW and not now.read), now
        assert not (decision is Decision.LEAVE and now.read and not now.live), now
