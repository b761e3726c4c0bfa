"""The circuit of one target, on a clock that the test holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.upstreams.breaker import Breaker


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock) -> Breaker:
    """Opens after three failures, for ten seconds."""
    return Breaker(3, 10.0, clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.acquire().settle(ok=False)


def test_consecutive_failures_open(breaker) -> None:
    """Three failures in a row open it; a success between them starts the count again."""
    fail(breaker, 2)
    breaker.acquire().settle(ok=True)
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"
    assert breaker.acquire() is None
    assert breaker.opens_in == 10.0


def test_one_probe_at_a_time(breaker, clock) -> None:
    """After the reset one request goes through. The next one must wait for its outcome."""
    fail(breaker, 3)
    clock.now = 10.0
    assert breaker.state == "half_open"
    probe = breaker.acquire()
    assert breaker.acquire() is None
    probe.settle(ok=False)
    assert breaker.state == "open"
    assert breaker.opens_in == 10.0
    clock.now = 20.0
    breaker.acquire().settle(ok=True)
    assert breaker.state == "closed"
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_cancelled_probe(breaker, clock) -> None:
    """A probe whose client leaves has no outcome: the next request is the probe."""
    fail(breaker, 3)
    clock.now = 10.0
    breaker.acquire().settle(ok=None)
    assert breaker.state == "half_open"
    assert breaker.acquire() is not None


def test_probe_that_speaks_lets_others_through(breaker, clock) -> None:
    """A probe may be a long stream. Its first token closes the circuit, and a cut opens it again at once."""
    fail(breaker, 3)
    clock.now = 10.0
    probe = breaker.acquire()
    probe.answered()
    assert breaker.state == "closed"
    assert breaker.acquire() is not None
    probe.settle(ok=False)
    assert breaker.state == "open"
    clock.now = 20.0
    probe = breaker.acquire()
    probe.answered()
    probe.settle(ok=True)
    fail(breaker, 2)
    assert breaker.state == "closed"


@pytest.mark.parametrize("ok", [True, False])
def test_stragglers(breaker, clock, ok) -> None:
    """A request from before the circuit opened neither closes it nor pushes the next probe away."""
    straggler = breaker.acquire()
    fail(breaker, 3)
    clock.now = 5.0
    straggler.settle(ok=ok)
    assert breaker.state == "open"
    assert breaker.opens_in == 5.0


def test_permit_is_settled_once(breaker) -> None:
    """A second verdict on the same request is ignored."""
    permit = breaker.acquire()
    for _ in range(5):
        permit.settle(ok=False)
    assert breaker.state == "closed"


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from([True, False, None]))))
def test_never_two_probes_and_never_stuck(steps) -> None:
    """After any events, an open circuit lets at most one request through, and after some time always one."""
    clock = Clock()
    breaker = Breaker(2, 10.0, clock)
    running = []
    for step in steps:
        if isinstance(step, float):
            clock.now += step
            was_closed = breaker.state == "closed"
            if (permit := breaker.acquire()) is not None:
                running.append(permit)
                assert was_closed or breaker.acquire() is None
        elif running:
            running.pop(0).settle(ok=step)
    for permit in running:
        permit.settle(ok=None)
    clock.now += 10.0
    assert breaker.acquire() is not None
