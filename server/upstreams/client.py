"""One upstream: the OpenAI SDK judges the answer, and the caller reads its raw body."""

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import structlog

from server.aio.aiohttp_internals.heads import forget_heads
from server.aio.aiohttp_internals.upstream import can_connect_ahead
from server.config.settings import Upstream
from server.core.errors import UpstreamError
from server.core.recovery.present import present
from server.core.recovery.secrets import Secrets
from server.core.timing import Phases
from server.core.upstream_api import ChatApi, UpstreamApi
from server.upstreams.connecting import current_phases, tls_context
from server.upstreams.model_list import ModelList
from server.upstreams.sdk import Sdk
from server.upstreams.translate import FOREIGN, passed_on, request_id, translate
from server.upstreams.transport import AiohttpTransport

log = structlog.get_logger("sluiceway.upstreams")
CHAT_API = ChatApi()
MAX_AHEAD = 64  # connections that are begun before their requests are ready
SECRET_NAME = re.compile(r"(?i)key|token|secret|sig|passw|auth|code")  # of a query parameter; others may be quoted
REFUSED = 3600.0  # seconds in which a model that refused to be asked for usage, say, is not asked for it
CANCELLING = 5.0  # seconds for the request that cancels an answer
MAX_REFUSING = 1000  # models that are remembered so: clients choose names behind "upstream/*"


def identity(settings: Upstream, environ: Mapping[str, str]) -> tuple[object, ...]:
    """Return everything that a client is made from. While it stays the same, the client stays. Raises OSError."""
    certificates = Path(settings.ca_file).read_bytes() if settings.ca_file else b""
    secrets = settings.api_key(environ), settings.organization(environ), settings.secret_headers(environ)
    return settings, secrets, certificates


def _secrets(settings: Upstream, key: str | None, secret_headers: Mapping[str, str]) -> list[str | None]:
    """Return what no client may see of what is sent to an upstream."""
    words = [word for value in secret_headers.values() for word in value.split()]  # of "Basic …" the second alone
    query = [value for name, value in settings.query.items() if SECRET_NAME.search(name)]
    return [key, *settings.headers.values(), *secret_headers.values(), *words, *query]


class UpstreamClient:
    """Asks one `[[upstreams]]` entry. The SDK's own retries and timeouts are off: recovery is the relay's.

    `streams` counts the live streams that may ask this client. If a new configuration has replaced the client, it is
    closed with the last of them. Raises OSError if `ca_file` cannot be read.
    """

    def __init__(self, settings: Upstream, environ: Mapping[str, str], api: UpstreamApi = CHAT_API) -> None:
        self.settings = settings
        self.api = api
        self.identity = identity(settings, environ)
        self.streams = 0
        self.asked = time.monotonic()  # when it was asked last; a new client is expected to be
        self._refused: dict[tuple[str, str], float] = {}  # model and feature to time.monotonic()
        self._cancelling: set[asyncio.Task[None]] = set()
        # What each request that is being prepared will be sent on, in their order; None: a connection of the pool.
        self._ahead: deque[asyncio.Task[Phases] | None] = deque()
        tls = tls_context(settings.ca_file)
        self._transport = AiohttpTransport(connect_timeout=settings.connect_timeout, tls=tls, proxy=settings.proxy)
        key = settings.api_key(environ)
        secret_headers = settings.secret_headers(environ)
        self._secrets = Secrets(_secrets(settings, key, secret_headers))
        self._sdk = Sdk(
            settings,
            key=key,
            organization=settings.organization(environ),
            path=api.path,
            transport=self._transport,
            secret_headers=secret_headers,
        )
        self.models = ModelList(settings.name, self._sdk)

    async def post(self, body: bytes, phases: Phases, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Send a request for a generation; return aiohttp's response when its head (status 200) is here.

        The caller calls its `release()`, which gives the connection back at the end of the body, and closes it
        before that.

        Raises:
            UpstreamError: the request failed, or the answer is an error.

        """
        response = await self._answered(self._sdk.complete(body, headers), phases)
        forget_heads(response)
        return response

    async def resume(self, path: str, phases: Phases, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Ask for the rest of an answer, which is at a path below `base_url`, as `post` does. Raises UpstreamError."""
        response = await self._answered(self._sdk.get(path, headers), phases)
        forget_heads(response)
        return response

    def cancel(self, path: str) -> None:
        """Cancel an answer that goes on although nobody reads it, with a POST to a path below `base_url`.

        Nobody waits for that. The answer may have ended meanwhile, or be known no more: then there is nothing to do.
        """
        task = asyncio.create_task(self._cancel(path), name=f"cancel at {self.settings.name}")
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, path: str) -> None:
        try:
            async with asyncio.timeout(CANCELLING):
                response = await self.relay(path, b"", Phases(time.monotonic()), {})
        except (UpstreamError, TimeoutError) as error:
            status = error.status if isinstance(error, UpstreamError) else None
            log.info("answer not cancelled", upstream=self.settings.name, status=status)
        else:
            response.release()

    async def relay(
        self, path: str, body: bytes | AsyncIterable[bytes], phases: Phases, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Send a request to a path below `base_url`, and return its response as `post` does. Raises UpstreamError."""
        return await self._answered(self._sdk.post(path, body, headers), phases)

    async def _answered(self, asking: Coroutine[Any, Any, httpx2.Response], phases: Phases) -> aiohttp.ClientResponse:
        """Send a request, and return its response."""
        current_phases.set(phases)
        try:
            if self._ahead:
                await self._joined(phases)
            answer = await asking
        except FOREIGN as error:
            raise self._failure(error) from error
        finally:
            asking.close()  # if it was not begun
        response: aiohttp.ClientResponse = answer.extensions["aiohttp"]
        phases.request_id = request_id(response.headers)
        phases.passed_on = {name: self.unquoted(value) for name, value in passed_on(response.headers).items()}
        return response

    def _failure(self, error: Exception) -> UpstreamError:
        """Return the error for the client. No frame that raises it has it in a variable: it knows those frames."""
        failure = translate(error, in_body=False, upstream=self.settings.name)
        present(failure, self.unquoted)
        return failure

    async def warm_up(self) -> None:
        """Let the SDK do what it does only once, on its first request. Sends nothing."""
        await asyncio.to_thread(self._sdk.prepare)

    async def connect(self) -> Phases | None:
        """Have an idle connection, and return how it was made. Return None if it fails: a request will say why."""
        if not can_connect_ahead():
            return None
        try:
            return await self._transport.connect(self.settings.base_url)
        except FOREIGN:
            return None

    def connect_ahead(self) -> None:
        """Begin to connect for a request that is still being prepared. The next request that is sent waits for it.

        If the pool has a connection for it, nothing is begun.
        """
        if not can_connect_ahead() or len(self._ahead) >= MAX_AHEAD:
            return
        if self._transport.idle > self._ahead.count(None):
            self._ahead.append(None)
        else:
            self._ahead.append(
                asyncio.create_task(self._transport.connect(self.settings.base_url), name="connect ahead")
            )

    async def _joined(self, phases: Phases) -> None:
        """Wait for the connection that was begun first. Raises what connecting does."""
        ahead = self._ahead.popleft()
        if ahead is None:
            return
        if ahead.done() and (ahead.cancelled() or ahead.exception() is not None):
            return  # it failed before anybody waited for it: this request connects for itself
        began = time.monotonic()
        phases.joined(await ahead, time.monotonic() - began)

    def refuses(self, model: str, feature: str) -> bool:
        """Whether a model refused to be asked for something, not long ago. Its server may be a newer one later."""
        refused = self._refused.get((model, feature))
        return refused is not None and time.monotonic() < refused + REFUSED

    def note_refused(self, model: str, feature: str) -> None:
        """Note that a model answers only if it is not asked for something: "usage" or "background"."""
        if len(self._refused) >= MAX_REFUSING:
            self._refused.clear()
        self._refused[model, feature] = time.monotonic()

    def unquoted(self, text: str) -> str:
        """Return an upstream's words, in which the key and other secrets that were sent to it are hidden."""
        return self._secrets.hide(text)

    async def close(self) -> None:
        """Close every connection, when what is being cancelled is. A request that still comes opens a new one."""
        await asyncio.gather(*self._cancelling)
        tasks = [task for task in self._ahead if task is not None]
        self._ahead.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._transport.aclose()
