"""What an upstream refuses: who is asked next, and what the client gets. The bytes are those of public upstreams."""

import pytest
from raw_upstream import HELLO, RawUpstream, gateway_over, refusal
from wire import complete

BOTH = pytest.mark.parametrize("stream", [True, False])
WHOLE = refusal(200, b'{"id":"c","choices":[{"index":0,"message":{"content":"hello"},"finish_reason":"stop"}]}')

# what, status, body, requests at `a`
ELSEWHERE = [
    ("TGI", 424, b'{"error":"Request failed during generation: CUDA error","error_type":"generation"}', 3),
    ("Groq: flex", 498, b'{"error":{"message":"over capacity","type":"capacity","code":"capacity_exceeded"}}', 3),
    ("too early", 425, b"", 3),
    ("a proxy hung up", 499, b"<html>499</html>", 3),
    ("OpenAI: no quota", 429,
     (b'{"error":{"message":"You exceeded your current quota.","type":"insufficient_quota","param":null,'
     b'"code":"insufficient_quota"}}'), 1),
    ("Groq: per day", 429,
     (b'{"error":{"message":"Rate limit reached for model `m` on tokens per day (TPD): Limit 100000, Used 99999.",'
     b'"type":"tokens","code":"rate_limit_exceeded"}}'), 1),
    ("Anthropic: no credit", 400,
     (b'{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access '
     b'the Anthropic API."}}'), 1),
    ("DeepSeek", 402, b'{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null}}', 1),
    ("Groq: one request over the minute's tokens", 413,
     (b'{"error":{"message":"Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 7000",'
     b'"type":"tokens","code":"rate_limit_exceeded"}}'), 1),
    ("Fireworks: suspended", 412, b'{"error":{"message":"Account is suspended"}}', 1),
    ("nginx: a wrong path", 405, b"<html><title>405 Not Allowed</title></html>", 1),
    ("OpenAI: a country", 403,
     (b'{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not '
     b'supported","param":null,"type":"request_forbidden"}}'), 1),
    ("Anthropic: overloaded", 529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', 3),
    ("Cloudflare", 520, b"<html><title>520: unknown error</title></html>", 3),
    ("Cloudflare: origin", 530, b"error code: 1016", 3),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("status", "body", "asked"), [row[1:] for row in ELSEWHERE], ids=[row[0] for row in ELSEWHERE])
async def test_another_target_answers(stream, status, body, asked) -> None:
    """What one target cannot do now another one does: at once, or after retries if the first may do better."""
    a, b = RawUpstream(refusal(status, body)), RawUpstream(HELLO if stream else WHOLE)
    async with gateway_over(a, b) as gateway:
        answer = await complete(gateway.root, "m", stream=stream)
    assert (answer.status, b'"content":"hello"' in answer.body) == (200, True)
    assert (len(a.bodies), len(b.bodies)) == (asked, 1)


FLAGGED = [
    ("OpenRouter", 403,
     (b'{"error":{"code":403,"message":"openai/gpt-4o requires moderation on OpenAI. Your input was flagged for '
     b'\\"harassment\\".","metadata":{"reasons":["harassment"],"flagged_input":"You are",'
     b'"provider_name":"OpenAI","model_slug":"openai/gpt-4o"}}}')),
    ("words alone", 403, b'{"error":{"message":"your input was flagged"}}'),
    ("xAI", 403, (b'{"code":"The caller does not have permission to execute the specified operation","error":'
     b'"Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_CSAM"}')),
    ("Azure", 400,
     (b'{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI\'s content management '
     b'policy.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":'
     b'{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true}}}}}')),
    ("DeepSeek", 400, b'{"error":{"message":"Content Exists Risk","type":"invalid_request_error","code":"x"}}'),
    ("DashScope", 400, b'{"error":{"code":"data_inspection_failed","message":"Input data may be inappropriate"}}'),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("status", "body"), [row[1:] for row in FLAGGED], ids=[row[0] for row in FLAGGED])
async def test_flagged_content_stays(stream, status, body) -> None:
    """What one upstream flags is the client's error, in the upstream's words, and goes to no other upstream."""
    a, b = RawUpstream(refusal(status, body)), RawUpstream(HELLO)
    async with gateway_over(a, b) as gateway:
        answer = await complete(gateway.root, "m", stream=stream)
    assert answer.status == status
    assert answer.error["message"][:20].encode() in body
    assert answer.headers["x-should-retry"] == "false"
    assert (len(a.bodies), len(b.bodies)) == (1, 0)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","error":{"type":"permission_error","message":"Your API key lacks permission"}}',
        b'{"error":{"message":"account 4711 is locked"}}',
        b'{"error":{"message":"Your account was flagged; your request cannot be served"}}',
        b"",
    ],
)
async def test_refused_credentials(body) -> None:
    """A 403 about the gateway's credentials stays 502 `upstream_auth`, and another target is asked."""
    a, b = RawUpstream(refusal(403, body)), RawUpstream(HELLO)
    async with gateway_over(a) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, answer.error["code"]) == (502, "upstream_auth")
    assert b"4711" not in answer.body
    async with gateway_over(a, b) as gateway:
        assert (await complete(gateway.root, "m")).status == 200


async def test_no_quota_anywhere() -> None:
    """Without another target the client gets the 429 as it is, from one attempt."""
    a = RawUpstream(refusal(429, b'{"error":{"message":"No quota.","code":"insufficient_quota"}}'))
    async with gateway_over(a) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, answer.error["code"], answer.error["retryable"]) == (429, "insufficient_quota", False)
    assert len(a.bodies) == 1


# --- what an upstream says in a place of its own -----------------------------------------------------------------

WORDS = [
    ("Gemini", 400,
     (b'[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \\"foo\\": Cannot find field.",'
     b'"status":"INVALID_ARGUMENT"}}]'),
     {"message": 'Invalid JSON payload received. Unknown name "foo": Cannot find field.', "code": "400"}),
    ("Mistral", 422,
     (b'{"object":"error","message":{"detail":[{"type":"int_type","loc":["body","n"],"msg":"not an int","input":"x"}]},'
     b'"type":"invalid_request_error","param":null,"code":null}'),
     {"message": "body.n: not an int", "type": "invalid_request_error"}),
    ("OpenRouter", 400,
     (b'{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\\"error\\":{\\"message\\":\\"no '
     b'such tool\\"}}","provider_name":"Acme"}}}'),
     {"message": "Provider returned error: no such tool",
      "metadata": {"raw": '{"error":{"message":"no such tool"}}', "provider_name": "Acme"}}),
    ("Azure", 400,
     (b'{"error":{"message":"Filtered.","type":null,"param":"prompt","code":"content_filter","innererror":'
     b'{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"}}}}}'),
     {"code": "content_filter", "param": "prompt",
      "innererror": {"code": "ResponsibleAIPolicyViolation",
                     "content_filter_result": {"hate": {"filtered": True, "severity": "high"}}}}),
    ("Groq", 400,
     (b'{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed",'
     b'"failed_generation":"<function=f {}></function>"}}'),
     {"code": "tool_use_failed", "failed_generation": "<function=f {}></function>"}),
    ("nginx", 400, b"<html><head><title>400 Bad Request</title></head></html>", {"message": "400 Bad Request"}),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("status", "body", "wanted"), [row[1:] for row in WORDS], ids=[row[0] for row in WORDS])
async def test_words(stream, status, body, wanted) -> None:
    """The client gets the upstream's reason, wherever it says it, and what it says in a place of its own."""
    async with gateway_over(RawUpstream(refusal(status, body))) as gateway:
        answer = await complete(gateway.root, "m", stream=stream)
    assert answer.status == status
    assert {name: answer.error[name] for name in wanted} == wanted


# --- a field that the gateway added ------------------------------------------------------------------------------

MISTRAL = (
    b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options","include_usage"],'
    b'"msg":"Extra inputs are not permitted","input":true}]},"type":"invalid_request_error","param":null,"code":null}'
)
AZURE = (
    b'{"error":{"message":"Unrecognized request argument supplied: stream_options. Please contact us",'
    b'"type":"invalid_request_error","param":"","code":null}}'
)
GEMINI = b'[{"error":{"code":400,"message":"Unknown name \\"stream_options\\": Cannot find field."}}]'


def refusing(status: int, body: bytes):
    """Return an upstream that answers only if it is not asked for usage."""
    return RawUpstream(lambda asked: refusal(status, body) if "stream_options" in asked else HELLO)


@pytest.mark.parametrize(("status", "body"), [(422, MISTRAL), (400, AZURE), (400, GEMINI)])
async def test_usage_is_not_insisted_on(status, body) -> None:
    """An upstream that refuses to be asked for usage is asked once more without that, and from then on at once."""
    a, b = refusing(status, body), RawUpstream(HELLO)
    async with gateway_over(a, b, recovery={"strategy": "none"}) as gateway:
        first = await complete(gateway.root, "m")
        second = await complete(gateway.root, "m", stream_options={"include_usage": True})
    assert (first.status, second.status, len(b.bodies)) == (200, 200, 0)
    assert b'"content":"hello"' in first.body
    assert ["stream_options" in asked for asked in a.bodies] == [True, False, False]
    assert b'"usage":{' in second.body, "a client that asked gets an estimate"
    assert b'"usage":{' not in first.body


async def test_usage_is_dropped_alone() -> None:
    """What else a client says in `stream_options` still goes upstream, and a refusal of that is the client's."""
    a = RawUpstream(refusal(422, MISTRAL))
    options = {"include_usage": True, "include_obfuscation": False}
    async with gateway_over(a) as gateway:
        answer = await complete(gateway.root, "m", stream_options=options)
    assert (answer.status, answer.error["message"]) == (
        422, "body.stream_options.include_usage: Extra inputs are not permitted",
    )  # fmt: skip
    assert [asked["stream_options"] for asked in a.bodies] == [options, {"include_obfuscation": False}]


async def test_a_request_that_is_not_streamed_is_asked_once() -> None:
    """The gateway adds nothing to a request that is not streamed: what is refused there is the client's own."""
    a = RawUpstream(refusal(422, MISTRAL))
    async with gateway_over(a) as gateway:
        assert (await complete(gateway.root, "m", stream=False)).status == 422
    assert len(a.bodies) == 1


async def test_a_wait_is_bounded() -> None:
    """A `Retry-After` of 10^20 seconds reaches nobody: it is an hour at most."""
    body = b'{"error":{"message":"slow down"}}'
    a = RawUpstream(refusal(429, body, headers=b"Retry-After: 100000000000000000000\r\n"))
    async with gateway_over(a) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, answer.headers["retry-after"]) == (429, "3600")
