"""Which failure is a silence that ended, and which is a cut."""

import pytest

from server.core.errors import Kind, UpstreamError
from server.core.recovery.silence import name_silence

# what, the error's kind and status, whether it has a token, the kind after a long silence
HUNG_UP = [
    ("no head", Kind.RESET, None, False, Kind.TTFT_TIMEOUT),
    ("a head, no token", Kind.CUT, None, False, Kind.TTFT_TIMEOUT),
    ("a clean end without a token", Kind.GARBAGE, None, False, Kind.TTFT_TIMEOUT),
    ("a proxy's 504", Kind.OVERLOADED, 504, False, Kind.TTFT_TIMEOUT),
    ("Cloudflare's 524", Kind.OVERLOADED, 524, False, Kind.TTFT_TIMEOUT),
    ("Cloudflare's 522", Kind.OVERLOADED, 522, False, Kind.TTFT_TIMEOUT),
    ("408", Kind.REQUEST_TIMEOUT, 408, False, Kind.TTFT_TIMEOUT),
    ("a cut in the middle", Kind.CUT, None, True, Kind.IDLE_TIMEOUT),
    ("a clean end in the middle", Kind.TRUNCATED, None, True, Kind.IDLE_TIMEOUT),
]


@pytest.mark.parametrize(("kind", "status", "has_token", "silent"), [row[1:] for row in HUNG_UP])
@pytest.mark.parametrize(("silent_for", "counts"), [(7.4, False), (7.5, True), (25.0, True), (30.015, True)])
def test_hanging_up(kind, status, has_token, silent, silent_for, counts) -> None:
    """From a quarter of the limit on, an upstream that hangs up was silent. Its own words stay."""
    error = UpstreamError(kind, "words", status=status)
    name_silence(error, silent_for, 30.0, has_token=has_token)
    assert error.kind is (silent if counts else kind)
    assert (error.message == "words") is (not counts or status is not None)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Kind.OVERLOADED, 500),
        (Kind.OVERLOADED, 503),
        (Kind.RATE_LIMIT, 429),
        (Kind.CONNECT, None),
        (Kind.TLS, None),
        (Kind.IN_BAND, None),
        (Kind.DIVERGED, None),
        (Kind.BAD_REQUEST, 400),
    ],
)
def test_other_failures(kind, status) -> None:
    """An upstream that says what is wrong, however late, was not silent."""
    error = UpstreamError(kind, "words", status=status)
    name_silence(error, 29.0, 30.0, has_token=False)
    assert (error.kind, error.message) == (kind, "words")
