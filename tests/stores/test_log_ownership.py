"""Who may append: every event and what follows from it, as a table, without a store."""

import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from server.core.records import Beginning
from server.stores.group_commit import Append, BatchedLog, placed
from server.stores.ownership import Ownership

ID = "strm_1"


def make(stream_id: str = ID) -> BatchedLog:
    """Give a log that commits nothing."""
    facts = Beginning(id=stream_id, owner="", dialect="chat", model="small", created=0.0, body=b"{}")
    return BatchedLog(facts, lambda _: None)


class Instance:
    """One instance that creates or claims one log, and the steps that a row of the table names."""

    def __init__(self) -> None:
        self.ownership: Ownership[BatchedLog] = Ownership()
        self.log = self.ownership.log(ID, make)
        self._claims: list[Any] = []
        self._asked = 0

    def create(self) -> None:
        """Create the log: epoch 1."""
        with self.ownership.begun(ID):
            self.ownership.created(self.log)

    def begin(self) -> None:
        """Begin a claim."""
        self._claims.append(self.ownership.begun(ID))
        self._claims[-1].__enter__()

    def claimed(self, epoch: int) -> None:
        """Complete the claim that has begun."""
        self.ownership.claimed(self.log, epoch)
        self._claims.pop().__exit__(None, None, None)

    def interrupted(self) -> None:
        """Have the claim that has begun end with an exception."""
        error = KeyboardInterrupt()  # whatever it is
        with suppress(KeyboardInterrupt):
            assert not self._claims.pop().__exit__(type(error), error, None)

    def heard(self, epoch: int) -> None:
        """Hear of a claim."""
        self.ownership.heard(ID, epoch)

    def refused(self, epoch: int) -> None:
        """Have an append of an epoch refused."""
        self.ownership.refused(self.log, epoch)

    def ended(self) -> None:
        """End the log."""
        self.ownership.ended(ID)

    def asked(self) -> None:
        """Ask the store which logs are ours."""
        self._asked = self.ownership.moment()

    def gone(self) -> None:
        """Find out that the log is not in the store, which was asked at the time of `asked`."""
        self.ownership.gone(ID, self._asked)

    def answered(self, epoch: int) -> list[tuple[str, int]]:
        """Get the answer: the log is ours in an epoch; 0: it is not."""
        return self.ownership.reconcile(self._asked, {ID: epoch} if epoch else {})


# steps · epoch held at the end (0: none) · times told that it is lost · reconciling is due
EVENTS = [
    ("create", 1, 0, False),
    ("begin, claimed 2", 2, 0, False),
    ("create, heard 1", 1, 0, False),
    ("create, heard 2", 0, 1, False),
    ("create, heard 2, heard 2, heard 3", 0, 1, False),
    ("create, refused 1", 0, 1, False),
    ("create, heard 2, refused 1", 0, 1, False),
    ("create, ended", 0, 0, False),
    ("create, ended, heard 2, refused 1", 0, 0, False),
    # What another instance does with a log that is not held here is no loss.
    ("heard 2", 0, 0, False),
    ("refused 2", 0, 0, False),
    # Claimed back before anybody was told: it is not lost, and it can be lost again.
    ("create, heard 2, begin, claimed 3", 3, 0, False),
    ("create, heard 2, begin, claimed 3, heard 2", 3, 0, False),
    ("create, heard 2, begin, claimed 3, heard 4", 0, 1, False),
    # An append from before our own claim does not fence that claim, and one since does.
    ("create, begin, claimed 2, refused 1", 2, 0, False),
    ("create, heard 2, begin, claimed 3, refused 1", 3, 0, False),
    ("create, begin, claimed 2, refused 2", 0, 1, False),
    # Our own claim is heard of, too, before or after it is complete.
    ("create, begin, heard 2, claimed 2", 2, 0, False),
    ("create, begin, claimed 2, heard 2", 2, 0, False),
    # Another claim is heard of before ours is complete.
    ("begin, heard 3, claimed 2", 0, 1, False),
    ("begin, heard 3, heard 2, claimed 2", 0, 1, False),
    ("begin, heard 2, claimed 3", 3, 0, False),
    # Nobody is told of a loss while the log may be claimed back.
    ("create, heard 2, begin", 0, 0, False),
    ("create, heard 2, begin, interrupted", 0, 1, True),
    ("create, begin, interrupted", 1, 0, True),
    ("begin, interrupted", 0, 0, True),
    # Two claims of one log at a time: the one that is over leaves the other one alone.
    ("begin, begin, interrupted, claimed 2", 2, 0, True),
    ("begin, begin, claimed 2, heard 3", 0, 0, False),
    ("begin, begin, claimed 2, heard 3, interrupted", 0, 1, True),
    # Gone from the store: nothing to be told. An answer from before it was created says nothing.
    ("create, asked, gone", 0, 0, False),
    ("asked, create, gone", 1, 0, False),
]


def run(instance: Instance, steps: str) -> Any:
    """Take steps; return the answer of the last one."""
    answer = None
    for step in steps.split(", "):
        name, *epoch = step.split(" ")
        answer = getattr(instance, name)(*map(int, epoch))
    return answer


@pytest.mark.parametrize(("steps", "epoch", "told", "due"), EVENTS, ids=[row[0] for row in EVENTS])
def test_events(steps: str, epoch: int, told: int, due: bool) -> None:
    """A log is held in one epoch or in none; its loss is told once."""
    instance = Instance()
    run(instance, steps)
    ownership, log = instance.ownership, instance.log
    assert (log.epoch if ID in ownership.held else 0) == epoch
    assert ownership.told() == [log] * told
    assert ownership.told() == []
    assert ownership.due == due
    assert not epoch or not log.fenced


# steps, the last of which is the store's answer · epoch given back (0: nothing) · epoch held at the end · told
ANSWERS = [
    ("create, asked, answered 1", 0, 1, 0),
    # A claim of another instance that went unheard.
    ("create, asked, answered 0", 0, 0, 1),
    # A claim in our name that nobody here knows of: the log cannot be written in the epoch that is held.
    ("create, asked, answered 2", 2, 0, 1),
    # Created or claimed by us, and nobody holds it.
    ("asked, answered 1", 1, 0, 0),
    ("begin, interrupted, asked, answered 1", 1, 0, 0),
    ("begin, asked, interrupted, answered 2", 2, 0, 0),
    # A creation or a claim is under way: left alone, whether the answer has it already or not.
    ("begin, asked, answered 1", 0, 0, 0),
    ("create, begin, asked, answered 1", 0, 1, 0),
    ("create, begin, asked, answered 2", 0, 1, 0),
    ("create, begin, asked, answered 0", 0, 1, 0),
    ("asked, begin, answered 2", 0, 0, 0),
    # Held since the question: the answer may be older.
    ("asked, create, answered 0", 0, 1, 0),
    ("create, asked, begin, claimed 2, answered 1", 0, 2, 0),
    ("create, asked, begin, claimed 2, answered 2", 0, 2, 0),
    ("create, heard 2, asked, begin, claimed 3, answered 0", 0, 3, 0),
    # The same with a claim from before the question.
    ("create, begin, claimed 2, asked, answered 1", 1, 0, 1),
    ("create, begin, claimed 2, asked, answered 0", 0, 0, 1),
    # Lost or ended since the question: given back in an epoch that is no longer ours, which does nothing.
    ("create, asked, heard 2, answered 1", 1, 0, 1),
    ("create, asked, ended, answered 1", 1, 0, 0),
    ("create, asked, ended, answered 0", 0, 0, 0),
]


@pytest.mark.parametrize(("steps", "back", "epoch", "told"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_reconciling(steps: str, back: int, epoch: int, told: int) -> None:
    """What is held here and not there is lost; what is ours there and not held here is given back in that epoch."""
    instance = Instance()
    given_back = run(instance, steps)
    assert given_back == ([(ID, back)] if back else [])
    assert (instance.log.epoch if ID in instance.ownership.held else 0) == epoch
    assert instance.ownership.told() == [instance.log] * told


def test_due_until_asked() -> None:
    """Reconciling is due until the store has answered, and again if anything happened meanwhile."""
    ownership: Ownership[BatchedLog] = Ownership()
    ownership.missed()
    with pytest.raises(ZeroDivisionError), ownership.asking():
        raise ZeroDivisionError
    assert ownership.due
    with ownership.asking():
        ownership.missed()  # a claim may have gone unheard after the store had answered
    assert ownership.due
    with ownership.asking():
        pass
    assert not ownership.due


def test_due_twice_after_an_interruption() -> None:
    """A claim whose caller has left can reach the store after the question: it is asked once more."""
    instance = Instance()
    ownership = instance.ownership
    run(instance, "begin, interrupted")
    assert run(instance, "asked, answered 0") == []
    for due in (True, False):
        with ownership.asking() as asked:
            back = ownership.reconcile(asked, {ID: 2})
        assert back == [(ID, 2)]
        assert ownership.due == due


def test_one_object_as_long_as_anybody_has_it() -> None:
    """A log has one object. One that is neither held nor used by anybody is forgotten."""
    ownership: Ownership[BatchedLog] = Ownership()
    log = ownership.log(ID, make)
    assert ownership.log(ID, lambda: pytest.fail("made twice")) is log
    number = id(log)
    ownership.created(log)
    del log
    gc.collect()
    assert id(ownership.log(ID, make)) == number
    ownership.ended(ID)
    gc.collect()
    others = [make(str(n)) for n in range(3)]  # so that its place in memory is not taken again
    assert ownership.log(ID, make).epoch == 0
    assert len(others) == 3


@pytest.mark.parametrize(
    ("asked", "epoch", "fresh"),
    [("before", 1, False), ("before", 2, False), ("before", 3, True), ("after", 1, True), ("after", 3, True)],
)
def test_answers_that_overtake_each_other(asked: str, epoch: int, fresh: bool) -> None:
    """An answer is older if it was asked for before, unless it is of a later epoch."""
    instance = Instance()
    ownership, log = instance.ownership, instance.log
    moments: Iterator[int] = iter([ownership.moment()])
    ownership.claimed(log, 2)
    ownership.ended(ID)  # it is not written here any more
    moment = next(moments) if asked == "before" else ownership.moment()
    assert ownership.fresh(log, moment, epoch) == fresh
    assert log.moment >= moment


def test_an_append_from_before_a_claim_of_our_own() -> None:
    """It finds no place, changes nothing when it is answered, and neither shows records nor stops the new epoch."""
    instance = Instance()
    instance.create()
    log = instance.log
    shown: list[int] = []
    early, late = (Append(log, [], None, lambda _, tail, __: shown.append(tail)) for _ in range(2))
    assert placed([early]) == [early]  # it is on its way to the store
    run(instance, "heard 2, begin, claimed 3")
    log.tail = 5  # as it was read with the claim
    assert placed([late]) == []
    early.commit(0.0)
    assert (log.tail, log.failed, log.fenced, shown) == (5, None, False, [])
    fresh = Append(log, [], None, lambda _, tail, __: shown.append(tail))
    assert placed([fresh]) == [fresh]
    fresh.commit(0.0)
    assert shown == [5]
