"""The shapes of error bodies: each is what a public server, SDK or document shows."""

# ruff: noqa: E501 — the bodies of upstreams are quoted as they are

from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import Kind
from server.core.recovery.bodies import MAX_DEPTH, read, safe
from server.core.recovery.classify import from_status, refuses_usage
from server.core.recovery.present import MAX_MESSAGE, MAX_PLACE, present

NOW = 1_800_000_000.0


class Shape(NamedTuple):
    """A body, and what the error must say."""

    who: str
    status: int
    body: str
    kind: Kind
    message: str
    code: str | None = None
    type: str | None = None
    param: str | None = None
    places: tuple[str, ...] = ()


BAD = Kind.BAD_REQUEST
SHAPES = [
    Shape(
        "OpenAI",
        400,
        '{"error":{"message":"Bad","type":"invalid_request_error","param":"n","code":"x"}}',
        BAD,
        "Bad",
        "x",
        "invalid_request_error",
        "n",
    ),
    Shape(
        "Gemini: an array",
        400,
        '[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \\"foo\\": Cannot find field.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"description":"Invalid JSON payload received. Unknown name \\"foo\\": Cannot find field."}]}]}}]',
        BAD,
        'Invalid JSON payload received. Unknown name "foo": Cannot find field.',
        "400",
        "INVALID_ARGUMENT",
        None,
        ("details",),
    ),
    Shape(
        "Gemini: details say more",
        400,
        '{"error":{"code":400,"message":"Request contains an invalid argument.","status":"INVALID_ARGUMENT","details":[{"fieldViolations":[{"field":"contents[0]","description":"must not be empty"}]}]}}',
        BAD,
        "Request contains an invalid argument.: contents[0]: must not be empty",
        "400",
        "INVALID_ARGUMENT",
        None,
        ("details",),
    ),
    Shape(
        "Mistral: an object as message",
        422,
        '{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options","include_usage"],"msg":"Extra inputs are not permitted","input":true}]},"type":"invalid_request_error","param":null,"code":null}',
        BAD,
        "body.stream_options.include_usage: Extra inputs are not permitted",
        None,
        "invalid_request_error",
        None,
        ("detail",),
    ),
    Shape(
        "Mistral: today",
        422,
        '{"object":"Error","detail":[{"loc":["body","tools"],"msg":"Extra inputs are not permitted"}],"message":[{"loc":["body","tools"],"msg":"Extra inputs are not permitted"}],"type":"invalid_request_error","code":3001}',
        BAD,
        "body.tools: Extra inputs are not permitted",
        "3001",
        "invalid_request_error",
        None,
        ("detail",),
    ),
    Shape(
        "OpenRouter: raw",
        502,
        '{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"{\\"error\\":{\\"message\\":\\"model overloaded\\"}}","provider_name":"Acme"}}}',
        Kind.OVERLOADED,
        "Provider returned error: model overloaded",
        "502",
        None,
        None,
        ("metadata",),
    ),
    Shape(
        "OpenRouter: raw text",
        400,
        '{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"no such tool","provider_name":"Acme"}}}',
        BAD,
        "Provider returned error: no such tool",
        "400",
        None,
        None,
        ("metadata",),
    ),
    Shape(
        "OpenRouter: the provider's overflow",
        400,
        '{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\\"message\\":\\"Input is too long for requested model.\\"}"}}}',
        Kind.CONTEXT_LENGTH,
        "Provider returned error: Input is too long for requested model.",
        "400",
        None,
        None,
        ("metadata",),
    ),
    Shape(
        "OpenRouter: moderation",
        403,
        '{"error":{"code":403,"message":"Rejected","metadata":{"reasons":["harassment"],"flagged_input":"You","provider_name":"OpenAI"}}}',
        Kind.CONTENT_POLICY,
        "Rejected",
        "403",
        None,
        None,
        ("metadata",),
    ),
    Shape(
        "Azure",
        400,
        '{"error":{"message":"The response was filtered.","type":null,"param":"prompt","code":"x","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"}}}}}',
        Kind.CONTENT_POLICY,
        "The response was filtered.",
        "x",
        None,
        "prompt",
        ("innererror",),
    ),
    Shape(
        "Azure: inner words",
        500,
        '{"error":{"code":"InternalServerError","message":"Internal Server Error","innerError":{},"innererror":{"code":"X","message":"deployment is gone"}}}',
        Kind.OVERLOADED,
        "Internal Server Error: deployment is gone",
        "InternalServerError",
        None,
        None,
        ("innererror",),
    ),
    Shape(
        "Azure's front", 404, '{"statusCode":404,"message":"Resource not found"}', Kind.REFUSED, "Resource not found"
    ),
    Shape(
        "Groq: a failed tool call",
        400,
        '{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed","failed_generation":"<function=f {}></function>"}}',
        BAD,
        "Failed to call a function.",
        "tool_use_failed",
        "invalid_request_error",
        None,
        ("failed_generation",),
    ),
    Shape("FastAPI: a text", 422, '{"detail":"Unprocessable"}', BAD, "Unprocessable"),
    Shape(
        "FastAPI: errors",
        422,
        '{"detail":[{"loc":["body","n"],"msg":"not an int","type":"int"},{"msg":"too large"},5,{}]}',
        BAD,
        "body.n: not an int; too large",
        None,
        None,
        None,
        ("detail",),
    ),
    Shape(
        "FastAPI: an object",
        400,
        '{"detail":{"message":"nested","code":"deep"}}',
        BAD,
        "nested",
        None,
        None,
        None,
        ("detail",),
    ),
    Shape(
        "Pydantic: a bare array",
        422,
        '[{"loc":["n"],"msg":"not an int"},{"loc":["m"],"msg":"missing"}]',
        BAD,
        "n: not an int; m: missing",
    ),
    Shape(
        "Cohere",
        400,
        '{"id":"1","message":"invalid request: list of messages must not be empty"}',
        BAD,
        "invalid request: list of messages must not be empty",
    ),
    Shape(
        "Bedrock",
        400,
        '{"__type":"ValidationException","message":"Malformed input request"}',
        BAD,
        "Malformed input request",
        "ValidationException",
    ),
    Shape("Bedrock's front", 400, '{"Message":"Bad Authorization header"}', BAD, "Bad Authorization header"),
    Shape("Ollama", 404, '{"error":"model \'m\' not found"}', Kind.REFUSED, "model 'm' not found"),
    Shape(
        "Ollama, OpenAI's path",
        404,
        '{"error":{"message":"model \\"m\\" not found","type":"api_error","param":null,"code":null}}',
        Kind.REFUSED,
        'model "m" not found',
        None,
        "api_error",
    ),
    Shape(
        "TGI",
        422,
        '{"error":"Input validation error: `top_p` must be > 0.0 and < 1.0","error_type":"validation"}',
        BAD,
        "Input validation error: `top_p` must be > 0.0 and < 1.0",
        None,
        "validation",
    ),
    Shape(
        "TGI: overloaded",
        429,
        '{"error":"Model is overloaded","error_type":"overloaded"}',
        Kind.RATE_LIMIT,
        "Model is overloaded",
        None,
        "overloaded",
    ),
    Shape(
        "Hugging Face: loading",
        503,
        '{"error":"Model m is currently loading","estimated_time":20.0}',
        Kind.OVERLOADED,
        "Model m is currently loading",
    ),
    Shape(
        "Hugging Face: an array",
        400,
        '{"error":["Error in `parameters.top_p`: too large"],"warnings":[]}',
        BAD,
        "Error in `parameters.top_p`: too large",
    ),
    Shape(
        "DeepSeek",
        402,
        '{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}',
        Kind.QUOTA,
        "Insufficient Balance",
        "invalid_request_error",
        "unknown_error",
    ),
    Shape(
        "vLLM",
        400,
        '{"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}',
        BAD,
        "no",
        "400",
        "BadRequestError",
    ),
    Shape(
        "SGLang",
        400,
        '{"object":"error","message":"no","type":"BadRequest","param":"x","code":400}',
        BAD,
        "no",
        "400",
        "BadRequest",
        "x",
    ),
    Shape(
        "llama.cpp",
        400,
        '{"error":{"code":400,"message":"the request exceeds","type":"exceed_context_size_error","n_ctx":8}}',
        Kind.CONTEXT_LENGTH,
        "the request exceeds",
        "400",
        "exceed_context_size_error",
    ),
    Shape(
        "Anthropic",
        529,
        '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}',
        Kind.OVERLOADED,
        "Overloaded",
        None,
        "overloaded_error",
    ),
    Shape("xAI", 400, '{"code":"Client specified an invalid argument","error":"Unknown model"}', BAD, "Unknown model"),
    Shape(
        "Databricks",
        400,
        '{"error_code":"BAD_REQUEST","message":"no such endpoint"}',
        BAD,
        "no such endpoint",
        "BAD_REQUEST",
    ),
    Shape(
        "Qianfan",
        400,
        '{"error_code":336003,"error_msg":"the role is wrong","id":"1"}',
        BAD,
        "the role is wrong",
        "336003",
    ),
    Shape(
        "MiniMax",
        400,
        '{"base_resp":{"status_code":2013,"status_msg":"invalid params"}}',
        BAD,
        "invalid params",
        "2013",
    ),
    Shape(
        "DashScope",
        400,
        '{"code":"InvalidParameter","message":"top_p is wrong","request_id":"1"}',
        BAD,
        "top_p is wrong",
        "InvalidParameter",
    ),
    Shape(
        "Cloudflare",
        400,
        '{"success":false,"errors":[{"code":7003,"message":"Could not route"}],"messages":[]}',
        BAD,
        "Could not route",
        "7003",
    ),
    Shape(
        "LiteLLM",
        400,
        '{"error":{"message":"litellm.BadRequestError: no","type":null,"param":null,"code":"400"}}',
        BAD,
        "litellm.BadRequestError: no",
        "400",
    ),
    Shape(
        "RFC 9457",
        400,
        '{"type":"about:blank","title":"Bad Request","status":400,"detail":"n is wrong"}',
        BAD,
        "n is wrong",
    ),
    Shape(
        "Spring",
        400,
        '{"timestamp":"x","status":400,"error":"Bad Request","message":"JSON parse error","path":"/"}',
        BAD,
        "Bad Request: JSON parse error",
    ),
    Shape("JSON in a text", 400, '{"error":"{\\"message\\":\\"inner\\",\\"code\\":\\"c\\"}"}', BAD, "inner", "c"),
    Shape(
        "a text",
        503,
        "upstream connect error or disconnect/reset before headers",
        Kind.OVERLOADED,
        "upstream connect error or disconnect/reset before headers",
    ),
    Shape(
        "nginx",
        502,
        "<html>\r\n<head><title>502 Bad Gateway</title></head><body></body></html>",
        Kind.OVERLOADED,
        "502 Bad Gateway",
    ),
    Shape(
        "a page without a title",
        502,
        "<html><h1>Bad gateway</h1>",
        Kind.OVERLOADED,
        "The upstream answered with status 502.",
    ),
    Shape(
        "a firewall",
        403,
        "<!DOCTYPE html><title>Attention Required! | Cloudflare</title>",
        Kind.REFUSED,
        "Attention Required! | Cloudflare",
    ),
    Shape("nothing", 500, "", Kind.OVERLOADED, "The upstream answered with status 500."),
    Shape("an empty object", 500, "{}", Kind.OVERLOADED, "The upstream answered with status 500."),
    Shape(
        "odd types", 500, '{"error":{"message":["boom"],"code":{"a":1},"type":5,"param":[]}}', Kind.OVERLOADED, "boom"
    ),
]


def parsed(body: str) -> Any:
    """Return a body as the SDK hands it over: parsed if it is JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.who for shape in SHAPES])
def test_shapes(shape: Shape) -> None:
    """Whatever its shape, an error's message, code, type and parameter come out, and what it says elsewhere."""
    error = from_status(shape.status, parsed(shape.body), None, NOW)
    present(error, str)
    assert error.message == shape.message
    assert (error.kind, error.code, error.type, error.param) == (shape.kind, shape.code, shape.type, shape.param)
    assert tuple(error.places) == shape.places
    assert error.status == shape.status
    body = error.body()["error"]
    assert {"message", "type", "param", "code", *shape.places} == body.keys()


def test_the_wait_of_gemini() -> None:
    """Gemini says how long to wait in its details, and by the name of a quota that it lasts until tomorrow."""
    details: list[dict[str, Any]] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]
    body = [{"error": {"code": 429, "message": "You exceeded your current quota", "details": details}}]
    error = from_status(429, body, None, NOW)
    assert (error.kind, error.retry_after) == (Kind.RATE_LIMIT, 17.5)
    assert from_status(429, body, "3", NOW).retry_after == 3.0
    details.append({"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]})
    assert from_status(429, body, None, NOW).kind is Kind.QUOTA


def test_a_wrong_key_of_gemini() -> None:
    """Gemini refuses a key with a 400, whose details say why."""
    body = {"error": {"code": 400, "message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}}
    error = from_status(400, body, None, NOW)
    assert (error.kind, error.http_status, error.places) == (Kind.AUTH, 502, {})


def test_everything_is_bounded() -> None:
    """A long message is cut. A place that is too large is left out, and the others stay."""
    body = {"error": {"message": "x" * 100_000, "metadata": {"raw": ["y" * 5000] * 20}, "innererror": {"code": "c"}}}
    error = from_status(500, body, None, NOW)
    present(error, str)
    assert len(error.message) == MAX_MESSAGE
    assert error.places == {"innererror": {"code": "c"}}
    assert len(orjson.dumps(error.body())) < MAX_MESSAGE + MAX_PLACE


@pytest.mark.parametrize("name", ["x" * 65, "a b", "a\nb", "ü", "", 'a"b'])
def test_names_are_names(name: str) -> None:
    """A code or a type that is no name is left out: programs compare them, and logs show them."""
    error = from_status(500, {"error": {"message": "x", "code": name, "type": name}}, None, NOW)
    present(error, str)
    assert (error.code, error.type) == (None, None)
    assert error.body()["error"]["code"] == "upstream_server_error"


DEEP: Any = "bottom"
for _ in range(100):
    DEEP = {"error": DEEP, "message": DEEP, "details": [DEEP]}


def test_deep_bodies() -> None:
    """A body that is nested deeply is looked into only so far."""
    assert read(DEEP).message == ""
    assert safe([[[[[[[[1]]]]]]]]) is not None
    assert orjson.dumps(safe(DEEP)).count(b"{") < 3**MAX_DEPTH


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters()) | st.just("[1]"),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "errors",
                    "message",
                    "detail",
                    "details",
                    "code",
                    "type",
                    "msg",
                    "metadata",
                    "raw",
                    "loc",
                    "innererror",
                    "reason",
                    "violations",
                    "fieldViolations",
                ]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(ANYTHING)
def test_any_body(body: Any) -> None:
    """Whatever comes, it is read without an exception, and what comes of it can be written as JSON."""
    error = from_status(400, body, None, NOW)
    present(error, str)
    assert error.message
    orjson.dumps(error.body())
    refuses_usage(error)


REFUSALS = [
    (422, SHAPES[3].body),  # Mistral
    (
        422,
        '{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}',
    ),
    (
        400,
        '{"error":{"message":"Unrecognized request argument supplied: stream_options. Please contact us","type":"invalid_request_error","param":"","code":null}}',
    ),
    (
        400,
        '{"error":{"message":"Unknown parameter: \'stream_options\'.","type":"invalid_request_error","param":"stream_options","code":"unknown_parameter"}}',
    ),
    (400, '{"error":{"code":"400","message":"Validation error at #/stream_options: Extra inputs are not permitted"}}'),
    (
        400,
        '{"type":"error","error":{"type":"invalid_request_error","message":"stream_options: Extra inputs are not permitted"}}',
    ),
    (
        400,
        '[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \\"stream_options\\": Cannot find field.","status":"INVALID_ARGUMENT"}}]',
    ),
    (422, "Failed to deserialize the JSON body into the target type: unknown field `stream_options`"),
    (400, '{"error_code":"BAD_REQUEST","message":"stream_options.include_usage: unsupported"}'),
    (500, '{"error":"unexpected keyword argument \'stream_options\'"}'),
    (400, '{"error":{"message":"Unsupported parameter","param":"stream_options"}}'),
]


@pytest.mark.parametrize(("status", "body"), REFUSALS)
def test_refusals_of_usage(status: int, body: str) -> None:
    """However an upstream words it, that it refuses to be asked for usage is known."""
    assert refuses_usage(from_status(status, parsed(body), None, NOW))


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "n must be 1"), (429, "stream_options"), (401, "stream_options"), (400, "stream is not supported")],
)
def test_other_refusals(status: int, message: str) -> None:
    """Other errors, and errors that another request would not change, are no such refusal."""
    assert not refuses_usage(from_status(status, {"error": {"message": message}}, None, NOW))
