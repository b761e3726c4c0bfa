"""What the client holds, read back from the log: the log is the truth, so nothing of it is kept twice."""

from collections.abc import Iterable

import orjson

from server.core.chunks import TEXT_FIELDS
from server.core.records import CHUNK, Form, Record
from server.core.seam import Texts


def texts(form: Form, records: Iterable[Record]) -> Texts:
    """Return the delivered texts by choice and field."""
    parts: dict[tuple[int, str], list[str]] = {}
    for kind, data in records:
        if form == "openai" and kind == CHUNK:
            for choice in orjson.loads(data).get("choices") or ():
                delta = choice.get("delta") or {}
                for name in TEXT_FIELDS:
                    if text := delta.get(name):
                        parts.setdefault((choice.get("index", 0), name), []).append(text)
        elif form == "native" and kind == "tool_call":
            parts.clear()  # a turn of its own is over: what an attempt tells again is what was said after it
        elif form == "native" and kind in ("token", "reasoning"):
            event = orjson.loads(data)
            parts.setdefault((0, event.get("field", "content")), []).append(event["content"])
    return {key: "".join(found) for key, found in parts.items()}
