"""Records that a store has lost: where a reader must skip, and what it is told."""

from collections.abc import Sequence
from dataclasses import replace

import orjson

from server.core.errors import error_body
from server.core.lifecycle import State
from server.core.native import last_events
from server.core.records import Ending, Form

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
    """Return the event that tells a reader what is lost; it has no `id:`, so the client's cursor stays what it was.

    Where `earliest` is past `latest` nothing is left.
    """
    fields = {"requested": requested, "earliest": earliest, "latest": latest}
    if form == "native":
        return _unnumbered("gap", orjson.dumps({"type": "gap", **fields}))
    goes_on = f"it goes on from {earliest}" if earliest <= latest else "nothing comes after them"
    error = error_body(
        f"Records {requested} to {earliest - 1} of this stream were lost; {goes_on}.", "gap", "api_error"
    )
    error["error"] |= fields
    return _unnumbered("", orjson.dumps(error))


def broken_off(form: Form, after: int, tail: int, ending: Ending) -> bytes:
    """Return the last events of a reader for whom an ended stream has no records any more after number `after`."""
    gap = gap_event(form, after + 1, tail + 1, tail)
    if form == "openai":
        return gap
    error = error_body("The rest of this stream is gone.", "gap", "api_error")
    error["error"]["retryable"] = True
    failed = replace(ending, state=State.FAILED, reason="gap", error=error)
    return gap + b"".join(_unnumbered(kind, data) for kind, data in last_events(failed))


def fault_event(form: Form, error: dict[str, object]) -> bytes:
    """Return the event of an error that could not be logged; it has no `id:`, and the stream may still go on."""
    if form == "native":
        fields = {"type": "error", "message": error["message"], "code": error["code"], "retryable": True,
                  "resumable": True}  # fmt: skip
        return _unnumbered("error", orjson.dumps(fields))
    return _unnumbered("", orjson.dumps({"error": error}))


def _unnumbered(kind: str, data: bytes) -> bytes:
    """Return an event without `id:`: the client's cursor stays what it was."""
    head = b"event: %b\n" % kind.encode() if kind else b""
    return b"%bdata: %b\n\n" % (head, data)
