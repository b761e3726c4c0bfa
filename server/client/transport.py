"""Transports for httpx2, and so for OpenAI's SDK, whose streams survive lost connections; one async and one not.

Both do the same: send, pass whole events on, and at a cut ask `GET /v1/streams/{id}` for what is missing. What to make
of an answer, what to ask next and when to stop is `Resumption`'s.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import anyio
import httpx2

from server.client.outage import Patience
from server.client.resumption import Answer, Resumption, can_resume, prepare

STOPPING = 2.0  # seconds for telling the gateway that nobody wants the rest of a stream
OnCut = Callable[[str], None]  # called with the id of the last event that came through


def _silent(last_id: str) -> None:
    """Tell nobody: programs must not notice."""


def _may_stream(timeouts: dict[str, float | None], patience: Patience) -> None:
    """Bound the silence of a body. The transport reads its timeout when the body begins, after the head has come."""
    timeouts["read"] = min(timeouts.get("read") or patience.silence, patience.silence)


class AsyncResumingTransport(httpx2.AsyncBaseTransport):
    """Wraps another transport. Requests that are no stream's go through it untouched."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, patience: Patience, on_cut: OnCut = _silent) -> None:
        self._inner = inner
        self._patience = patience
        self._on_cut = on_cut

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response, once a head has come that is neither lost nor a gateway's that is just away.

        Raises:
            httpx2.TransportError: none came within the bounds of `Patience`.

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
                    await response.aread()  # here, where a cut in the middle can still be repaired
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
        """Return whether there is a connection again."""
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
        """Close the connection; abort a stream that its program leaves early, which would otherwise linger."""
        with anyio.move_on_after(STOPPING, shield=True):
            await self._response.aclose()
            if (request := self._resumption.stop_request()) is not None:
                self._resumption.ended = True  # once is enough
                with suppress(httpx2.HTTPError):
                    response = await self._inner.handle_async_request(request)
                    await response.aclose()


class ResumingTransport(httpx2.BaseTransport):
    """The same without an event loop."""

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
        """Close the connection; abort a stream that its program leaves early."""
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
