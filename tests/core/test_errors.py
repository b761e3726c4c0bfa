"""The tree of errors: OpenAI's bodies, and what each kind of upstream failure means."""

import pytest

from server.core.errors import (
    TRAITS,
    Fenced,
    Kind,
    Rejected,
    SluicewayError,
    StoreError,
    StreamError,
    UpstreamError,
    kind_of_status,
)

# Contract, Breaker: "connection faults, timeouts, 5xx, cuts and garbage count; 4xx, 429 and client cancels do not".
COUNT = {
    Kind.DNS, Kind.CONNECT, Kind.TLS, Kind.RESET, Kind.CUT, Kind.TRUNCATED, Kind.GARBAGE, Kind.CONNECT_TIMEOUT,
    Kind.TTFT_TIMEOUT, Kind.IDLE_TIMEOUT, Kind.OVERLOADED, Kind.IN_BAND,
}  # fmt: skip


@pytest.mark.parametrize("kind", Kind)
def test_traits(kind: Kind) -> None:
    """Each kind has its row; the circuit counts what the contract says, and statuses are those of its table."""
    trait = TRAITS[kind]
    assert trait.breaks is (kind in COUNT)
    assert trait.status == 504 if "timeout" in kind.value else 400 <= trait.status < 600
    if trait.same:
        assert trait.other, "what the same target may do better another one may do too"


def test_never_again() -> None:
    """What the caller asked for wrongly is asked nowhere else; what this target cannot do is asked elsewhere only."""
    nowhere = {kind for kind, trait in TRAITS.items() if not trait.other}
    assert nowhere == {Kind.CONTENT_POLICY, Kind.BAD_REQUEST}
    assert not TRAITS[Kind.CONTEXT_LENGTH].same
    assert TRAITS[Kind.CONTEXT_LENGTH].other


def test_upstream_body() -> None:
    """The upstream's own status, code, type and param win; without them the kind speaks."""
    own = UpstreamError(Kind.BAD_REQUEST, "No", status=422, code="bad", type="t", param="n")
    assert own.http_status == 422
    assert own.body() == {"error": {"message": "No", "type": "t", "param": "n", "code": "bad"}}
    ours = UpstreamError(Kind.TTFT_TIMEOUT, "Late")
    assert ours.http_status == 504
    wanted = {"message": "Late", "type": "api_error", "param": None, "code": "upstream_ttft_timeout"}
    assert ours.body() == {"error": wanted}
    assert str(ours) == "Late"


def test_other_bodies() -> None:
    """A rejection and a stream's own error have the same shape."""
    rejected = Rejected(429, "Slow down", "rate_limit_exceeded", retry_after=2.0)
    assert rejected.body()["error"] == {
        "message": "Slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded",
    }  # fmt: skip
    assert StreamError("Gone", "cancelled", 499).body()["error"]["type"] == "api_error"
    assert [str(error) for error in (rejected, StreamError("Gone", "cancelled", 499))] == ["Slow down", "Gone"]


def test_tree() -> None:
    """Everything of ours is caught by the root, and a fence by whoever watches the store."""
    for error in (Rejected, UpstreamError, StreamError, StoreError):
        assert issubclass(error, SluicewayError)
    assert issubclass(Fenced, StoreError)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "invalid_request_error"),
     (429, "rate_limit_error"), (499, "api_error"), (500, "api_error"), (504, "api_error")],
)  # fmt: skip
def test_kind_of_status(status: int, kind: str) -> None:
    """OpenAI's `type` follows the status."""
    assert kind_of_status(status) == kind
