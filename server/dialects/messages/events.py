"""The events of the Messages API as records, with the ids that they name.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from typing import Any

from server.core.records import Record
from server.core.wide_json import dumps

MESSAGE_START, MESSAGE_DELTA, MESSAGE_STOP = "message_start", "message_delta", "message_stop"
BLOCK_START, BLOCK_DELTA, BLOCK_STOP = "content_block_start", "content_block_delta", "content_block_stop"
SIGNATURE = "signature_delta"
PING, ERROR = "ping", "error"
PING_RECORD = Record(PING, b'{"type":"ping"}')
STOP_RECORD = Record(MESSAGE_STOP, b'{"type":"message_stop"}')

# The names of a block's deltas, each with the field that has its text.
DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def event(kind: str, **fields: Any) -> Record:
    """Return the record of one event. Its name and the `type` in its data are the same."""
    return Record(kind, dumps({"type": kind, **fields}))


def delta_event(index: int, kind: str, text: str) -> Record:
    """Return the event of a piece of a block's text."""
    data = b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}' % (
        index,
        kind.encode(),
        DELTAS[kind].encode(),
        dumps(text),
    )
    return Record(BLOCK_DELTA, data)


def text_head(index: int) -> bytes:
    """Return how the event of a piece of text in a block begins. The text as JSON and two braces follow."""
    return b'{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":' % index


def message_id(stream_id: str) -> str:
    """Return the id of the message of a stream."""
    return f"msg_{_random_part(stream_id)}"


def call_id(stream_id: str, index: int) -> str:
    """Return the id of the call in block `index`, for an upstream that gave none. It is the same after a takeover."""
    return f"toolu_{_random_part(stream_id)}_{index}"


def _random_part(stream_id: str) -> str:
    return stream_id.rpartition("strm_")[2]
