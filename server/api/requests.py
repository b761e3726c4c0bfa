"""What a client sent, read within bounds and checked: the only way from a request to a `Generation`."""

import asyncio
import re
import time
from typing import Any, cast, get_args

import orjson
from aiohttp import web

from server.aio.aiohttp_internals import use_small_queues
from server.api.errors import REQUEST_ID
from server.config.settings import Settings
from server.core.errors import Rejected
from server.core.generation import Generation
from server.core.records import Policy

BODY_TIMEOUT = 10.0  # seconds between two pieces of a body
BODY_TOTAL = 60.0  # seconds for the whole body
MAX_MESSAGES = 2048  # as OpenAI's own API
MAX_CHOICES = 128
CURSOR = re.compile(r"0|[1-9][0-9]{0,17}")
KEY = re.compile(r"[!-~]{1,255}")
MODEL = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,256}")  # it goes out in a header, which a line end would break
PASSED_ON = ("traceparent", "tracestate")

# Type of the fields that are worth an answer of our own; what is not here goes to the upstream as it is.
NUMBER: tuple[type, ...] = (int, float)
FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "stream": ((bool,), "a boolean"),
    "stream_options": ((dict,), "an object"),
    "n": ((int,), "an integer"),
    "max_tokens": ((int,), "an integer"),
    "max_completion_tokens": ((int,), "an integer"),
    "temperature": (NUMBER, "a number"),
    "top_p": (NUMBER, "a number"),
    "presence_penalty": (NUMBER, "a number"),
    "frequency_penalty": (NUMBER, "a number"),
    "seed": ((int,), "an integer"),
    "stop": ((str, list), "a string or an array"),
    "logit_bias": ((dict,), "an object"),
    "logprobs": ((bool,), "a boolean"),
    "top_logprobs": ((int,), "an integer"),
    "tools": ((list,), "an array"),
    "tool_choice": ((str, dict), "a string or an object"),
    "response_format": ((dict,), "an object"),
    "user": ((str,), "a string"),
}


async def read_json(request: web.Request, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object of a request's body. Raises Rejected 400, 408, 413 or 415."""
    if request.content_type != "application/json":
        raise Rejected(415, "The body must be application/json.", "unsupported_media_type")
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    try:
        # A small body has come with its head, and needs no clock.
        body = request.content.read_nowait() if request.content.is_eof() else await _arriving(request, max_bytes)
    except TimeoutError:
        raise Rejected(408, "The body did not arrive in time.", "request_timeout") from None
    except web.RequestPayloadError as error:
        raise Rejected(400, "The body could not be read.", "invalid_body") from error
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    use_small_queues(request.content)  # which aiohttp keeps as long as the response
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(400, f"The body is not valid JSON: {error}.", "invalid_json") from error
    if not isinstance(value, dict):
        raise Rejected(400, "The body must be a JSON object.", "invalid_json")
    return value


async def _arriving(request: web.Request, max_bytes: int) -> bytearray:
    """Return a body once it is whole, or larger than it may be. Raises TimeoutError."""
    body = bytearray()
    async with asyncio.timeout(BODY_TOTAL):
        while len(body) <= max_bytes:
            async with asyncio.timeout(BODY_TIMEOUT):
                data = await request.content.readany()
            if not data:
                break
            body += data
    return body


def too_large(max_bytes: int) -> Rejected:
    """Return the rejection of a body past the bound."""
    return Rejected(413, f"The body is larger than {max_bytes} bytes.", "request_too_large")


def completion(request: web.Request, body: dict[str, Any], settings: Settings, came: float | None = None) -> Generation:
    """Return the generation that a chat completion asks for, which came whole at `came` or now. Raises Rejected 400."""
    check_fields(body)
    options = body.get("stream_options") or {}
    return Generation(
        form="openai",
        model=body["model"],
        body=body,
        stream=bool(body.get("stream")),
        policy=policy(request, settings),
        choices=body.get("n") or 1,
        show_usage=bool(options.get("include_usage")),
        trace=traces(request),
        request_id=request[REQUEST_ID],
        received=came or time.monotonic(),
    )


def traces(request: web.Request) -> tuple[tuple[str, str], ...]:
    """Return the headers that are passed on to the upstream."""
    passed = tuple((name, request.headers[name]) for name in PASSED_ON if name in request.headers)
    return (*passed, ("x-request-id", request[REQUEST_ID]))


def check_fields(body: dict[str, Any]) -> None:
    """Raise Rejected 400 for a missing field or one of a wrong type or range."""
    if not isinstance(body.get("model"), str) or not MODEL.fullmatch(body["model"]):
        raise invalid("model", "a string of 1 to 256 characters, none of them a control character")
    for name, (types, wanted) in FIELDS.items():
        value = body.get(name)
        if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise invalid(name, wanted)
    _check_messages(body.get("messages"))
    if body.get("n") is not None and not 1 <= body["n"] <= MAX_CHOICES:
        raise invalid("n", f"between 1 and {MAX_CHOICES}")
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None and body[name] < 1:
            raise invalid(name, "at least 1")


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "a non-empty array")
    if len(messages) > MAX_MESSAGES:
        words = f"Invalid 'messages': array too long: at most {MAX_MESSAGES} messages, not {len(messages)}."
        raise Rejected(400, words, "array_above_max_length", "messages")
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid(name, "an object")
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise invalid(f"{name}.role", "a non-empty string")
        if not isinstance(message.get("content"), str | list | None):
            raise invalid(f"{name}.content", "a string or an array")


def invalid(name: str, wanted: str) -> Rejected:
    """Return the rejection of one field."""
    return Rejected(400, f"Invalid '{name}': it must be {wanted}.", "invalid_value", name)


def policy(request: web.Request, settings: Settings) -> Policy:
    """Return what a disconnect does: the header's word, or the configuration's."""
    asked = request.headers.get("X-On-Disconnect", settings.streams.on_disconnect)
    if asked in get_args(Policy):
        return cast("Policy", asked)
    raise Rejected(400, "X-On-Disconnect must be cancel or continue.", "invalid_value", "X-On-Disconnect")


def idempotency_key(request: web.Request) -> str | None:
    """Return the `Idempotency-Key`, if there is one. Raises Rejected 400."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise Rejected(400, "Idempotency-Key must be 1 to 255 visible ASCII characters.", "invalid_value",
                       "Idempotency-Key")  # fmt: skip
    return key


def cursor(request: web.Request) -> int:
    """Return the number of the last record that the client has: `Last-Event-ID` wins over `?after=`."""
    name, value = "Last-Event-ID", request.headers.get("Last-Event-ID")
    if value is None:
        name, value = "after", request.query.get("after")
    return parse_cursor(name, value)


def parse_cursor(name: str, value: object) -> int:
    """Return a cursor that came as `name`, in text or as a number; nothing is 0. Raises Rejected 400."""
    if value is None or value == "":
        return 0
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not CURSOR.fullmatch(value):
        raise Rejected(400, f"Invalid '{name}': it must be the id of an event.", "invalid_cursor", name)
    return int(value)
