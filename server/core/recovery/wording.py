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
    "quota_per_day": Kind.QUOTA,  # Gemini, by its `QuotaFailure` (core/recovery/bodies.py)
    "arrearage": Kind.QUOTA,  # DashScope (help.aliyun.com/zh/model-studio/error-code)
    "1113": Kind.QUOTA,  # Zhipu: the account is in arrears (docs.bigmodel.cn/cn/faq/api-code)
    "context_length_exceeded": Kind.CONTEXT_LENGTH,
    "exceed_context_size_error": Kind.CONTEXT_LENGTH,  # llama.cpp, tools/server/server-common.cpp
    "model_context_window_exceeded": Kind.CONTEXT_LENGTH,  # Zhipu; Anthropic's stop reason
    "1261": Kind.CONTEXT_LENGTH,  # Zhipu (docs.bigmodel.cn/cn/faq/api-code)
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

# What messages say: a pattern, and who says so.
MESSAGES: dict[Kind, dict[str, str]] = {
    # No credit, or none until tomorrow: to wait some seconds is no use.
    Kind.QUOTA: {
        r"credit balance is too low": "Anthropic, status 400",
        r"insufficient (?:account )?(?:balance|credits?|funds|quota)": "DeepSeek, OpenRouter, Moonshot",
        r"(?:doesn't|does not) have any credits": "xAI, status 403",
        r"exceeded your monthly included credits": "Hugging Face's router, status 402",
        r"\bper[ -]day\b|\((?:TPD|RPD)\)": "Groq, OpenAI; Bedrock",
        r"free-models-per-day|\bdaily (?:limit|quota)": "OpenRouter",
    },
    # The content is refused. Another target must not be asked to take it.
    Kind.CONTENT_POLICY: {
        r"\b(?:input|prompt|content|messages?|request)\b(?:(?!account)[^.]){0,60}\bflagged\b": "OpenRouter; OpenAI",
        r"flagged by (?:the |our )?(?:moderation|content|safety)|requires moderation": "OpenRouter",
        r"content management policy|content[ _-]filter(?:ing)? policy": "Azure",
        r"rejected as a result of (?:our|the) safety system": "OpenAI",
        r"content violates usage guidelines|SAFETY_CHECK_TYPE": "xAI, status 403",
        r"content exists risk": "DeepSeek, status 400",
        r"blocked by (?:the |our )?content filter|output blocked by content": "Anthropic, Bedrock",
    },
    # The place is refused.
    Kind.REFUSED: {r"(?:country|region|territory|location)[^.]{0,30}not supported": "OpenAI, Gemini"},
    # The prompt is too long. Another target may have room for it.
    Kind.CONTEXT_LENGTH: {
        r"maximum context length": "OpenAI, DeepSeek, OpenRouter, Mistral; vLLM, vllm/renderers/params.py; "
        "SGLang, srt/managers/tokenizer_manager.py",
        r"exceeds? the context window": "OpenAI's Responses API",
        r"context[ _]window[ _]exceed": "MiniMax",
        r"longer than the maximum model length": "vLLM, the engine's input processor",
        r"context length (?:is|of) only \d+ tokens": "vLLM, older releases; LM Studio",
        r"should not exceed max_num_tokens": "TensorRT-LLM, its executor's check of a request",
        r"exceeds? max(?:imum)? message tokens": "Volcengine (Doubao)",
        r"(?:prompt|input) length \(?\d+\)? exceeds maximum input length": "DeepInfra, also through OpenRouter",
        r"longer than the (?:model'?s )?context length": "SGLang, as above; Together; Ollama",
        r"`?inputs`? tokens \+ `?max_new_tokens`? must be": "TGI, router/src/validation.rs; Together",
        r"`inputs` must have less than \d+ tokens": "TGI, router/src/validation.rs",
        r"exceeds? the available context size": "llama.cpp, tools/server",
        r"context size has been exceeded|input is too large to process": "llama.cpp, tools/server",
        r"exceeds? context window of": "llama-cpp-python, llama_cpp/llama.py",
        r"greater than the context length": "LM Studio",
        r"(?:prompt|input) too long; exceeded (?:max )?context length": "Ollama",
        r"input length exceeds the context length": "Ollama",
        r"input token count[^.]{0,40}exceeds the maximum": "Gemini",
        r"prompt is too long": "Anthropic; Fireworks",
        r"exceed context limit": "Anthropic: input and `max_tokens` together",
        r"input is too long for requested model": "Bedrock: Claude",
        r"too many input tokens|expected maxLength: \d+, actual": "Bedrock: Titan, Jurassic",
        r"too many tokens: total number of tokens": "Cohere, docs.cohere.com/reference/errors",
        r"maximum prompt length is \d+": "xAI",
        r"reduce the length of (?:the|your) (?:messages|input|prompt)": "Groq, OpenAI, Fireworks",
        r"current length is \d+ while limit is": "Cerebras; LiteLLM, exception_mapping_utils.py",
        r"input tokens exceed the configured limit": "OpenAI; LiteLLM, exception_mapping_utils.py",
        r"exceeded model token limit": "Moonshot",
        r"range of input length should be": "DashScope, help.aliyun.com/zh/model-studio/error-code",
        r"prompt exceeds max(?:imum)? length": "Zhipu, code 1261",
        r"prompt tokens? too long": "Qianfan, code 336103",
        r"prompt token count of \d+ exceeds": "GitHub Copilot; pi-mono, packages/ai/src/utils/overflow.ts",
        r"exceeds? (?:the )?maximum allowed input length": "Poolside; pi-mono, packages/ai/src/utils/overflow.ts",
    },
}
# What speaks of lengths, but says that the answer may not be so long, or that an image is too large: the
# request is wrong then. vLLM words the limit of its image encoder like that of its decoder.
NO_CONTEXT = re.compile(
    r"encoder prompt|supports at most \d+ completion tokens"
    r"|maximum (?:allowed number of output tokens|output for this model)",
    re.IGNORECASE,
)
PATTERNS = {kind: re.compile("|".join(patterns), re.IGNORECASE) for kind, patterns in MESSAGES.items()}


def kinds_in_words(names: frozenset[str], message: str) -> Iterator[Kind]:
    """Yield the kinds that an error's words name, the surest first. `names` are its codes and types in lower case."""
    yield from (CODES[name] for name in CODES if name in names)
    for kind, pattern in PATTERNS.items():
        if pattern.search(message, 0, LOOKED_AT) and not (
            kind is Kind.CONTEXT_LENGTH and NO_CONTEXT.search(message, 0, LOOKED_AT)
        ):
            yield kind
