"""What one event of an upstream's stream is: a chunk, an error, or nothing that concerns the answer.

OpenAI's own SDK (`openai/_streaming.py`) is the measure: it hands on whatever Python's `json` reads, and takes an
`error` that is not empty for an error, under any name of the event. What it hands on and no program can use is passed
over here, as browsers pass over events with a name that nobody listens to (WHATWG HTML, section 9.2).
"""

from itertools import islice
from typing import Any

from server.core.errors import Kind, UpstreamError
from server.core.openai.chunks import Chunk, well_formed
from server.core.openai.sse import Event
from server.core.recovery.classify import in_band
from server.core.wide_json import loads

# Names of events with chunks. Others are keep-alive events (`ping`, `heartbeat`) or belong to another API.
NAMES = (b"", b"message")
MAX_DEPTH = 6  # objects within each other that are looked into
MAX_PARTS = 100  # parts of each of them


def value_of(event: Event) -> Any:
    """Return the JSON of an event, or None if it says nothing. Raises UpstreamError if it is not JSON."""
    if not event.data or event.data.isspace():
        if event.type == b"error":
            raise in_band("")
        return None
    try:
        return loads(event.data)
    except ValueError as error:
        if event.type == b"error":
            raise in_band(event.data.decode("utf-8", "replace")) from error
        if event.type not in NAMES:
            return None
        raise UpstreamError(Kind.GARBAGE, "The upstream sent a frame that is not JSON.") from error


def chunk_of(event: Event, value: Any) -> Chunk | None:
    """Return the chunk that the JSON of an event is, or None if it is passed over.

    Raises:
        UpstreamError: it is an error, or it says something that the gateway cannot read.

    """
    if event.type == b"error" or is_error(value):
        raise in_band(value)
    if event.type not in NAMES or not value:
        return None
    if not isinstance(value, dict):
        raise _unusable()
    if value.get("choices") and not well_formed(value):
        raise _unusable()
    return value


def is_error(value: object) -> bool:
    """Whether the JSON of a frame or of a whole answer is an error: Gemini puts its errors into an array.

    Beside `error`: `object` (older versions of vLLM), `type` (Anthropic) and `base_resp` (MiniMax).
    """
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return False
    status = value.get("base_resp")
    return (
        says_something(value.get("error"))
        or value.get("object") == "error"
        or value.get("type") == "error"
        or (isinstance(status, dict) and bool(status.get("status_code")))
    )


def says_something(error: object, depth: int = 0) -> bool:
    """Whether an `error` is one. Some upstreams send an empty one with every chunk, such as null, `{}` or no code."""
    if isinstance(error, dict | list) and depth < MAX_DEPTH:
        parts = error.values() if isinstance(error, dict) else error
        return any(says_something(part, depth + 1) for part in islice(parts, MAX_PARTS))
    return bool(error.strip() if isinstance(error, str) else error)


def _unusable() -> UpstreamError:
    return UpstreamError(Kind.UNUSABLE, "The upstream sent a frame that is not a chat completion chunk.")
