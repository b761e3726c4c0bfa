"""The table of states: what may follow what, and which ending a finish reason means."""

import itertools

import pytest

from server.core.lifecycle import ENDINGS, TRANSITIONS, ImpossibleTransitionError, State, advance, state_of

LIVE = [State.STARTING, State.STREAMING, State.RECOVERING]
ALLOWED = {
    (State.STARTING, State.STARTING),
    (State.STREAMING, State.STREAMING),
    (State.RECOVERING, State.RECOVERING),
    (State.STARTING, State.STREAMING),
    (State.STARTING, State.RECOVERING),
    (State.STREAMING, State.RECOVERING),
    (State.RECOVERING, State.STREAMING),
    *itertools.product(LIVE, [State.COMPLETE, State.INCOMPLETE, State.FAILED, State.CANCELLED]),
}


@pytest.mark.parametrize(("current", "new"), list(itertools.product(State, State)))
def test_every_pair(current: State, new: State) -> None:
    """Each pair of states is a transition, or raises ImpossibleTransitionError."""
    if (current, new) in ALLOWED:
        assert advance(current, new) is new
    else:
        with pytest.raises(ImpossibleTransitionError, match=f"{current} → {new}"):
            advance(current, new)


def test_table_is_whole() -> None:
    """The table has a row for each state, and nothing follows an ending."""
    assert set(TRANSITIONS) == set(State)
    assert {state for state, following in TRANSITIONS.items() if not following} == ENDINGS


def test_every_state_can_end() -> None:
    """Each ending can follow every live state directly."""
    assert all(TRANSITIONS[state] >= ENDINGS for state in LIVE)


@pytest.mark.parametrize(
    ("reasons", "state"),
    [
        ({"stop"}, State.COMPLETE),
        ({"tool_calls"}, State.COMPLETE),
        ({"function_call", "stop"}, State.COMPLETE),
        ({"a_new_one"}, State.COMPLETE),
        (set(), State.COMPLETE),
        ({"length"}, State.INCOMPLETE),
        ({"content_filter"}, State.INCOMPLETE),
        ({"stop", "length"}, State.INCOMPLETE),
        ({"model_length"}, State.INCOMPLETE),
        ({"SAFETY", "STOP"}, State.INCOMPLETE),
    ],
)
def test_state_of(reasons: set[str], state: State) -> None:
    """A generation is incomplete if a limit or a filter cut one of its choices short."""
    assert state_of(frozenset(reasons)) is state
