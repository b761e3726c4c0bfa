"""Whether this process follows, takes over, ends or leaves alone a stream that has not ended.

One pure function decides. `Takeover` gathers what it has to know, and does what it says.

A stream is *followed* for its readers here while another instance relays it. To *take it over* is to claim its log and
to begin a relay that goes on behind the last record. To *end* it is to claim its log and to write its ending. The store
may refuse a claim: it knows whether the stream's holder is alive, this process does not. What is refused is decided
again later.
"""

from dataclasses import dataclass
from enum import Enum, auto

from server.core.records import Policy


class Decision(Enum):
    """What to do about a stream now."""

    LEAVE = auto()
    FOLLOW = auto()
    TAKE_OVER = auto()
    END = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What this process knows of a stream without an ending."""

    live: bool = False  # its relay is here
    claiming: bool = False  # its log is being claimed here at this moment
    draining: bool = False  # this process is about to go
    aborting: bool = False  # a client waits for its ending
    owes_ending: bool = False  # its relay was here and stopped by somebody, but the store could not take the ending
    growing: bool = False  # another instance has just written to it
    read: bool = False  # it has readers here
    policy: Policy = "cancel"
    interrupted: bool = False  # its relay was here and was stopped by the store
    alone: float = 0.0  # seconds since it was first seen here without a relay
    linger: float = 0.0  # seconds for which a stream may wait for a client to come back
    full: bool = False  # this process relays as many streams as it may


def decide(now: Situation) -> Decision:
    """Return what to do."""
    if now.live:
        return Decision.LEAVE
    if now.claiming or (now.draining and not now.aborting):
        return Decision.FOLLOW if now.read else Decision.LEAVE
    if now.aborting or now.owes_ending:
        return Decision.END
    if now.read:  # a reader came for it, so no limit holds it back; a stream that grows has a relay elsewhere
        return Decision.FOLLOW if now.growing else Decision.TAKE_OVER
    if now.policy == "cancel":
        return Decision.END if now.alone >= now.linger else Decision.LEAVE
    # A stream that ran here before had its place among the limit.
    return Decision.LEAVE if now.full and not now.interrupted else Decision.TAKE_OVER
