"""The life of a stream: one table, and the only place where a state changes.

starting ──► streaming ◄──► recovering
    │            │              │
    └────────────┴──────────────┴──► complete | incomplete | failed | cancelled
"""

from enum import StrEnum

from server.core.openai.finish_reasons import is_cut_short


class State(StrEnum):
    """The state of a stream. The last four are endings: nothing follows them."""

    STARTING = "starting"
    STREAMING = "streaming"
    RECOVERING = "recovering"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDINGS = frozenset({State.COMPLETE, State.INCOMPLETE, State.FAILED, State.CANCELLED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.STREAMING, State.RECOVERING}) | ENDINGS,
    State.STREAMING: frozenset({State.RECOVERING}) | ENDINGS,
    State.RECOVERING: frozenset({State.STREAMING}) | ENDINGS,
    **{ending: frozenset() for ending in ENDINGS},
}


class ImpossibleTransitionError(AssertionError):
    """A change of state that the table does not allow: a bug of the gateway, never of a client or an upstream."""


def advance(current: State, new: State) -> State:
    """Return `new` if the table allows it. A live state may follow itself.

    Raises:
        ImpossibleTransitionError: the table does not allow it.

    """
    if new in TRANSITIONS[current] or (new is current and current not in ENDINGS):
        return new
    raise ImpossibleTransitionError(f"{current} → {new}")


def state_of(finish_reasons: frozenset[str]) -> State:
    """Return the ending of a generation whose choices finished for these reasons."""
    return State.INCOMPLETE if any(map(is_cut_short, finish_reasons)) else State.COMPLETE
