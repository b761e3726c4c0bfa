"""The text of a stream in the OpenAI form, printed as it comes. Used by `sluiceway tail` and `sluiceway chat`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx2
import orjson

from server.client.terminal import NO_ANSWER, CommandError, checked, note, say
from server.core.openai.sse import Decoder, Event

EVENTS = "text/event-stream"


def has_events(response: httpx2.Response) -> bool:
    """Whether a response is a stream of events."""
    return response.status_code == 200 and response.headers.get("content-type", "").startswith(EVENTS)


def print_stream(response: httpx2.Response, check: Callable[[], None] = lambda: None) -> str:
    """Print a stream to its end and return its text; `check` is called at each event, and may raise.

    Raises CommandError where the stream ends with an error.
    """
    if response.status_code == 204:
        note("the stream has ended")
        return ""
    if not has_events(response):
        response.read()
        checked(response)
        if "x-stream-id" not in response.headers:
            raise CommandError(f"200: {NO_ANSWER}")
        raise CommandError("That stream is a single answer, without events.")
    said = []
    for event in _events(response.iter_raw()):
        if event.data == b"[DONE]":
            break
        check()
        said.append(_show(orjson.loads(event.data)))
    say("\n")
    return "".join(said)


def _events(chunks: Iterable[bytes]) -> Iterator[Event]:
    decoder = Decoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)


def _show(payload: dict[str, Any]) -> str:
    """Print what one chunk brings and return its text. Raises CommandError for an error."""
    if error := payload.get("error"):
        say("\n")
        raise CommandError(f"{error.get('message')} ({error.get('code')})")
    said = ""
    for choice in payload.get("choices", []):
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            if name := function.get("name"):
                say(f"\n→ {name} ")
            say(function.get("arguments") or "")
        text = delta.get("content") or delta.get("refusal") or ""
        say(text)
        said += text
    return said
