"""The parts of a request that every dialect reads: the bounded body, the cursor, the policy and the keys."""

import asyncio
import re
from typing import Any, cast, get_args

from aiohttp import web

from server.aio.aiohttp_internals.queues import use_small_queues
from server.api.access import OWNER
from server.api.bounded_json import MAX_VALUES, parse
from server.api.errors import REQUEST_ID
from server.config.settings import Settings
from server.core.errors import Rejected
from server.core.records import Policy
from server.streams.bodies import Arriving, Bodies

BODY_TIMEOUT = 10.0  # seconds to wait for each piece of a body
BODY_TOTAL = 60.0  # seconds for the whole body
CURSOR = re.compile(r"0|[1-9][0-9]{0,17}")
KEY = re.compile(r"[!-~]{1,255}")
BODIES = web.AppKey("bodies", Bodies)  # the one budget of the gateway
PASSED_ON = ("traceparent", "tracestate")


async def read_json(request: web.Request, max_bytes: int, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """Return the JSON object of a request's body. Raises Rejected 400, 408, 413, 415 or 429."""
    if request.content_type != "application/json":
        raise Rejected(415, "The body must be application/json.", "unsupported_media_type")
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    with Arriving(request.app[BODIES], request[OWNER].name) as arriving:
        try:
            # A small body came together with its head, and needs no timeout.
            whole = request.content.is_eof()
            body = request.content.read_nowait() if whole else await _rest(request, max_bytes, arriving)
        except TimeoutError:
            raise Rejected(408, "The body did not arrive in time.", "request_timeout") from None
        except web.RequestPayloadError as error:
            raise Rejected(400, "The body could not be read.", "invalid_body") from error
        if whole:
            arriving.grow(len(body))
        if len(body) > max_bytes:
            raise too_large(max_bytes)
        use_small_queues(request.content)  # aiohttp keeps them as long as the response
        value = await parse(body, max_values)
    if not isinstance(value, dict):
        raise Rejected(400, "The body must be a JSON object.", "invalid_json")
    return value


async def _rest(request: web.Request, max_bytes: int, arriving: Arriving) -> bytearray:
    """Return the body when it is whole, or larger than `max_bytes`. Raises TimeoutError, Rejected 429."""
    body = bytearray()
    async with asyncio.timeout(BODY_TOTAL):
        while len(body) <= max_bytes:
            async with asyncio.timeout(BODY_TIMEOUT):
                data = await request.content.readany()
            if not data:
                break
            arriving.grow(len(data))
            body += data
    return body


def too_large(max_bytes: int) -> Rejected:
    """Return the rejection of a body that is larger than `max_bytes`."""
    return Rejected(413, f"The body is larger than {max_bytes} bytes.", "request_too_large")


def passed_on(request: web.Request) -> tuple[tuple[str, str], ...]:
    """Return the headers that the upstream gets, the request's id among them."""
    headers = tuple((name, request.headers[name]) for name in PASSED_ON if name in request.headers)
    return (*headers, ("x-request-id", request[REQUEST_ID]))


def policy(request: web.Request, settings: Settings) -> Policy:
    """Return what a disconnect does: as the header says, or the configuration. Raises Rejected 400."""
    value = request.headers.get("X-On-Disconnect", settings.streams.on_disconnect)
    if value in get_args(Policy):
        return cast("Policy", value)
    raise Rejected(400, "X-On-Disconnect must be cancel or continue.", "invalid_value", "X-On-Disconnect")


def idempotency_key(request: web.Request) -> str | None:
    """Return the `Idempotency-Key`, if there is one. Raises Rejected 400."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise Rejected(400, "Idempotency-Key must be 1 to 255 visible ASCII characters.", "invalid_value",
                       "Idempotency-Key")  # fmt: skip
    return key


def cursor(request: web.Request) -> int:
    """Return the number of the client's last record. `Last-Event-ID` wins over `?after=`. Raises Rejected 400."""
    name, value = "Last-Event-ID", request.headers.get("Last-Event-ID")
    if value is None:
        name, value = "after", request.query.get("after")
    return parse_cursor(name, value)


def parse_cursor(name: str, value: object) -> int:
    """Return the cursor in the field `name`, a text or a number. An empty or missing one is 0. Raises Rejected 400."""
    if value is None or value == "":
        return 0
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not CURSOR.fullmatch(value):
        raise Rejected(400, f"Invalid '{name}': it must be the id of an event.", "invalid_cursor", name)
    return int(value)
