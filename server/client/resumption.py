"""What a stream needs to survive its connections, without any I/O: the protocol of `X-Stream-Id` and `Last-Event-ID`.

Whole events go through, an event that a cut left unfinished is dropped, and an id counts only from the blank line that
ends its event (WHATWG HTML standard, section 9.2.6). A body that ends without a terminal event was cut, however
politely: a proxy that speaks HTTP/1.0 ends a broken stream like a complete one.
"""

import math
import re
import uuid
from contextlib import suppress
from enum import Enum, auto
from typing import Any

import httpx2
import orjson

from server.client.outage import Outage, Patience
from server.core.openai.sse import Decoder, Event

STREAM_PATH = re.compile(r"/v1/streams/[^/]+")
CREATING = {"/chat/completions": "/streams/", "/api/stream": "/v1/streams/"}  # the end of a path: a stream's beside it
OWN_TO_POST = ("content-length", "content-type", "transfer-encoding", "idempotency-key", "x-on-disconnect", "accept")
AWAY = frozenset({502, 503, 504})  # from a proxy, or from a gateway that is starting or stopping
LOST = {
    400: "the gateway has fewer events of this stream than were received",
    401: "the gateway no longer takes the key",
    403: "the gateway no longer takes the request",
    404: "the gateway does not know this stream any more (restarted without a durable store, or its retention is over)",
}


class Answer(Enum):
    """What a response means for a stream."""

    STREAM = auto()  # its events
    ENDED = auto()  # there is nothing more
    AWAY = auto()  # ask again
    OTHER = auto()  # not a stream


def can_resume(request: httpx2.Request) -> bool:
    """Whether a request is one that creates a stream, or that reads one."""
    path = request.url.path
    if request.url.scheme not in ("http", "https") or not request.url.host:
        return False  # an address that will never answer
    if request.method == "POST":
        return path.endswith(tuple(CREATING))
    wants_json = "application/json" in request.headers.get("accept", "")
    return request.method == "GET" and STREAM_PATH.search(path) is not None and not wants_json


def prepare(request: httpx2.Request) -> None:
    """Make a request safe to repeat, and its stream one that outlives the connection."""
    if request.method == "POST":
        request.headers.setdefault("Idempotency-Key", f"resume-{uuid.uuid4().hex}")
        request.headers.setdefault("X-On-Disconnect", "continue")
    # A compressed body is decoded above this transport, and cannot be joined to another one.
    request.headers["Accept-Encoding"] = "identity"


class Resumption:
    """One stream over as many connections as it takes. `ended`: its terminal event has gone through."""

    def __init__(self, request: httpx2.Request, patience: Patience) -> None:
        self.ended = False
        self.outage = Outage(patience)
        session = _session(request)
        self.last_id = request.headers.get("last-event-id") or request.url.params.get("after", "") or session or ""
        self._request = request
        self._native = request.url.path.endswith("/api/stream")
        self._began = request.method == "POST" and session is None
        self._url: httpx2.URL | None = None
        self._decoder = Decoder()
        self._reason = "the connection was lost"
        self._beside = 0  # events under the last id after the first: several of one record, in a form not its own
        self._again: float = 0  # how many of those come once more

    # --- what comes in -----------------------------------------------------------------------------------------

    def answer(self, response: httpx2.Response) -> Answer:
        """Judge a response; a stream's connection counts from here."""
        kind, stream_id = response.headers.get("content-type", ""), response.headers.get("x-stream-id")
        if response.status_code == 204:
            return Answer.ENDED
        if response.status_code == 200 and kind.startswith("text/event-stream") and stream_id:
            self._url = self._stream_url(stream_id)
            self._decoder = Decoder()
            self._again = self._beside
            self.outage.connected()
            return Answer.STREAM
        if (response.status_code in AWAY and not stream_id) or (self._url and response.status_code == 429):
            self.missed(f"the gateway answered {response.status_code}")
            return Answer.AWAY
        self._reason = LOST.get(response.status_code, f"the gateway answered {response.status_code}")
        return Answer.OTHER

    def feed(self, chunk: bytes) -> bytes:
        """Return the whole events that `chunk` completes, as they are passed on."""
        passed = [_frame(event) for event in self._decoder.feed(chunk) if self._is_new(event)]
        if passed:
            self.outage.over()
        return b"".join(passed)

    def _is_new(self, event: Event) -> bool:
        if self.ended:
            return False
        if event.id is not None and self._was_seen(event.id.decode("ascii", "replace")):
            return False
        self._native = self._native or bool(event.type)
        self.ended = _is_terminal(event)
        return True

    def _was_seen(self, identity: str) -> bool:
        """Whether an event of this id has come before; else note that it has come now."""
        last, now = (int(one) if one.isdigit() else 0 for one in (self.last_id, identity))
        if now < last:
            self._again = math.inf  # a gateway never goes back: something between us repeats, up to the last id
            return True
        if now == last and self._again:
            self._again -= 1
            return True
        if now == last:
            self._beside += 1
        else:
            self.last_id, self._beside, self._again = identity, 0, 0
        return False

    def missed(self, reason: str) -> None:
        """Note why there is no connection now."""
        self._reason = reason
        self.outage.lost()

    # --- what goes out -----------------------------------------------------------------------------------------

    def wait(self, response: httpx2.Response | None = None) -> float | None:
        """Return seconds until the next attempt, or None to give up; `response` may have asked for more."""
        asked = (self._decoder.retry or 0) / 1000
        if response is not None:
            with suppress(ValueError):  # an HTTP date: the backoff is as good
                asked = max(asked, float(response.headers.get("retry-after", "0")))
        return self.outage.wait(asked)

    def resume_request(self) -> httpx2.Request:
        """Return the request that goes on after the last event."""
        headers = [(name, value) for name, value in self._request.headers.items() if name not in OWN_TO_POST]
        request = httpx2.Request("GET", self._known_url, headers=headers, extensions=self._request.extensions)
        request.headers["Accept"] = "text/event-stream"
        if self.last_id:
            request.headers["Last-Event-ID"] = self.last_id
        return request

    def stop_request(self) -> httpx2.Request | None:
        """Return the request that aborts a stream its program has left, where this program is who began it."""
        if self.ended or not self._began or self._request.headers["X-On-Disconnect"] != "continue":
            return None
        headers = [(name, value) for name, value in self._request.headers.items() if name not in OWN_TO_POST]
        url = self._known_url.copy_with(query=b"reason=closed+by+the+client")
        return httpx2.Request("DELETE", url, headers=headers)

    def give_up(self) -> bytes:
        """Return the ending of a stream that cannot be resumed, in its own form, so that SDKs raise their own error."""
        self.ended = True
        where = f"after event {self.last_id}" if self.last_id else "before its first event"
        message = f"The stream was lost {where}: {self._reason}."
        error: dict[str, Any] = {"message": message, "type": "api_error", "param": None, "code": "stream_lost"}
        if not self._native:
            return _frame(Event(b"", orjson.dumps({"error": error}), None))
        event = {"type": "error", "message": message, "code": "stream_lost", "retryable": True, "resumable": False}
        done = {"type": "done", "status": "failed", "reason": "stream_lost"}
        return _frame(Event(b"error", orjson.dumps(event), None)) + _frame(Event(b"done", orjson.dumps(done), None))

    @property
    def _known_url(self) -> httpx2.URL:
        assert self._url is not None, "only a stream that has answered is resumed"
        return self._url

    def _stream_url(self, stream_id: str) -> httpx2.URL:
        url = self._request.url
        if self._request.method == "GET":
            return url
        for end, beside in CREATING.items():
            if url.path.endswith(end):
                query = b"format=native" if self._native else None
                return url.copy_with(path=url.path.removesuffix(end) + beside + stream_id, query=query)
        raise AssertionError("can_resume() was asked before")


def _session(request: httpx2.Request) -> str | None:
    """Return the `last_event_id` of a request whose `session_id` reads a stream again; None for any other request."""
    if request.method != "POST" or b'"session_id"' not in request.content:
        return None
    try:
        body = orjson.loads(request.content)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict) or body.get("session_id") is None:
        return None
    return str(body.get("last_event_id") or "")


def _is_terminal(event: Event) -> bool:
    """Whether nothing comes after this event: `[DONE]` or an error in the OpenAI form, `done` in the native one."""
    if event.type:
        return event.type == b"done"
    if event.data == b"[DONE]":
        return True
    if b'"error"' not in event.data:
        return False
    try:
        payload = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(payload, dict) and bool(payload.get("error"))


def _frame(event: Event) -> bytes:
    head = b"event: %b\n" % event.type if event.type else b""
    if event.id is not None:
        head += b"id: %b\n" % event.id
    return b"%bdata: %b\n\n" % (head, event.data.replace(b"\n", b"\ndata: "))
