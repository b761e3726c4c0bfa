"""The phases of one attempt."""

from server.core.timing import Phases


def test_durations() -> None:
    """A phase that did not happen is left out: a reused connection has neither DNS nor connect nor TLS."""
    assert Phases(started=1.0).durations() == {}
    phases = Phases(started=1.0, sent=2.0, headers=2.5, first_token=4.0)
    assert phases.durations() == {"headers": 0.5, "first_token": 1.5}
    assert Phases(started=1.0, dns=0.0, connect=0.25, tls=0.5, sent=2.0).durations() == {
        "dns": 0.0, "connect": 0.25, "tls": 0.5,
    }  # fmt: skip


def test_token_without_a_head() -> None:
    """The time to the first token is counted from the head. Without a first token there is none."""
    assert Phases(started=1.0, first_token=4.0).durations() == {}


def test_tls_is_no_part_of_connecting() -> None:
    """The time of the handshake is no part of `connect`, though it lies before the usable connection."""
    phases = Phases(started=0.0, connecting=1.0, tls=0.5)
    phases.connected(1.75)
    assert phases.connect == 0.25
    phases = Phases(started=0.0)
    phases.connected(9.0)
    assert phases.connect is None  # an idle connection was taken


def test_overhead() -> None:
    """The gateway's own time ends when its request is sent, without the time for connecting."""
    assert Phases(started=1.0, received=0.5, sent=2.0, waited=1.25).overhead == 0.25
    assert Phases(started=1.0, sent=2.0).overhead is None
    assert Phases(started=1.0, received=0.5).overhead is None


def test_a_connection_begun_ahead() -> None:
    """An attempt that waited for a connection shows the phases of that, and its own wait for the rest only."""
    made = Phases(started=0.0, dns=0.1, connect=0.2, tls=0.3)
    phases = Phases(started=0.5, received=0.0, sent=0.75)
    phases.joined(made, 0.125)
    assert phases.durations() == {"dns": 0.1, "connect": 0.2, "tls": 0.3}
    assert phases.overhead == 0.625
