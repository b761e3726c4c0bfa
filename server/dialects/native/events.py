"""The events of the native protocol: their names, and how one becomes a record (docs/protocol.md)."""

from typing import Any

from server.core.errors import StreamError
from server.core.openai.sse import frame, unnumbered
from server.core.openai.tool_calls import ToolCall
from server.core.records import Ending, Record
from server.core.wide_json import dumps

START, TOKEN, REASONING, TOOL_CALL, TOOL_RESULT = "start", "token", "reasoning", "tool_call", "tool_result"
DELTA, RECOVERY, ERROR, GAP, DONE = "delta", "recovery", "error", "gap", "done"


def event(kind: str, **fields: Any) -> Record:
    """Return the record of one event. Its `kind` and the `type` in its data are the same."""
    return Record(kind, dumps({"type": kind, **fields}))


def call_event(call: ToolCall, *, server: bool) -> Record:
    """Return the event of a tool call. `server`: the server runs it. It has `raw` if the arguments are no JSON."""
    fields = {"id": call.id, "name": call.name, "arguments": call.arguments, "incomplete": call.incomplete}
    if call.error is not None:
        fields |= {"raw": call.raw, "error": call.error}
    return event(TOOL_CALL, **fields, server=server)


def delta_event(delta: dict[str, Any]) -> Record:
    """Return the event of what a delta carries and no other event tells. Raises StreamError if it cannot be written."""
    try:
        return event(DELTA, delta=delta)
    except RecursionError:
        raise StreamError("The upstream's delta is nested too deeply.", "upstream_garbage", 502) from None


def event_frame(seq: int, record: Record) -> bytes:
    """Return the bytes that a client gets for an event."""
    return frame(seq, record.data, record.kind.encode())


def unnumbered_frame(record: Record) -> bytes:
    """Return the bytes that a client gets for an event without an `id:`."""
    return unnumbered(record.data, record.kind.encode())


def last_events(ending: Ending) -> list[Record]:
    """Return the error, if there is one, and `done`."""
    done = event(
        DONE,
        status=ending.state.value,
        reason=ending.reason,
        token_count=ending.tokens,
        usage=ending.usage,
        ttft_ms=ending.ttft_ms,
    )
    if ending.error is None:
        return [done]
    error = ending.error["error"]
    # The log ends here, so a client that resumes this stream gets nothing more.
    fields = {"retryable": bool(error.get("retryable")), "resumable": False}
    return [event(ERROR, message=error["message"], code=error["code"], **fields), done]
