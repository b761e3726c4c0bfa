"""OpenAI's SDK for one upstream, without what it would do anew for each request: a third of what one costs."""

from collections.abc import Mapping
from typing import Any, cast

import httpx2
from openai import AsyncOpenAI, AsyncStream, Omit
from openai._models import FinalRequestOptions

from server.config.settings import Upstream
from server.upstreams.transport import AiohttpTransport, Outgoing

# aiohttp's own, and what the SDK tells of itself: no upstream has a use for it, and it is 2 KB of an open stream.
NOT_KEPT = (b"host", b"content-length", b"x-stainless-")


class Sdk(AsyncOpenAI):
    """The SDK's client as the relay uses it. Its retries and timeouts are off: recovery is the relay's.

    Address and headers are the SDK's own work, done once, in `prepare`: they are the same for every request, but for
    what `complete` is given. What becomes of an answer, an error above all, is the SDK's work each time.
    """

    def __init__(
        self, settings: Upstream, *, key: str | None, organization: str | None, transport: AiohttpTransport
    ) -> None:
        # identity: a compressed stream would be held back by the compressor's buffer.
        default_headers = {"Accept-Encoding": "identity", **settings.headers}
        super().__init__(
            api_key=key or "none",
            base_url=settings.base_url,
            max_retries=0,
            timeout=None,
            default_headers=default_headers,
            http_client=_DirectClient(transport),
        )
        # Where it is told nothing the SDK reads OPENAI_ORG_ID and the like: of no concern to whoever this upstream is.
        self.organization = organization
        self.project = self.admin_api_key = None
        self._custom_headers = default_headers  # OPENAI_CUSTOM_HEADERS has no other switch
        self._usual: dict[str, str | Omit] = {"Content-Type": "application/json"}
        if key is None:
            self._usual["Authorization"] = Omit()  # the SDK insists on a key unless a request itself leaves it out
        url = f"{settings.base_url}/chat/completions"
        self._completion = FinalRequestOptions.construct(method="post", url=url)
        self._pattern: httpx2.Request | None = None
        self._kept: dict[str, str] = {}  # the pattern's headers, for aiohttp

    async def complete(self, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        """Send a chat completion request with `headers` beside the usual ones; return when a head of 200 is here.

        Raises what the SDK raises.
        """
        options = self._completion.model_copy(update={"content": body, "headers": {**self._usual, **headers}})
        # Cast to httpx2.Response, the SDK hands the response itself out instead of the stream class it is typed with.
        answer: Any = await self.request(httpx2.Response, options, stream=True, stream_cls=AsyncStream[object])
        return cast("httpx2.Response", answer)

    def prepare(self) -> None:
        """Build what all requests have in common. Takes some milliseconds, and needs no event loop."""
        self.platform_headers()
        options = self._completion.model_copy(update={"content": b"{}", "headers": self._usual})
        self._pattern = super()._build_request(options)
        self._kept = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in self._pattern.headers.raw
            if not name.lower().startswith(NOT_KEPT)
        }

    def _build_request(self, options: FinalRequestOptions, *, retries_taken: int = 0) -> httpx2.Request:  # noqa: ARG002 — the SDK's signature
        """Return the next request: only its body and its own headers are new."""
        own = {
            name: value for name, value in cast("dict[str, str]", options.headers).items() if name not in self._usual
        }
        body = cast("bytes", options.content)
        if self._pattern is None:
            self.prepare()
        assert self._pattern is not None
        outgoing = Outgoing(str(self._pattern.url), {**self._kept, **own}, body)
        return httpx2.Request(
            "POST",
            self._pattern.url,
            headers=self._pattern.headers,
            stream=httpx2.ByteStream(body),
            extensions={"outgoing": outgoing},
        )


class _DirectClient(httpx2.AsyncClient):
    """httpx2's client as the SDK uses it here: it follows no redirect, knows no cookie, and logs nothing."""

    def __init__(self, transport: AiohttpTransport) -> None:
        super().__init__(transport=transport, timeout=None, trust_env=False)
        self._direct = transport

    async def send(self, request: httpx2.Request, **_options: Any) -> httpx2.Response:
        """Send a request; return when the head of its response is here."""
        response = await self._direct.handle_async_request(request)
        response.request = request
        return response
