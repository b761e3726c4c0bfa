"""The built-in strategies as tables, and what holds for every strategy under any failure."""

import math
from dataclasses import replace
from importlib.metadata import entry_points

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import TRAITS, Kind
from server.core.ports import Continue, Delivered, Failure, GiveUp, Restart, Resume, Retry, TargetView
from server.recovery.strategies import Auto, ContinueOnly, Nothing, RestartOnly, RetryOnly

BUILT_IN = {"none": Nothing, "retry": RetryOnly, "restart": RestartOnly, "continue": ContinueOnly, "auto": Auto}
TEXT = Delivered(tokens=10, characters=40)


def view(attempts: int = 0, last: Kind | None = None, **fields) -> TargetView:
    """Return a target."""
    return TargetView(**{"name": "t", "attempts": attempts, "continuation": "none", "available": True, "last": last,
                         **fields})  # fmt: skip


def failed(kind: Kind, *others: TargetView, attempts: int = 1, mine=None, **fields) -> Failure:
    """Return a failure of target 0, with `attempts` made there; the jitter is none."""
    first = view(attempts, kind, wait=fields.get("retry_after"), **(mine or {}))
    made = Failure(
        kind=kind,
        same=TRAITS[kind].same,
        other=TRAITS[kind].other,
        retry_after=None,
        target=0,
        targets=(first, *others),
        delivered=Delivered(),
        recoveries=0,
        diverged=False,
        time_left=100.0,
        client_present=True,
        max_retries=2,
        max_recoveries=3,
        backoff=0.5,
        jitter=1.0,
    )
    return replace(made, **fields)


CAN = {"continuation": "assistant"}
BEFORE = [
    ("first failure", failed(Kind.OVERLOADED, view()), Retry(0.5)),
    ("second failure: twice the wait", failed(Kind.OVERLOADED, view(), attempts=2), Retry(1.0)),
    ("attempts used up", failed(Kind.OVERLOADED, view(), attempts=3), Restart(1)),
    ("nobody left", failed(Kind.OVERLOADED, view(3, Kind.RESET), attempts=3), GiveUp()),
    ("silent", failed(Kind.TTFT_TIMEOUT, view()), Restart(1)),
    ("silent, alone", failed(Kind.TTFT_TIMEOUT), Retry(0.5)),
    ("silent, alone, again", failed(Kind.TTFT_TIMEOUT, attempts=2), Retry(1.0)),
    ("silent, alone, attempts used up", failed(Kind.TTFT_TIMEOUT, attempts=3), GiveUp()),
    ("silent, the other one is no use", failed(Kind.TTFT_TIMEOUT, view(1, Kind.CONTEXT_LENGTH)), Retry(0.5)),
    ("not connected, alone", failed(Kind.CONNECT_TIMEOUT), Retry(0.5)),
    ("no TLS, alone", failed(Kind.TLS), GiveUp()),
    ("both silent: in turns", failed(Kind.TTFT_TIMEOUT, view(1, Kind.TTFT_TIMEOUT)), Restart(1)),
    ("both silent, the other used up", failed(Kind.TTFT_TIMEOUT, view(3, Kind.TTFT_TIMEOUT)), Retry(0.5)),
    ("the silent one after the other", failed(Kind.RESET, view(1, Kind.TTFT_TIMEOUT), attempts=3), Restart(1)),
    ("back to an earlier one, with its backoff", failed(Kind.RESET, view(2, Kind.RESET), attempts=3), Restart(1, 1.0)),
    ("an open circuit is passed over", failed(Kind.RESET, view(available=False), view(), attempts=3), Restart(2)),
    ("my circuit is open", failed(Kind.RESET, view(), mine={"available": False}), Restart(1)),
    ("context length", failed(Kind.CONTEXT_LENGTH, view()), Restart(1)),
    ("context length before", failed(Kind.RESET, view(1, Kind.CONTEXT_LENGTH), attempts=3), GiveUp()),
    ("content policy", failed(Kind.CONTENT_POLICY, view()), GiveUp()),
    ("bad request", failed(Kind.BAD_REQUEST, view()), GiveUp()),
    ("Retry-After wins", failed(Kind.RATE_LIMIT, view(), retry_after=2.0), Retry(2.0)),
    ("Retry-After: 0", failed(Kind.RATE_LIMIT, view(), retry_after=0.0), Retry(0.0)),
    ("Retry-After of ten seconds", failed(Kind.RATE_LIMIT, view(), retry_after=10.0), Retry(10.0)),
    ("Retry-After over ten", failed(Kind.RATE_LIMIT, view(), retry_after=10.1), Restart(1)),
    ("Retry-After over the time left", failed(Kind.RATE_LIMIT, view(), retry_after=3.0, time_left=2.0), Restart(1)),
    ("Retry-After elsewhere", failed(Kind.RESET, view(1, Kind.RATE_LIMIT, wait=60.0), attempts=3), GiveUp()),
    ("the client has left", failed(Kind.RESET, view(), client_present=False), GiveUp()),
    ("no time left", failed(Kind.RESET, view(), time_left=0.0), GiveUp()),
    ("it goes on with its answer", failed(Kind.CUT, view(), resumable=True), Resume(0.5)),
    ("… and it has had its attempts", failed(Kind.CUT, view(), resumable=True, attempts=3), Resume(2.0)),
    ("… and its circuit is open", failed(Kind.CUT, view(), resumable=True, mine={"available": False}), Restart(1)),
    ("… and the client has left", failed(Kind.CUT, view(), resumable=True, client_present=False), GiveUp()),
    ("a backoff is bounded", failed(Kind.RESET, attempts=3, max_retries=900, backoff=60.0), Retry(10.0)),
]
AFTER = [
    ("cut: the same once", failed(Kind.CUT, view(), delivered=TEXT), Restart(0, 0.5)),
    ("cut again: another", failed(Kind.CUT, view(), delivered=TEXT, attempts=2), Restart(1)),
    ("cut again, alone", failed(Kind.CUT, delivered=TEXT, attempts=2), Restart(0, 1.0)),
    ("stall: another", failed(Kind.IDLE_TIMEOUT, view(), delivered=TEXT), Restart(1)),
    ("stall, alone", failed(Kind.IDLE_TIMEOUT, delivered=TEXT), Restart(0, 0.5)),
    ("a silent restart, alone", failed(Kind.TTFT_TIMEOUT, delivered=TEXT, attempts=2), Restart(0, 1.0)),
    ("a silent restart: another", failed(Kind.TTFT_TIMEOUT, view(), delivered=TEXT, attempts=2), Restart(1)),
    ("a silent restart, attempts used up", failed(Kind.TTFT_TIMEOUT, delivered=TEXT, attempts=3), GiveUp()),
    ("a silent continuation, alone",
     failed(Kind.TTFT_TIMEOUT, mine=CAN, delivered=TEXT, attempts=2, diverged=True), Continue(0, 1.0)),
    ("it goes on with its answer", failed(Kind.CUT, view(), delivered=TEXT, resumable=True), Resume(0.5)),
    ("… calls too", failed(Kind.CUT, view(), delivered=replace(TEXT, calls=True), resumable=True), Resume(0.5)),
    ("… in a restart", failed(Kind.CUT, view(), delivered=TEXT, resumable=True, diverged=True), Resume(0.5)),
    ("… recoveries used up", failed(Kind.CUT, view(), delivered=TEXT, resumable=True, recoveries=3), GiveUp()),
    ("recoveries used up", failed(Kind.CUT, view(), delivered=TEXT, recoveries=3), GiveUp()),
    ("a takeover is none", failed(Kind.CUT, view(), delivered=TEXT, max_recoveries=0, takeover=True), Restart(0, 0.5)),
    ("the client has left", failed(Kind.CUT, view(), delivered=TEXT, client_present=False), GiveUp()),
    ("a tool call", failed(Kind.CUT, view(**CAN), mine=CAN, delivered=replace(TEXT, calls=True)), GiveUp()),
    ("reasoning: restart only", failed(Kind.CUT, view(), mine=CAN, delivered=replace(TEXT, reasoning=True)),
     Restart(0, 0.5)),
    ("diverged: continue there", failed(Kind.DIVERGED, view(), mine=CAN, delivered=TEXT, diverged=True), Continue(0)),
    ("diverged: continue elsewhere", failed(Kind.DIVERGED, view(**CAN), delivered=TEXT, diverged=True), Continue(1)),
    ("diverged: nobody can", failed(Kind.DIVERGED, view(), delivered=TEXT, diverged=True), GiveUp()),
    ("diverged once is enough", failed(Kind.CUT, view(), delivered=TEXT, diverged=True), GiveUp()),
    *[
        (f"diverged: {name} cannot be continued",
         failed(Kind.DIVERGED, view(**CAN), mine=CAN, delivered=replace(TEXT, **{name: value}), diverged=True),
         GiveUp())
        for name, value in [("reasoning", True), ("structured", True), ("tools", True), ("choices", 2)]
    ],
]  # fmt: skip


@pytest.mark.parametrize(("failure", "wanted"), [row[1:] for row in BEFORE], ids=[row[0] for row in BEFORE])
@pytest.mark.parametrize("name", ["retry", "restart", "continue", "auto"])
def test_before_content(name, failure, wanted) -> None:
    """Before content every strategy but `none` takes the same steps."""
    assert BUILT_IN[name]().decide(failure) == wanted


@pytest.mark.parametrize(("failure", "wanted"), [row[1:] for row in AFTER], ids=[row[0] for row in AFTER])
def test_auto_after_content(failure, wanted) -> None:
    """After content `auto` restarts, then continues, then gives up."""
    assert Auto().decide(failure) == wanted


def test_the_other_strategies_after_content() -> None:
    """After content `none` and `retry` give up, `restart` never continues, `continue` never restarts."""
    failure = failed(Kind.CUT, view(**CAN), mine=CAN, delivered=TEXT)
    assert [BUILT_IN[name]().decide(failure) for name in BUILT_IN] == [
        GiveUp(), GiveUp(), Restart(0, 0.5), Continue(0, 0.5), Restart(0, 0.5),
    ]  # fmt: skip
    resumable = replace(failure, resumable=True)
    assert [BUILT_IN[name]().decide(resumable) for name in BUILT_IN] == [GiveUp(), GiveUp(), *[Resume(0.5)] * 3]
    assert RestartOnly().decide(failed(Kind.DIVERGED, mine=CAN, delivered=TEXT, diverged=True)) == GiveUp()


def test_registered() -> None:
    """The built-in strategies are registered as third parties' would be."""
    registered = {point.name: point.load() for point in entry_points(group="sluiceway.recovery")}
    assert registered.items() >= BUILT_IN.items()


views = st.builds(
    TargetView,
    name=st.just("t"),
    attempts=st.integers(0, 4),
    continuation=st.sampled_from(["none", "assistant", "user_turn"]),
    available=st.booleans(),
    last=st.sampled_from([None, *Kind]),
    wait=st.one_of(st.none(), st.floats(0, 100)),
)
delivered = st.builds(
    Delivered,
    characters=st.integers(0, 2),
    reasoning=st.booleans(),
    calls=st.booleans(),
    structured=st.booleans(),
    choices=st.integers(1, 2),
    tools=st.booleans(),
)


@st.composite
def failures(draw) -> Failure:
    """Draw a failure whose parts agree with each other."""
    kind, made = draw(st.sampled_from(list(Kind))), draw(delivered)
    targets = draw(st.lists(views, min_size=1, max_size=4))
    index = draw(st.integers(0, len(targets) - 1))
    wait = draw(st.one_of(st.none(), st.floats(0, 100)))
    attempts = max(1, targets[index].attempts)
    targets[index] = replace(targets[index], attempts=attempts, last=kind, wait=wait)
    return failed(
        kind,
        target=index,
        targets=tuple(targets),
        retry_after=wait,
        delivered=made,
        recoveries=draw(st.integers(0, 4)),
        diverged=draw(st.booleans()),
        time_left=draw(st.floats(-1, 100)),
        client_present=draw(st.booleans()),
        max_retries=draw(st.integers(0, 3)),
        jitter=draw(st.floats(0, 1)),
        resumable=draw(st.booleans()),
    )


@pytest.mark.parametrize("name", BUILT_IN)
@given(failure=failures())
def test_every_decision_can_be_carried_out(name, failure) -> None:
    """For any failure the decision is one that the relay can carry out, and that the settings allow."""
    decision = BUILT_IN[name]().decide(failure)
    if isinstance(decision, GiveUp):
        return
    if isinstance(decision, Resume):
        assert failure.resumable
        assert failure.client_present
        assert failure.targets[failure.target].available
        assert 0 <= decision.wait <= min(10.0, failure.time_left)
        return
    target = failure.target if isinstance(decision, Retry) else decision.target
    asked, gone = failure.targets[target], failure.delivered
    begun = gone.characters or gone.calls or gone.reasoning
    assert asked.available
    assert asked.attempts <= failure.max_retries
    assert math.isfinite(decision.wait)
    assert 0 <= decision.wait <= min(10.0, failure.time_left)
    assert failure.client_present
    assert not gone.calls
    assert asked.last is not Kind.CONTEXT_LENGTH
    assert failure.kind is not Kind.CONTENT_POLICY or begun
    assert not (begun and isinstance(decision, Retry))
    assert not (begun and failure.recoveries >= failure.max_recoveries)
    if isinstance(decision, Continue):
        assert asked.continuation != "none"
        assert not any([gone.reasoning, gone.structured, gone.tools, gone.choices != 1])
