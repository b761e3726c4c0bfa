"""Transports for httpx2, and so for OpenAI's SDK, whose streams survive lost connections: one async, one sync.

Both send the request and pass whole events on. At a cut they ask `GET /v1/streams/{id}` for the missing events.
`Resumption` decides what an answer means, what to ask next, and when to stop.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import anyio
import httpx2

from server.client.outage import Patience
from server.client.resumption import Answer, Resumption, can_resume, prepare

STOPPING = 2.0  # seconds for the request that aborts a stream
OnCut = Callable[[str], None]  # called with the id of the last event that came through


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
            await anyio.sleep(wait)

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
                async for chunk in _async_stream(self._response):
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
            await anyio.sleep(wait)
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
        with anyio.move_on_after(STOPPING, shield=True):
            await self._response.aclose()
            if (request := self._resumption.stop_request()) is not None:
                self._resumption.ended = True  # so that a second `aclose` does not abort it again
                with suppress(httpx2.HTTPError):
                    response = await self._inner.handle_async_request(request)
                    await response.aclose()


class ResumingTransport(httpx2.BaseTransport):
    """The sync twin of `AsyncResumingTransport`."""

    def __init__(self, inner: httpx2.BaseTransport, patience: Patience, on_cut: OnCut = _silent) -> None:
        self._inner = inner
        self._patience = patience
        self._on_cut = on_cut

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response, as `AsyncResumingTransport` does. Raises httpx2.TransportError."""
        if not can_resume(request):
            return self._inner.handle_request(request)
        request.read()
        prepare(request)
        timeouts = request.extensions["timeout"] = dict(request.extensions.get("timeout", {}))
        resumption = Resumption(request, self._patience)
        while True:
            try:
                response = self._inner.handle_request(request)
                answer = resumption.answer(response)
                if answer is not Answer.STREAM:
                    response.read()
            except httpx2.TransportError as error:
                resumption.missed(str(error) or type(error).__name__)
                if (wait := resumption.wait()) is None:
                    raise
            else:
                if answer is Answer.STREAM:
                    _may_stream(timeouts, self._patience)
                    return _with_body(response, _Body(self._inner, response, resumption, self._on_cut))
                if answer is not Answer.AWAY or (wait := resumption.wait(response)) is None:
                    return response
            time.sleep(wait)

    def close(self) -> None:
        """Close the wrapped transport."""
        self._inner.close()


class _Body(httpx2.SyncByteStream):
    def __init__(
        self, inner: httpx2.BaseTransport, response: httpx2.Response, resumption: Resumption, on_cut: OnCut
    ) -> None:
        self._inner = inner
        self._response = response
        self._resumption = resumption
        self._on_cut = on_cut

    def __iter__(self) -> Iterator[bytes]:
        resumption = self._resumption
        while True:
            try:
                for chunk in _sync_stream(self._response):
                    if events := resumption.feed(chunk):
                        yield events
            except httpx2.TransportError as error:
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
        wait = self._resumption.wait()
        while wait is not None:
            time.sleep(wait)
            try:
                response = self._inner.handle_request(self._resumption.resume_request())
            except httpx2.TransportError as error:
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
        """Close the connection. If the program leaves its stream early, abort it."""
        self._response.close()
        if (request := self._resumption.stop_request()) is not None:
            self._resumption.ended = True
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), STOPPING)
            with suppress(httpx2.HTTPError):
                self._inner.handle_request(request).close()


def _with_body(response: httpx2.Response, body: httpx2.AsyncByteStream | httpx2.SyncByteStream) -> httpx2.Response:
    return httpx2.Response(response.status_code, headers=response.headers, stream=body, extensions=response.extensions)


def _async_stream(response: httpx2.Response) -> httpx2.AsyncByteStream:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    return response.stream


def _sync_stream(response: httpx2.Response) -> httpx2.SyncByteStream:
    assert isinstance(response.stream, httpx2.SyncByteStream)
    return response.stream
