"""What the words of an upstream's error mean: its `code` and `type`, and if need be its message.

A code is the better witness. A message is looked at because many upstreams have no code for what matters here. Each row
has its source beside it: a document, or the file of a public server or SDK that says so.
"""

import re
from collections.abc import Iterator

from server.core.errors import Kind

LOOKED_AT = 4000  # characters of a message that the patterns are tried on

CODES: dict[str, Kind] = {
    # OpenAI (platform.openai.com/docs/guides/error-codes), Anthropic (docs.anthropic.com/en/api/errors)
    "invalid_api_key": Kind.AUTH,
    "authentication_error": Kind.AUTH,
    "permission_error": Kind.AUTH,
    "api_key_invalid": Kind.AUTH,  # Gemini, as the `reason` of its details
    "insufficient_quota": Kind.QUOTA,
    "billing_hard_limit_reached": Kind.QUOTA,
    "billing_not_active": Kind.QUOTA,
    "billing_error": Kind.QUOTA,  # Anthropic
    "exceeded_current_quota_error": Kind.QUOTA,  # Moonshot (platform.moonshot.ai/docs/api/chat)
    "insufficient_balance": Kind.QUOTA,
    "arrearage": Kind.QUOTA,  # DashScope (help.aliyun.com/zh/model-studio/error-code)
    "1113": Kind.QUOTA,  # Zhipu: the account is in arrears (docs.bigmodel.cn/cn/faq/api-code)
    "context_length_exceeded": Kind.CONTEXT_LENGTH,
    "exceed_context_size_error": Kind.CONTEXT_LENGTH,  # llama.cpp, tools/server/server-common.cpp
    "content_policy_violation": Kind.CONTENT_POLICY,
    "content_filter": Kind.CONTENT_POLICY,  # Azure
    "responsibleaipolicyviolation": Kind.CONTENT_POLICY,  # Azure, as the code of its `innererror`
    "content_policy": Kind.CONTENT_POLICY,
    "moderation_blocked": Kind.CONTENT_POLICY,
    "data_inspection_failed": Kind.CONTENT_POLICY,  # DashScope
    "datainspectionfailed": Kind.CONTENT_POLICY,
    "1301": Kind.CONTENT_POLICY,  # Zhipu
    "rate_limit_exceeded": Kind.RATE_LIMIT,
    "rate_limit_error": Kind.RATE_LIMIT,
    "429": Kind.RATE_LIMIT,
    "unsupported_country_region_territory": Kind.REFUSED,  # OpenAI
}

MESSAGES: list[tuple[Kind, str]] = [
    # --- no credit, or none until tomorrow: to wait some seconds is no use ---
    (Kind.QUOTA, r"credit balance is too low"),  # Anthropic, status 400
    (Kind.QUOTA, r"insufficient (?:account )?(?:balance|credits?|funds|quota)"),  # DeepSeek, OpenRouter, Moonshot
    (Kind.QUOTA, r"(?:doesn't|does not) have any credits"),  # xAI, status 403
    (Kind.QUOTA, r"exceeded your monthly included credits"),  # Hugging Face's router, status 402
    (Kind.QUOTA, r"\bper[ -]day\b|\((?:TPD|RPD)\)|PerDay\b|free-models-per-day|\bdaily (?:limit|quota)"),  # Groq,
    # OpenAI ("on requests per day (RPD)"), Bedrock ("Too many tokens per day"), Gemini's `quotaId`, OpenRouter
    # --- the content is refused, and another target must not be asked to take it ---
    (
        Kind.CONTENT_POLICY,
        r"\b(?:input|prompt|content|messages?|request)\b(?:(?!account)[^.]){0,60}\bflagged\b",
    ),  # OpenRouter,
    # OpenAI ("your prompt was flagged as potentially violating our usage policy")
    (Kind.CONTENT_POLICY, r"flagged by (?:the |our )?(?:moderation|content|safety)|requires moderation"),
    (Kind.CONTENT_POLICY, r"content management policy|content[ _-]filter(?:ing)? policy"),  # Azure
    (Kind.CONTENT_POLICY, r"rejected as a result of (?:our|the) safety system"),  # OpenAI
    (Kind.CONTENT_POLICY, r"content violates usage guidelines|SAFETY_CHECK_TYPE"),  # xAI, status 403
    (Kind.CONTENT_POLICY, r"content exists risk"),  # DeepSeek, status 400
    (Kind.CONTENT_POLICY, r"blocked by (?:the |our )?content filter|output blocked by content"),  # Anthropic, Bedrock
    # --- the place is refused ---
    (Kind.REFUSED, r"(?:country|region|territory|location)[^.]{0,30}not supported"),  # OpenAI, Gemini
    # --- the prompt is too long ---
    (Kind.CONTEXT_LENGTH, r"maximum context length|context size|context window|prompt is too long"),
]
PATTERNS = {
    kind: re.compile("|".join(pattern for row, pattern in MESSAGES if row is kind), re.IGNORECASE)
    for kind in dict.fromkeys(kind for kind, _ in MESSAGES)
}


def kinds_in_words(names: frozenset[str], message: str) -> Iterator[Kind]:
    """Yield the kinds that an error's words name, the surest first. `names` are its codes and types in lower case."""
    yield from (CODES[name] for name in CODES if name in names)
    for kind, pattern in PATTERNS.items():
        if pattern.search(message, 0, LOOKED_AT):
            yield kind
