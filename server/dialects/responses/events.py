"""The events of a Responses stream: one record each. `kind` and the `type` in its data are the same.

Source: https://platform.openai.com/docs/api-reference/responses-streaming. The types are OpenAI's alone, because its
JavaScript helper raises an error at any other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from server.core.openai.sse import unnumbered
from server.core.records import Record, Tokens
from server.core.wide_json import dumps

API = "responses"  # the name of the dialect, and of what an upstream may speak
CREATED, QUEUED, IN_PROGRESS = "response.created", "response.queued", "response.in_progress"
COMPLETED, INCOMPLETE, FAILED = "response.completed", "response.incomplete", "response.failed"
ITEM_ADDED, ITEM_DONE = "response.output_item.added", "response.output_item.done"
PART_ADDED, PART_DONE = "response.content_part.added", "response.content_part.done"
TEXT, REFUSAL, REASONING = "response.output_text", "response.refusal", "response.reasoning_text"
ARGUMENTS, INPUT = "response.function_call_arguments", "response.custom_tool_call_input"
ANNOTATION = "response.output_text.annotation.added"
IMAGE = "image_generation_call"  # the type of an item
ERROR = "error"
DONE = "done"  # the kind of the last record, which is no event
DONE_RECORD = Record(DONE, b"[DONE]")
TEXT_DELTA = f"{TEXT}.delta"
TERMINAL = (COMPLETED, INCOMPLETE, FAILED)
LIFECYCLE = (CREATED, QUEUED, IN_PROGRESS, *TERMINAL)


def event(kind: str, number: int, fields: Mapping[str, Any]) -> Record:
    """Return the record of one event. `number` is its `sequence_number`: that of the record, less one."""
    return Record(kind, dumps({"type": kind, "sequence_number": number, **fields}))


def error_fields(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an `error` event.

    The API reference has them flat. OpenAI's servers nest them, and its SDKs raise for nested ones alone. So both.
    """
    fields = {name: error.get(name) for name in ("code", "message", "param")}
    return {**fields, "error": {"type": error.get("type"), **fields}}


def frames(first: int, records: Sequence[Record]) -> bytes:
    """Return the bytes that a client gets for records: `event:`, `id:` and `data:`. JSON has no line end."""
    if isinstance(records, Tokens):
        kind, before, after = records.kind.encode(), records.before, records.after
        if len(records.texts) == 1:
            return b"event: %b\nid: %d\ndata: %b%b%b\n\n" % (kind, first, before, records.texts[0], after)
        return b"".join(
            [
                b"event: %b\nid: %d\ndata: %b%b%b\n\n" % (kind, seq, before, text, after)
                for seq, text in enumerate(records.texts, first)
            ]
        )
    return b"".join([_frame(seq, kind, data) for seq, (kind, data) in enumerate(records, first)])


def _frame(seq: int, kind: str, data: bytes) -> bytes:
    if kind == DONE:
        return b"id: %d\ndata: %b\n\n" % (seq, data)
    return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), seq, data)


def fault_frame(error: Mapping[str, Any]) -> bytes:
    """Return an `error` event that is no record: it has no number, so the client's cursor stays."""
    return unnumbered(dumps({"type": ERROR, **error_fields(error)}), ERROR.encode())
