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
