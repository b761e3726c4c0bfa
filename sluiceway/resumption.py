"""How a stream survives lost connections, without I/O: the protocol of `X-Stream-Id` and `Last-Event-ID`.

Only whole events go through. If a cut leaves an event unfinished, it is dropped. An id counts only when the blank line
that ends its event has come (WHATWG HTML standard, section 9.2.6). A body that ends without a terminal event was cut,
even if it ended cleanly: a proxy that speaks HTTP/1.0 ends a broken stream like a complete one.
"""

import json
import math
import re
import uuid
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Protocol

from sluiceway.outage import Outage, Patience
from sluiceway.sse import Decoder, Event, frame

STREAM_PATH = re.compile(r"/v1/streams/[^/]+")
RESPONSE_PATH = re.compile(r"/v1/responses/[^/]+")  # reads a stream if its query says so
# Paths that create streams, by their last part. The value replaces that part in the path that reads the stream.
CREATING = {
    "/chat/completions": "/streams/",
    "/responses": "/streams/",
    "/messages": "/streams/",
    "/api/stream": "/v1/streams/",
}
# What tells a stream's dialect: the path that created it, or else the beginning of its first named event.
DIALECTS = {"/responses": "responses", "/messages": "messages", "/api/stream": "native"}
EVENTS = {b"response.": "responses", b"message_": "messages", b"content_block_": "messages", b"ping": "messages"}
OWN_TO_POST = ("content-length", "content-type", "transfer-encoding", "idempotency-key", "x-on-disconnect", "accept")
AWAY = frozenset({502, 503, 504})  # a proxy sends these, and a gateway that is starting or stopping
LOST = {
    400: "the gateway has fewer events of this stream than were received",
    401: "the gateway no longer takes the key",
    403: "the gateway no longer takes the request",
    404: "the gateway does not know this stream any more (restarted without a durable store, or its retention is over)",
}


class Request(Protocol):
    """What is used of a request: of httpx2's, or of httpx', which has the same parts."""

    method: str
    url: Any
    headers: Any
    extensions: Any

    @property
    def content(self) -> bytes:
        """The body."""


class Response(Protocol):
    """What is used of a response, of either library."""

    status_code: int
    headers: Any


class Answer(Enum):
    """What a response means for a stream."""

    STREAM = auto()  # the body has the stream's events
    ENDED = auto()  # the stream has no further events
    AWAY = auto()  # the gateway is away: ask again
    OTHER = auto()  # the response is no stream: pass it on


def can_resume(request: Request) -> bool:
    """Whether a request creates a stream or reads one."""
    path: str = request.url.path
    if request.url.scheme not in ("http", "https") or not request.url.host:
        return False  # such an address never answers, so there is nothing to wait for
    if request.method == "POST":
        return path.endswith(tuple(CREATING))
    if RESPONSE_PATH.search(path) is not None:
        return request.method == "GET" and request.url.params.get("stream", "").lower() == "true"
    wants_json = "application/json" in request.headers.get("accept", "")
    return request.method == "GET" and STREAM_PATH.search(path) is not None and not wants_json


def prepare(request: Request) -> None:
    """Set the headers that make a request safe to repeat, and that keep its stream when the connection is lost."""
    if request.method == "POST":
        request.headers.setdefault("Idempotency-Key", f"resume-{uuid.uuid4().hex}")
        request.headers.setdefault("X-On-Disconnect", "continue")
    # A compressed body is decoded above this transport. The bodies of two connections could not be joined.
    request.headers["Accept-Encoding"] = "identity"


class Resumption:
    """One stream over as many connections as it takes. `ended`: the terminal event has gone through."""

    def __init__(self, request: Request, patience: Patience) -> None:
        self.ended = False
        self.outage = Outage(patience)
        session = _session(request)
        self.last_id = request.headers.get("last-event-id") or request.url.params.get("after", "") or session or ""
        self._request: Any = request  # its type makes the requests that follow
        path = request.url.path if request.method == "POST" else ""
        self._dialect = next((name for end, name in DIALECTS.items() if path.endswith(end)), "chat")
        self._creates = request.method == "POST" and session is None and not _in_background(request)
        self._url: Any = None  # the library's URL, once the stream has answered
        self._decoder = Decoder()
        self._reason = "the connection was lost"
        # In a dialect that did not create the stream, one record may become several events. All but the last carry the
        # id before it, so one id may come several times. After a cut such events come again and must be skipped.
        self._siblings = 0  # events that came under the last id, not counting the first
        self._repeats: float = 0  # how many of these are still to be skipped

    # --- what comes in -----------------------------------------------------------------------------------------

    def answer(self, response: Response) -> Answer:
        """Return what a response means. If it is the stream, a new connection begins with it."""
        kind, stream_id = response.headers.get("content-type", ""), response.headers.get("x-stream-id")
        if response.status_code == 204:
            return Answer.ENDED
        if response.status_code == 200 and kind.startswith("text/event-stream") and stream_id:
            self._url = self._stream_url(stream_id)
            self._decoder = Decoder()
            self._repeats = self._siblings
            self.outage.connected()
            return Answer.STREAM
        if (response.status_code in AWAY and not stream_id) or (self._url and response.status_code == 429):
            self.missed(f"the gateway answered {response.status_code}")
            return Answer.AWAY
        self._reason = LOST.get(response.status_code, f"the gateway answered {response.status_code}")
        return Answer.OTHER

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes of the new events that `chunk` completes."""
        frames = [frame(event) for event in self._decoder.feed(chunk) if self._is_new(event)]
        if frames:
            self.outage.over()
        return b"".join(frames)

    def _is_new(self, event: Event) -> bool:
        if self.ended:
            return False
        if event.id is not None and self._is_repeated(event.id.decode("ascii", "replace")):
            return False
        if event.type not in (b"", b"error") and self._dialect == "chat":
            self._dialect = next((name for start, name in EVENTS.items() if event.type.startswith(start)), "native")
        self.ended = _is_terminal(event, self._dialect)
        return True

    def _is_repeated(self, event_id: str) -> bool:
        """Whether this event has come before. If not, note its id."""
        last, now = (int(text) if text.isdigit() else 0 for text in (self.last_id, event_id))
        if now < last:
            # A gateway never goes back. Something between it and us repeats events: skip them, up to the last id.
            self._repeats = math.inf
            return True
        if now == last and self._repeats:
            self._repeats -= 1
            return True
        if now == last:
            self._siblings += 1
        else:
            self.last_id, self._siblings, self._repeats = event_id, 0, 0
        return False

    def missed(self, reason: str) -> None:
        """Note that the connection is lost, and why."""
        self._reason = reason
        self.outage.lost()

    # --- what goes out -----------------------------------------------------------------------------------------

    def wait(self, response: Response | None = None) -> float | None:
        """Return the seconds until the next attempt, or None to give up. A `Retry-After` of `response` is heeded."""
        at_least = (self._decoder.retry or 0) / 1000
        if response is not None:
            with suppress(ValueError):  # `Retry-After` may be a date: then our own backoff is good enough
                at_least = max(at_least, float(response.headers.get("retry-after", "0")))
        return self.outage.wait(at_least)

    def resume_request(self) -> Any:
        """Return the request that reads the stream after the last event."""
        headers = [(name, value) for name, value in self._request.headers.items() if name not in OWN_TO_POST]
        request = type(self._request)("GET", self._known_url, headers=headers, extensions=self._request.extensions)
        request.headers["Accept"] = "text/event-stream"
        if self.last_id:
            request.headers["Last-Event-ID"] = self.last_id
        return request

    def stop_request(self) -> Any:
        """Return the request that aborts a stream its program has left early, or None.

        Only the program that created a stream aborts it. One that only reads it leaves it to its creator.
        """
        if self.ended or not self._creates or self._request.headers["X-On-Disconnect"] != "continue":
            return None
        headers = [(name, value) for name, value in self._request.headers.items() if name not in OWN_TO_POST]
        url = self._known_url.copy_with(query=b"reason=closed+by+the+client")
        return type(self._request)("DELETE", url, headers=headers)

    def give_up(self) -> bytes:
        """Return the ending of a stream that cannot be resumed, in the stream's dialect, so that SDKs raise it."""
        self.ended = True
        where = f"after event {self.last_id}" if self.last_id else "before its first event"
        message = f"The stream was lost {where}: {self._reason}."
        error: dict[str, Any] = {"message": message, "type": "api_error", "param": None, "code": "stream_lost"}
        answer: dict[str, Any]
        if self._dialect == "messages":
            answer = {"type": "error", "error": {"type": "api_error", "message": f"{message} (stream_lost)"}}
            return frame(Event(b"error", _json(answer), None))
        if self._dialect == "responses":
            number = int(self.last_id) if self.last_id.isdigit() else 0  # of a record: one more than its event's
            answer = {**error, "type": "error", "sequence_number": number, "error": error}
            return frame(Event(b"error", _json(answer), None))
        if self._dialect == "chat":
            return frame(Event(b"", _json({"error": error}), None))
        event = {"type": "error", "message": message, "code": "stream_lost", "retryable": True, "resumable": False}
        done = {"type": "done", "status": "failed", "reason": "stream_lost"}
        return frame(Event(b"error", _json(event), None)) + frame(Event(b"done", _json(done), None))

    @property
    def _known_url(self) -> Any:
        assert self._url is not None, "only a stream that has answered can be resumed"
        return self._url

    def _stream_url(self, stream_id: str) -> Any:
        url = self._request.url
        if self._request.method == "GET":
            return url
        for end, replacement in CREATING.items():
            if url.path.endswith(end):
                query = b"format=native" if end == "/api/stream" else None
                return url.copy_with(path=url.path.removesuffix(end) + replacement + stream_id, query=query)
        raise AssertionError("can_resume() lets only these paths through")


def _session(request: Request) -> str | None:
    """Return the `last_event_id` of a request that reads a stream again by `session_id`; None for any other request."""
    if request.method != "POST" or b'"session_id"' not in request.content:
        return None
    try:
        body = json.loads(request.content)
    except ValueError:
        return None
    if not isinstance(body, dict) or body.get("session_id") is None:
        return None
    return str(body.get("last_event_id") or "")


def _in_background(request: Request) -> bool:
    """Whether a request asks for a response that goes on without its client."""
    if b'"background"' not in request.content:
        return False
    try:
        body = json.loads(request.content)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("background") is True


def _is_terminal(event: Event, dialect: str) -> bool:
    """Whether this event ends the stream in its dialect.

    That is `[DONE]` or an error in chat completions, `[DONE]` in Responses (its errors are followed by that, but for
    one that is no record of the log), `message_stop` or an error in Messages, and `done` in the native dialect.
    """
    if event.data == b"[DONE]":
        return True
    if event.type:
        failed = event.type == b"error" and (dialect == "messages" or (dialect == "responses" and event.id is None))
        return failed or event.type == {"messages": b"message_stop", "native": b"done"}.get(dialect)
    if b'"error"' not in event.data:
        return False
    try:
        payload = json.loads(event.data)
    except ValueError:
        return False
    return isinstance(payload, dict) and bool(payload.get("error"))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
