"""The circuit of one target, on a clock that the test holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.upstreams.breaker import PANIC, Breaker, Fault


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


# --- whose failure counts ----------------------------------------------------------------------------------------


def failing(breaker: Breaker, *faults: Fault) -> None:
    for fault in faults:
        breaker.acquire().settle(ok=False, fault=fault)


def hard(stream: object, owner: str = "a") -> Fault:
    """A failure that no request can cause, such as a refused connection."""
    return Fault("upstream_connect", str(stream), owner)


def suspect(stream: object, body: int, owner: str = "a", *, early: bool = True) -> Fault:
    """A failure that the request itself may have caused, such as a 500."""
    return Fault("upstream_server_error", str(stream), owner, body, early)


def test_a_stream_counts_once(breaker) -> None:
    """However often one stream asks and fails, it is one failure; three streams are three."""
    failing(breaker, *[hard("one")] * 20)
    assert breaker.state == "closed"
    failing(breaker, hard("two"), hard("two"), hard("three"))
    assert breaker.state == "open"
    assert breaker.last_cause == "upstream_connect"


def test_a_body_counts_once(breaker) -> None:
    """A request that makes the target fail, sent a hundred times, is one failure; three bodies are three."""
    failing(breaker, *(suspect(stream, body=1) for stream in range(100)))
    assert breaker.state == "closed"
    failing(breaker, suspect("x", body=2), suspect("y", body=3))
    assert breaker.state == "open"


def test_connection_faults_count_whatever_the_body(breaker) -> None:
    """No request can refuse a connection: three streams with one body are enough."""
    failing(breaker, hard(1), hard(2), hard(3))
    assert breaker.state == "open"


def test_nobody_can_vary_a_body_against_others(breaker, clock) -> None:
    """While the target answers somebody else, early failures of one owner say nothing, whatever the bodies are."""
    breaker.acquire().answered("victim")
    failing(breaker, *(suspect(number, body=number) for number in range(100)))
    assert breaker.state == "closed"
    clock.now += 11.0  # the victim has got nothing for longer than a circuit is open
    failing(breaker, *(suspect(number, body=number) for number in range(3)))
    assert breaker.state == "open"


def test_an_owner_alone_opens_it(breaker) -> None:
    """What the target answers to the same owner does not shield it: with one user it would never open."""
    breaker.acquire().answered("a")
    failing(breaker, *(suspect(number, body=number) for number in range(3)))
    assert breaker.state == "open"


def test_cuts_count_while_others_are_served(breaker) -> None:
    """A target that cuts its streams has sent each a token before: that must not shield it."""
    for number, owner in enumerate("abc"):
        permit = breaker.acquire()
        permit.answered(owner)
        permit.settle(ok=False, fault=suspect(number, body=number, owner=owner, early=False))
    assert breaker.state == "open"


def test_a_known_body_is_no_probe(breaker, clock) -> None:
    """A malformed request that becomes the probe neither keeps the circuit open nor holds up the next probe."""
    failing(breaker, *(suspect(number, body=number) for number in range(3)))
    clock.now = 10.0
    breaker.acquire().settle(ok=False, fault=suspect("again", body=1))
    assert breaker.state == "half_open"
    breaker.acquire().settle(ok=False, fault=suspect("new", body=9))
    assert breaker.state == "open"


def test_a_success_forgets(breaker) -> None:
    """After a success streams and bodies count anew."""
    failing(breaker, suspect(1, body=1), suspect(2, body=2))
    breaker.acquire().settle(ok=True)
    failing(breaker, suspect(1, body=1), suspect(2, body=2))
    assert breaker.state == "closed"


# --- a target without an alternative -----------------------------------------------------------------------------


def test_panic(breaker) -> None:
    """An open circuit lets sixteen requests at a time through to a target that has no alternative."""
    fail(breaker, 3)
    assert not breaker.admits(alone=False)
    permits = [breaker.acquire(alone=True) for _ in range(PANIC)]
    assert None not in permits
    assert breaker.acquire(alone=True) is None
    permits[0].settle(ok=False, fault=hard("x"))
    assert breaker.acquire(alone=True) is not None
    assert breaker.state == "open"


def test_panic_and_the_probe_are_sixteen_together(breaker, clock) -> None:
    """The probe is one of them; its failure opens the circuit anew, and theirs does not delay the next probe."""
    fail(breaker, 3)
    panicking = [breaker.acquire(alone=True) for _ in range(PANIC - 1)]
    clock.now = 10.0
    probe = breaker.acquire(alone=True)
    assert breaker.acquire(alone=True) is None
    panicking[0].settle(ok=False, fault=hard("x"))
    assert breaker.state == "half_open"
    probe.settle(ok=False, fault=hard("y"))
    assert breaker.opens_in == 10.0


@pytest.mark.parametrize("how", ["answered", "settled"])
def test_panic_that_is_answered_closes_the_circuit(breaker, how) -> None:
    """A token, or a whole answer, shows that the target is up again."""
    fail(breaker, 3)
    permit, other = breaker.acquire(alone=True), breaker.acquire(alone=True)
    if how == "answered":
        permit.answered("a")
    else:
        permit.settle(ok=True)
    assert breaker.state == "closed"
    other.settle(ok=False)
    assert breaker.state == "closed"
    assert breaker.acquire() is not None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None, "answered", "wait"]))))
def test_no_place_is_lost(steps) -> None:
    """After any events that have come to their end, an open circuit has its sixteen places, no more and no fewer."""
    clock = Clock()
    breaker = Breaker(2, 10.0, clock)
    running = []
    for ask, outcome in steps:
        if ask and (permit := breaker.acquire(alone=True)) is not None:
            running.append(permit)
        if outcome == "wait":
            clock.now += 6.0
        elif running and outcome == "answered":
            running[0].answered("a")
        elif running:
            running.pop(0).settle(ok=outcome, fault=hard(clock.now) if outcome is False else None)
    for permit in running:
        permit.settle(ok=None)
    while breaker.state == "closed":
        fail(breaker, 1)
    permits = [breaker.acquire(alone=True) for _ in range(PANIC + 1)]
    assert permits.count(None) == 1
    for permit in permits[:-1]:
        permit.settle(ok=None)
    clock.now += 10.0
    assert breaker.acquire() is not None
