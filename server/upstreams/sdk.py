"""OpenAI's SDK for one upstream, and every reach into its private parts.

The SDK judges the answer: a status, an error, a body. The request is the gateway's own. The SDK would take keys,
organization, project and whole headers from the environment (`OPENAI_ADMIN_KEY`, `OPENAI_ORG_ID`,
`OPENAI_CUSTOM_HEADERS`), and send them to any upstream. So a request that the SDK has built is never sent.
"""

import inspect
from collections.abc import AsyncIterable, Mapping
from contextvars import ContextVar
from typing import Any, cast

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream
from yarl import URL

from server.aio.private_part import PrivatePart, expect
from server.config.settings import Upstream
from server.upstreams.transport import AiohttpTransport, Outgoing

PATH = "/chat/completions"
MODELS_PATH = "/models"
NO_HEADERS: Mapping[str, str] = {}


class _Sending:
    """The request that a task is sending, until it is sent.

    A connection that is made meanwhile keeps the task's context as long as it lives. So the context refers to this, and
    not to the request: otherwise every connection would hold the prompt that it was made for.
    """

    __slots__ = ("outgoing",)

    def __init__(self, outgoing: Outgoing) -> None:
        self.outgoing: Outgoing | None = outgoing


# The SDK has no way to hand a request through.
_sending: ContextVar[_Sending] = ContextVar("sending")


class Sdk:
    """The SDK as the relay uses it. Its retries and timeouts are off: recovery is the relay's."""

    def __init__(
        self,
        settings: Upstream,
        *,
        key: str | None,
        organization: str | None,
        transport: AiohttpTransport,
        path: str = PATH,
        secret_headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        client = QuickOpenAI if BUILD_REQUEST.usable else PlainOpenAI
        self._client = client(
            api_key="none",  # the SDK insists on one; it is not sent
            base_url=settings.base_url,
            max_retries=0,
            timeout=None,
            http_client=_DirectClient(transport),
        )
        self._settings = settings
        self._url = _url(settings, path)
        self._models_url = address(settings, MODELS_PATH)
        self._transport = transport
        self.headers = _headers(settings, key, organization, secret_headers)

    async def complete(self, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        """Send a request for a generation with `headers` beside the usual ones; return when a head of 200 is here.

        Raises what the SDK raises.
        """
        return await self._send(Outgoing(self._url, {**self.headers, **headers}, body))

    async def post(self, path: str, body: bytes | AsyncIterable[bytes], headers: Mapping[str, str]) -> httpx2.Response:
        """Send a request to a path below the upstream's `base_url`; return when a head of success is here.

        Raises what the SDK raises.
        """
        return await self._send(Outgoing(_url(self._settings, path), {**self.headers, **headers}, body))

    async def get(self, path: str, headers: Mapping[str, str]) -> httpx2.Response:
        """Ask for what is at a path below `base_url`, which may have a query; return when a head of success is here.

        Raises what the SDK raises.
        """
        kept = {name: value for name, value in self.headers.items() if name != "content-type"}
        return await self._send(Outgoing(_url(self._settings, path), {**kept, **headers}, None, "GET"))

    async def _send(self, outgoing: Outgoing) -> httpx2.Response:
        sending = _Sending(outgoing)
        _sending.set(sending)
        try:
            return await self._client.complete()
        finally:
            sending.outgoing = None

    async def list_models(self, limit: int) -> tuple[int, bytes]:
        """Ask for the models. Return the status and the body, cut off after `limit` bytes. Raises what aiohttp does."""
        headers = {name: value for name, value in self.headers.items() if name != "content-type"}
        return await self._transport.get(self._models_url, headers, limit=limit)

    def prepare(self) -> None:
        """Let the SDK look up the platform, which it does once. Takes some milliseconds, and needs no event loop."""
        self._client.platform_headers()


def address(settings: Upstream, path: str) -> str:
    """Return the URL of a path below an upstream's `base_url`, with its own and the configured query, encoded."""
    url = httpx2.URL(settings.base_url + path)
    return str(url.copy_merge_params(settings.query) if settings.query else url)


def _url(settings: Upstream, path: str) -> URL:
    return URL(address(settings, path), encoded=True)


def _headers(
    settings: Upstream, key: str | None, organization: str | None, secret_headers: Mapping[str, str]
) -> dict[str, str]:
    """Return the headers of every request to an upstream, by their names in lower case."""
    headers = {
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": f"Sdk/Python {openai.__version__}",
        "accept-encoding": "identity",  # a compressed stream would be held back by the compressor's buffer
        "connection": "keep-alive",
    }
    if key is not None and settings.auth == "bearer":
        headers["authorization"] = f"Bearer {key}"
    elif key is not None:
        headers[settings.auth] = key
    if organization is not None:
        headers["openai-organization"] = organization
    further = {**settings.headers, **secret_headers}
    return headers | {name.lower(): value for name, value in further.items()}


class PlainOpenAI(AsyncOpenAI):
    """The SDK, asked in its public way."""

    async def complete(self) -> httpx2.Response:
        """Ask for a chat completion. The task's `Outgoing` is sent, not this body."""
        # Cast to httpx2.Response, the SDK returns the response itself, not the stream that its types promise.
        answer: Any = await self.post(
            PATH, cast_to=httpx2.Response, body={}, stream=True, stream_cls=AsyncStream[object]
        )
        return cast("httpx2.Response", answer)


class QuickOpenAI(PlainOpenAI):
    """The SDK without building a request each time, which is a third of the cost of one and is not sent."""

    _options: Any = None  # of the first request: the same for all of them

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._request = httpx2.Request("POST", self.base_url)  # what the SDK shows in its errors; it is not sent

    async def complete(self) -> httpx2.Response:
        """Ask for a chat completion with the options of the first one."""
        if self._options is None:
            return await super().complete()
        answer: Any = await self.request(httpx2.Response, self._options, stream=True, stream_cls=AsyncStream[object])
        return cast("httpx2.Response", answer)

    async def request(self, cast_to: Any, options: Any, **rest: Any) -> Any:
        """Send a request. Remember its options: nothing changes them, so the copies that the SDK makes are the same."""
        if options is not self._options:
            options.idempotency_key = "none"  # it is not sent; the SDK would draw a random one for each request
            vars(options)["model_copy"] = lambda **_: options
            self._options = options
        return await super().request(cast_to, options, **rest)

    def _build_request(self, *_args: object, **_options: object) -> httpx2.Request:
        return self._request

    # The SDK's own versions of these look for a provider, a workload identity and a key to be fetched. There is none.

    async def _prepare_options(self, options: Any) -> Any:
        return options

    async def _prepare_request(self, request: httpx2.Request) -> None:
        pass

    @property
    def custom_auth(self) -> None:
        """There is no further authentication: the headers of `Outgoing` have all."""

    async def _send_request(self, request: httpx2.Request, *, stream: bool, **options: Any) -> httpx2.Response:
        return await self._client.send(request, stream=stream, **options)


def _check_build_request() -> None:
    build: Any = vars(openai._base_client.BaseClient).get("_build_request")
    expect(callable(build), "the SDK builds requests elsewhere")
    expect(inspect.signature(build).return_annotation == "httpx2.Request", "the SDK builds requests of another type")
    hooks = vars(openai._base_client.AsyncAPIClient)
    for name in ("_prepare_options", "_prepare_request", "_send_request"):
        expect(inspect.iscoroutinefunction(hooks.get(name)), f"the SDK has no {name}")
    expect(isinstance(vars(AsyncOpenAI).get("custom_auth"), property), "the SDK has no custom_auth")


BUILD_REQUEST = PrivatePart("openai requests", _check_build_request, instead="more CPU per request")


class _DirectClient(httpx2.AsyncClient):
    """httpx2's client as the SDK uses it here: it sends the task's `Outgoing`, and follows no redirect."""

    def __init__(self, transport: AiohttpTransport) -> None:
        super().__init__(transport=transport, timeout=None, trust_env=False)
        self._direct = transport

    async def send(self, request: httpx2.Request, **_options: Any) -> httpx2.Response:
        """Send what the task is sending; return when the head of its response is here."""
        outgoing = _sending.get().outgoing
        assert outgoing is not None
        response = await self._direct.send(outgoing)
        response.request = request
        return response
