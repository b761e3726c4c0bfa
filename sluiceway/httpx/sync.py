# Written by scripts/generate_clients.py from sluiceway/httpx2/aio.py. Change that file.

"""A sync client and a transport for httpx, and so for OpenAI's SDK, whose streams survive lost connections.

The transport sends the request and passes whole events on. At a cut it asks `GET /v1/streams/{id}` for the missing
events. `Resumption` decides what an answer means, what to ask next, and when to stop.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx

from sluiceway.outage import Patience
from sluiceway.resumption import Answer, Resumption, can_resume, prepare
from sluiceway.waiting import STOPPING, sleep, while_stopping

OnCut = Callable[[str], None]  # called with the id of the last event that came through

SDK_DEFAULT = "https://api.openai.com/v1"
# The defaults of OpenAI's SDK for its own client.
TIMEOUT = httpx.Timeout(600.0, connect=5.0)
LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
PATIENT = Patience()


def resuming_sync_http_client(
    *,
    base_url: str = "",
    patience: Patience = PATIENT,
    transport: httpx.BaseTransport | None = None,
    on_cut: OnCut | None = None,
    **options: Any,
) -> httpx.Client:
    """Return an `http_client` for `OpenAI` whose streams survive lost connections.

    `base_url` is the gateway's address (`http://host:port/v1`). Requests that the SDK would send to its default,
    api.openai.com, go there, so a program needs no other change. `transport` is the transport to wrap; the default is
    httpx's own. `on_cut` is called at every cut with the id of the last event. All other options are those of
    `httpx.Client`. If the program sets the header `X-On-Disconnect` or `Idempotency-Key`, its value is kept.
    """
    inner = transport or httpx.HTTPTransport(limits=LIMITS)
    resuming = ResumingTransport(inner, patience, *([on_cut] if on_cut else []))

    def to_gateway(request: httpx.Request) -> None:
        _retarget(request, base_url)

    settings = {"timeout": TIMEOUT, "follow_redirects": True, **options}
    client = httpx.Client(base_url=base_url, transport=resuming, **settings)
    if base_url:
        client.event_hooks["request"].append(to_gateway)
    return client


def _retarget(request: httpx.Request, base_url: str) -> None:
    """If the request goes to the SDK's default address, send it to the gateway instead."""
    path = str(request.url).removeprefix(SDK_DEFAULT)
    if path.startswith("/"):
        request.url = httpx.URL(base_url.rstrip("/") + path)
        request.headers["Host"] = request.url.netloc.decode("ascii")


def _silent(last_id: str) -> None:
    """Do nothing: by default a program does not notice a cut."""


def _may_stream(timeouts: dict[str, float | None], patience: Patience) -> None:
    """Bound the silence between two reads of a body.

    Setting it now is early enough: the transport reads this timeout when the body begins, after the head.
    """
    timeouts["read"] = min(timeouts.get("read") or patience.silence, patience.silence)


class ResumingTransport(httpx.BaseTransport):
    """Wraps another transport. Requests that do not concern a stream pass untouched."""

    def __init__(self, inner: httpx.BaseTransport, patience: Patience, on_cut: OnCut = _silent) -> None:
        self._inner = inner
        self._patience = patience
        self._on_cut = on_cut

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the first response that does not say that the gateway is away.

        Raises:
            httpx.TransportError: no response came within the bounds of `Patience`.

        """
        if not can_resume(request):
            return self._inner.handle_request(request)
        request.read()
        prepare(request)
        timeouts = request.extensions["timeout"] = dict(request.extensions.get("timeout", {}))
        resumption = Resumption(request, self._patience)
        while True:
            response = None
            try:
                response = self._inner.handle_request(request)
                answer = resumption.answer(response)
                if answer is not Answer.STREAM:
                    response.read()  # read it here: if it is cut, the request can still be repeated
            except httpx.TransportError as error:
                resumption.missed(str(error) or type(error).__name__)
                if (wait := resumption.wait()) is None:
                    raise
            else:
                if answer is Answer.STREAM:
                    _may_stream(timeouts, self._patience)
                    return _with_body(response, _Body(self._inner, response, resumption, self._on_cut))
                if answer is not Answer.AWAY or (wait := resumption.wait(response)) is None:
                    return response
            sleep(wait)

    def close(self) -> None:
        """Close the wrapped transport."""
        self._inner.close()


class _Body(httpx.SyncByteStream):
    def __init__(
        self, inner: httpx.BaseTransport, response: httpx.Response, resumption: Resumption, on_cut: OnCut
    ) -> None:
        self._inner = inner
        self._response = response
        self._resumption = resumption
        self._on_cut = on_cut

    def __iter__(self) -> Iterator[bytes]:
        resumption = self._resumption
        while True:
            try:
                for chunk in _stream(self._response):
                    if events := resumption.feed(chunk):
                        yield events
            except httpx.TransportError as error:
                resumption.missed(str(error) or type(error).__name__)
            if resumption.ended:
                return
            self._response.close()
            self._on_cut(resumption.last_id)
            if not self._reconnect():
                if not resumption.ended:
                    yield resumption.give_up()
                return

    def _reconnect(self) -> bool:
        """Connect to the stream again. Return whether that succeeded."""
        wait = self._resumption.wait()
        while wait is not None:
            sleep(wait)
            try:
                response = self._inner.handle_request(self._resumption.resume_request())
            except httpx.TransportError as error:
                self._resumption.missed(str(error) or type(error).__name__)
                wait = self._resumption.wait()
                continue
            answer = self._resumption.answer(response)
            if answer is Answer.STREAM:
                self._response = response
                return True
            response.close()
            if answer is not Answer.AWAY:
                self._resumption.ended = answer is Answer.ENDED
                return False
            wait = self._resumption.wait(response)
        return False

    def close(self) -> None:
        """Close the connection. If the program leaves its stream early, abort it: otherwise it would linger."""
        with while_stopping():
            self._response.close()
            if (request := self._resumption.stop_request()) is not None:
                self._resumption.ended = True  # so that a second close does not abort it again
                request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), STOPPING)
                with suppress(httpx.HTTPError):
                    response = self._inner.handle_request(request)
                    response.close()


def _with_body(response: httpx.Response, body: httpx.SyncByteStream) -> httpx.Response:
    return httpx.Response(response.status_code, headers=response.headers, stream=body, extensions=response.extensions)


def _stream(response: httpx.Response) -> httpx.SyncByteStream:
    assert isinstance(response.stream, httpx.SyncByteStream)
    return response.stream
