"""Turns exceptions into responses: OpenAI's error object, the request's id, and no internals."""

import math
import re
import secrets
from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from server.api.access import OWNER, Access
from server.api.cors import Cors
from server.api.head import check_head
from server.core.dialect import Dialect
from server.core.errors import Kind, Rejected, StoreError, UpstreamError, error_body
from server.core.records import Ending
from server.streams.admission import DRAINING
from server.telemetry.logs import cause

# nginx says with this header that it has a location `@another_gateway`, where it goes if this gateway is being stopped.
# A rule of nginx by the status would also catch an upstream's own 503, and send a generation to its upstream again.
ELSEWHERE = "X-Sluiceway-Elsewhere"
SANE_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
RESTART = 1.0  # seconds until a client may try again after a shutdown
REQUEST_ID = web.RequestKey("id", str)
log = structlog.get_logger("sluiceway.http")


def new_request_id() -> str:
    """Return an id for a request that has none, or one that is not sane."""
    return f"req_{secrets.token_hex(12)}"


def middleware(access: Access, cors: Cors, served: str, dialects: Mapping[str, Dialect]) -> Middleware:
    """Return the one middleware: request id, preflight, access, errors.

    `served` lists the paths, for the text of a 404. `dialects` by path: errors of a path have its dialect's shape.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        client_id = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = client_id if SANE_ID.fullmatch(client_id) else new_request_id()
        try:
            check_head(request)
            response: web.StreamResponse | None = cors.preflight(request)
            if response is None:
                request[OWNER] = access.owner(request)
                response = await handler(request)
        except (Rejected, StoreError) as error:
            # The error knows the frames that it has passed, this one too. A second name for it here would be a cycle,
            # and would keep a refused body in memory until a collection.
            response = _rejection(request, error, dialects)
        except web.HTTPException as error:
            response = _routing_error(request, error, served, dialects)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 — a bug of ours; the client learns only that there was one
            log.error("handler failed", path=request.path, request_id=request[REQUEST_ID], **cause(error))
            body = error_body("The gateway failed on this request.", "internal_error", "api_error")
            response = json_response(_in_dialect(request, body, 500, dialects), 500)
        if not response.prepared:
            response.headers["X-Request-Id"] = request[REQUEST_ID]
        return response

    return guard


def _rejection(request: web.Request, error: Rejected | StoreError, dialects: Mapping[str, Dialect]) -> web.Response:
    rejected = error if isinstance(error, Rejected) else _store_rejection(error)
    body = _in_dialect(request, rejected.body(), rejected.status, dialects)
    response = json_response(body, rejected.status, retry_after=rejected.retry_after)
    if rejected.code == DRAINING and request.headers.get(ELSEWHERE) == "nginx":
        response.headers["X-Accel-Redirect"] = "@another_gateway"
    return response


def _in_dialect(
    request: web.Request, body: Mapping[str, Any], status: int, dialects: Mapping[str, Dialect]
) -> Mapping[str, Any]:
    """Return OpenAI's error object in the shape of the dialect that the requested path belongs to."""
    resource = request.match_info.route.resource
    path = request.path if resource is None else resource.canonical  # None: a path or method that is not served
    # What is below a dialect's path is asked for by its clients, too, such as /v1/messages/batches.
    found = (dialect for known, dialect in dialects.items() if path == known or path.startswith(f"{known}/"))
    dialect = next(found, None)
    return body if dialect is None else dialect.error(body, status, request[REQUEST_ID])


def json_response(
    body: Mapping[str, Any],
    status: int = 200,
    *,
    retry_after: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return a JSON response. `retry_after` is in seconds, rounded up: RFC 9110 allows whole seconds only."""
    response = web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return response


def failed_response(dialect: Dialect, ending: Ending, headers: Mapping[str, str]) -> web.Response:
    """Return the HTTP error of a stream that failed before its response opened."""
    assert ending.error is not None
    body = dialect.error(ending.error, ending.status, headers["X-Request-Id"])
    if ending.reason == "shutdown":  # the request was fine: the next process, or another instance, takes it
        return json_response(body, ending.status, retry_after=RESTART, headers=headers)
    response = json_response(body, ending.status, retry_after=ending.retry_after, headers=headers)
    if ending.reason not in (Kind.NO_TARGET.value, Kind.EXHAUSTED.value):
        # The gateway has made all its attempts. An SDK that retries by itself would multiply them. If there was no
        # target or no socket, it has made none, and `Retry-After` says when to come back.
        response.headers["x-should-retry"] = "false"
    return response


def error_response(error: UpstreamError, headers: Mapping[str, str], *, final: bool) -> web.Response:
    """Return the HTTP error of a request that no target has answered. `final`: nothing was left to try."""
    body = error.body()
    body["error"]["retryable"] = error.retryable
    response = json_response(body, error.http_status, retry_after=error.retry_after, headers=headers)
    if final and error.kind not in (Kind.NO_TARGET, Kind.EXHAUSTED):
        response.headers["x-should-retry"] = "false"  # as in `failed_response`
    return response


def _store_rejection(error: StoreError) -> Rejected:
    """Return the rejection that a client gets if the store cannot be used. The log tells the operator why."""
    log.warning("store away", error=str(error))
    return Rejected(503, "The store of the gateway is away.", "store_unavailable", retry_after=1.0)


def _routing_error(
    request: web.Request, error: web.HTTPException, served: str, dialects: Mapping[str, Dialect]
) -> web.Response:
    if error.status == 405:
        body = error_body(f"{request.method} is not allowed here.", "method_not_allowed", "invalid_request_error")
        return json_response(
            _in_dialect(request, body, 405, dialects), 405, headers={"Allow": error.headers.get("Allow", "")}
        )
    if error.status == 404:
        code = "unknown_endpoint" if request.path.startswith("/v1/") else "not_found"
        body = error_body(f"Not found. Served here: {served}.", code, "invalid_request_error")
        return json_response(_in_dialect(request, body, 404, dialects), 404)
    return json_response(error_body(error.reason, "bad_request", "invalid_request_error"), error.status)
