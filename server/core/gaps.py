"""Records that a store has lost: where a reader must skip, and what it is told."""

from collections.abc import Sequence

import orjson

from server.core.errors import error_body
from server.core.records import Form

Lost = Sequence[tuple[int, int]]


def resume_at(lost: Lost, after: int) -> int:
    """Return the cursor to read on from: `after`, or the last lost number of the run that follows it."""
    for first, last in lost:
        if first <= after + 1 <= last:
            after = last
    return after


def upper_bound(lost: Lost, after: int, tail: int) -> int:
    """Return the last number that can be read from `after` on without crossing lost records."""
    return min([tail, *(first - 1 for first, _ in lost if first > after)])


def gap_event(form: Form, requested: int, earliest: int, latest: int) -> bytes:
    """Return the event that tells a reader what is lost; it has no `id:`, so the client's cursor stays what it was."""
    if form == "native":
        fields = {"type": "gap", "requested": requested, "earliest": earliest, "latest": latest}
        return b"event: gap\ndata: %b\n\n" % orjson.dumps(fields)
    words = f"Records {requested} to {earliest - 1} of this stream were lost; it goes on from {earliest}."
    error = error_body(words, "gap", "api_error")
    error["error"] |= {"requested": requested, "earliest": earliest, "latest": latest}
    return b"data: %b\n\n" % orjson.dumps(error)


def fault_event(form: Form, error: dict[str, object]) -> bytes:
    """Return the event of an error that could not be logged; it has no `id:`, and the stream may still go on."""
    if form == "native":
        fields = {"type": "error", "message": error["message"], "code": error["code"], "retryable": True,
                  "resumable": True}  # fmt: skip
        return b"event: error\ndata: %b\n\n" % orjson.dumps(fields)
    return b"data: %b\n\n" % orjson.dumps({"error": error})
