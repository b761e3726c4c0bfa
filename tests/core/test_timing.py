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
    """A first token is counted from the head, and not at all without one."""
    assert Phases(started=1.0, first_token=4.0).durations() == {}
