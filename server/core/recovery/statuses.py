"""What an HTTP status of an upstream means, and which of its words may say otherwise."""

from typing import NamedTuple

from server.core.errors import Kind

# What words may say about an answer whose status says little.
ANYTHING = frozenset({Kind.AUTH, Kind.QUOTA, Kind.CONTEXT_LENGTH, Kind.CONTENT_POLICY, Kind.RATE_LIMIT})
NOTHING: frozenset[Kind] = frozenset()


class Meaning(NamedTuple):
    """The kind of a status. If the words of the answer say one of `unless`, that kind counts instead."""

    kind: Kind
    unless: frozenset[Kind] = NOTHING


# RFC 9110 section 15 unless a comment names another source. A status that is not here: `OTHER_4XX`, `OTHER`.
STATUSES: dict[int, Meaning] = {
    # Groq and OpenAI also say here that a prompt is too long, Anthropic that the credit is used up, Gemini that the key
    # is wrong (https://ai.google.dev/gemini-api/docs/troubleshooting).
    400: Meaning(Kind.BAD_REQUEST, ANYTHING),
    401: Meaning(Kind.AUTH),
    402: Meaning(Kind.QUOTA),  # DeepSeek "Insufficient Balance", OpenRouter, Fireworks: no credit
    # OpenRouter, Azure and xAI flag a prompt so; OpenAI refuses a country, xAI a team without credit.
    403: Meaning(Kind.AUTH, frozenset({Kind.CONTENT_POLICY, Kind.QUOTA, Kind.REFUSED})),
    404: Meaning(Kind.REFUSED),  # no such model, or a wrong `base_url`
    405: Meaning(Kind.REFUSED),  # a wrong `base_url`, like 406, 415 and 426
    406: Meaning(Kind.REFUSED),
    407: Meaning(Kind.AUTH),  # of the proxy on the way
    408: Meaning(Kind.REQUEST_TIMEOUT),
    409: Meaning(Kind.CONFLICT),
    410: Meaning(Kind.REFUSED),
    412: Meaning(Kind.REFUSED),  # Fireworks: the account is suspended (docs.fireworks.ai/guides/inference-error-codes)
    # Groq: one request is more than the tokens per minute. Anthropic: `request_too_large`. Cerebras: the context.
    413: Meaning(Kind.TOO_LARGE, frozenset({Kind.CONTEXT_LENGTH})),
    414: Meaning(Kind.REFUSED),
    415: Meaning(Kind.REFUSED),
    421: Meaning(Kind.NOT_READY),
    422: Meaning(Kind.BAD_REQUEST, ANYTHING),  # FastAPI, Mistral, TGI: validation, and too long a prompt
    423: Meaning(Kind.NOT_READY),
    # TGI: the generation failed (router/src/lib.rs, `InferError::GenerationError`). Groq: a remote MCP server failed.
    424: Meaning(Kind.NOT_READY),
    425: Meaning(Kind.NOT_READY),
    426: Meaning(Kind.REFUSED),
    429: Meaning(Kind.RATE_LIMIT, frozenset({Kind.QUOTA})),
    451: Meaning(Kind.REFUSED, frozenset({Kind.CONTENT_POLICY})),
    498: Meaning(Kind.RATE_LIMIT),  # Groq: the flex tier has no capacity (console.groq.com/docs/flex-processing)
    499: Meaning(Kind.NOT_READY),  # nginx: a proxy behind the target hung up; Groq and Cohere: cancelled
}
OTHER_4XX = Meaning(Kind.BAD_REQUEST, ANYTHING)
# 5xx, among them 520 to 527 and 530 (Cloudflare) and 529 (Anthropic: overloaded). A status below 400 is no answer.
OTHER = Meaning(Kind.OVERLOADED, ANYTHING)


def meaning(status: int) -> Meaning:
    """Return what a status other than 200 means."""
    return STATUSES.get(status, OTHER_4XX if 400 <= status < 500 else OTHER)
