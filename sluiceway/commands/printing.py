"""Prints the text of a stream in the chat dialect as it comes, for `sluiceway tail` and `sluiceway chat`."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sluiceway.commands.library import httpx2
from sluiceway.commands.terminal import NO_ANSWER, CommandError, json_of, note, say
from sluiceway.sse import Decoder, Event

EVENTS = "text/event-stream"


def has_events(response: httpx2.Response) -> bool:
    """Whether a response is a stream of events."""
    return response.status_code == 200 and response.headers.get("content-type", "").startswith(EVENTS)


def print_stream(response: httpx2.Response, check: Callable[[], None] = lambda: None) -> str:
    """Print a stream to its end and return its text. `check` is called at each event, and may raise.

    Raises CommandError if the response is no stream, or if the stream ends with an error.
    """
    if response.status_code == 204:
        note("the stream has ended")
        return ""
    if not has_events(response):
        response.read()
        json_of(response)
        if "x-stream-id" not in response.headers:
            raise CommandError(f"200: {NO_ANSWER}")
        raise CommandError("That stream is a single answer, without events.")
    texts = []
    for event in _events(response.iter_raw()):
        if event.data == b"[DONE]":
            break
        check()
        texts.append(_print_chunk(json.loads(event.data)))
    say("\n")
    return "".join(texts)


def _events(chunks: Iterable[bytes]) -> Iterator[Event]:
    decoder = Decoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)


def _print_chunk(payload: dict[str, Any]) -> str:
    """Print the calls and the text of one chunk; return the text. Raises CommandError if the chunk is an error."""
    if error := payload.get("error"):
        say("\n")
        raise CommandError(f"{error.get('message')} ({error.get('code')})")
    texts = []
    for choice in payload.get("choices", []):
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            if name := function.get("name"):
                say(f"\n→ {name} ")
            say(function.get("arguments") or "")
        text = delta.get("content") or delta.get("refusal") or ""
        say(text)
        texts.append(text)
    return "".join(texts)
