"""An async client and a transport for httpx2, and so for OpenAI's SDK, whose streams survive lost connections.

The transport sends the request and passes whole events on. At a cut it asks `GET /v1/streams/{id}` for the missing
events. `Resumption` decides what an answer means, what to ask next, and when to stop.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx2

from sluiceway.outage import Patience
from sluiceway.resumption import Answer, Resumption, can_resume, prepare
from sluiceway.waiting import STOPPING, async_sleep, async_while_stopping

OnCut = Callable[[str], None]  # called with the id of the last event that came through

SDK_DEFAULT = "https://api.openai.com/v1"
# The defaults of OpenAI's SDK for its own client.
TIMEOUT = httpx2.Timeout(600.0, connect=5.0)
LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
PATIENT = Patience()


def resuming_http_client(
    *,
    base_url: str = "",
    patience: Patience = PATIENT,
    transport: httpx2.AsyncBaseTransport | None = None,
    on_cut: OnCut | None = None,
    **options: Any,
) -> httpx2.AsyncClient:
    """Return an `http_client` for `AsyncOpenAI` whose streams survive lost connections.

    `base_url` is the gateway's address (`http://host:port/v1`). Requests that the SDK would send to its default,
    api.openai.com, go there, so a program needs no other change. `transport` is the transport to wrap; the default is
    httpx2's own. `on_cut` is called at every cut with the id of the last event. All other options are those of
    `httpx2.AsyncClient`. If the program sets the header `X-On-Disconnect` or `Idempotency-Key`, its value is kept.
    """
    inner = transport or httpx2.AsyncHTTPTransport(limits=LIMITS)
    resuming = AsyncResumingTransport(inner, patience, *([on_cut] if on_cut else []))

    async def to_gateway(request: httpx2.Request) -> None:
        _retarget(request, base_url)

    settings = {"timeout": TIMEOUT, "follow_redirects": True, **options}
    client = httpx2.AsyncClient(base_url=base_url, transport=resuming, **settings)
    if base_url:
        client.event_hooks["request"].append(to_gateway)
    return client


def _retarget(request: httpx2.Request, base_url: str) -> None:
    """If the request goes to the SDK's default address, send it to the gateway instead."""
    path = str(request.url).removeprefix(SDK_DEFAULT)
    if path.startswith("/"):
        request.url = httpx2.URL(base_url.rstrip("/") + path)
        request.headers["Host"] = request.url.netloc.decode("ascii")


def _silent(last_id: str) -> None:
    """Do nothing: by default a program does not notice a cut."""


def _may_stream(timeouts: dict[str, float | None], patience: Patience) -> None:
    """Bound the silence between two reads of a body.

    Setting it now is early enough: the transport reads this timeout when the body begins, after the head.
    """
    timeouts["read"] = min(timeouts.get("read") or patience.silence, patience.silence)


class AsyncResumingTransport(httpx2.AsyncBaseTransport):
    """Wraps another async transport. Requests that do not concern a stream pass untouched."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, patience: Patience, on_cut: OnCut = _silent) -> None:
        self._inner = inner
        self._patience = patience
        self._on_cut = on_cut

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the first response that does not say that the gateway is away.

        Raises:
            httpx2.TransportError: no response came within the bounds of `Patience`.

        """
        if not can_resume(request):
            return await self._inner.handle_async_request(request)
        await request.aread()
        prepare(request)
        timeouts = request.extensions["timeout"] = dict(request.extensions.get("timeout", {}))
        resumption = Resumption(request, self._patience)
        while True:
            response = None
            try:
                response = await self._inner.handle_async_request(request)
                answer = resumption.answer(response)
                if answer is not Answer.STREAM:
                    await response.aread()  # read it here: if it is cut, the request can still be repeated
            except httpx2.TransportError as error:
                resumption.missed(str(error) or type(error).__name__)
                if (wait := resumption.wait()) is None:
                    raise
            else:
                if answer is Answer.STREAM:
                    _may_stream(timeouts, self._patience)
                    return _with_body(response, _AsyncBody(self._inner, response, resumption, self._on_cut))
                if answer is not Answer.AWAY or (wait := resumption.wait(response)) is None:
                    return response
            await async_sleep(wait)

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self._inner.aclose()


class _AsyncBody(httpx2.AsyncByteStream):
    def __init__(
        self, inner: httpx2.AsyncBaseTransport, response: httpx2.Response, resumption: Resumption, on_cut: OnCut
    ) -> None:
        self._inner = inner
        self._response = response
        self._resumption = resumption
        self._on_cut = on_cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        resumption = self._resumption
        while True:
            try:
                async for chunk in _stream(self._response):
                    if events := resumption.feed(chunk):
                        yield events
            except httpx2.TransportError as error:
                resumption.missed(str(error) or type(error).__name__)
            if resumption.ended:
                return
            await self._response.aclose()
            self._on_cut(resumption.last_id)
            if not await self._reconnect():
                if not resumption.ended:
                    yield resumption.give_up()
                return

    async def _reconnect(self) -> bool:
        """Connect to the stream again. Return whether that succeeded."""
        wait = self._resumption.wait()
        while wait is not None:
            await async_sleep(wait)
            try:
                response = await self._inner.handle_async_request(self._resumption.resume_request())
            except httpx2.TransportError as error:
                self._resumption.missed(str(error) or type(error).__name__)
                wait = self._resumption.wait()
                continue
            answer = self._resumption.answer(response)
            if answer is Answer.STREAM:
                self._response = response
                return True
            await response.aclose()
            if answer is not Answer.AWAY:
                self._resumption.ended = answer is Answer.ENDED
                return False
            wait = self._resumption.wait(response)
        return False

    async def aclose(self) -> None:
        """Close the connection. If the program leaves its stream early, abort it: otherwise it would linger."""
        with async_while_stopping():
            await self._response.aclose()
            if (request := self._resumption.stop_request()) is not None:
                self._resumption.ended = True  # so that a second close does not abort it again
                request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), STOPPING)
                with suppress(httpx2.HTTPError):
                    response = await self._inner.handle_async_request(request)
                    await response.aclose()


def _with_body(response: httpx2.Response, body: httpx2.AsyncByteStream) -> httpx2.Response:
    return httpx2.Response(response.status_code, headers=response.headers, stream=body, extensions=response.extensions)


def _stream(response: httpx2.Response) -> httpx2.AsyncByteStream:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    return response.stream
