"""Tells an upstream that was silent from one that was cut off.

A proxy in front of a stuck server hangs up at a limit of its own, often within a second of ours. To ask the same target
again would cost the client that limit once more, while another target would answer.
"""

from server.core.errors import Kind, UpstreamError

SHARE = 0.25  # of its limit, after which an upstream counts as silent
# Ways to hang up, and what a proxy says when it has waited in vain (504; Cloudflare's 522 and 524).
HANG_UPS = frozenset({Kind.RESET, Kind.CUT, Kind.TRUNCATED, Kind.GARBAGE, Kind.REQUEST_TIMEOUT})
TIMED_OUT = frozenset({504, 522, 524})


def name_silence(error: UpstreamError, silent_for: float, limit: float, *, has_token: bool) -> None:
    """Make `error` a timeout if it ended a long silence. What the upstream itself said about it stays.

    `silent_for` is the time without a token, in seconds, and `limit` the most that was allowed: to the first token, or
    between two tokens if the attempt `has_token`.
    """
    hung_up = error.kind in HANG_UPS or (error.kind is Kind.OVERLOADED and error.status in TIMED_OUT)
    if not hung_up or silent_for < SHARE * limit:
        return
    error.kind = Kind.IDLE_TIMEOUT if has_token else Kind.TTFT_TIMEOUT
    if error.status is None:
        error.message = f"The upstream hung up after {silent_for:.1f} seconds without a token."
