"""What the client holds, read back from the log: the log is the truth, so nothing of it is kept twice."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from server.core.openai.chunks import TEXTS, index_of, text_of
from server.core.records import CHUNK, Form, Record
from server.core.recovery.seam import Texts


def texts(form: Form, records: Iterable[Record]) -> Texts:
    """Return the delivered texts by choice and kind (`chunks.TEXTS`).

    Content that is no text (Mistral's list of parts) comes under a kind of its own, so that a restart, which cannot
    verify it, never finds all of it told again and diverges.
    """
    parts: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for record in records:
        if form == "native" and record.kind == "tool_call":
            parts.clear()  # a turn of its own is over: what an attempt tells again is what was said after it
        for index, kind, text in _openai(record) if form == "openai" else _native(record):
            if isinstance(text, str):
                parts[index, kind].append(text)
            else:
                parts[index, "parts"].append(orjson.dumps(text).decode())
    return {key: "".join(found) for key, found in parts.items()}


def _openai(record: Record) -> Iterator[tuple[int, str, Any]]:
    if record.kind != CHUNK:
        return
    for choice in orjson.loads(record.data).get("choices") or ():
        delta = choice.get("delta") or {}
        for kind in TEXTS:
            if text := text_of(delta, kind):
                yield index_of(choice), kind, text


def _native(record: Record) -> Iterator[tuple[int, str, Any]]:
    if record.kind in ("token", "reasoning"):
        event = orjson.loads(record.data)
        yield 0, "reasoning" if record.kind == "reasoning" else event.get("field", "content"), event["content"]
