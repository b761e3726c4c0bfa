"""What upstreams say in `finish_reason`: whole, cut short, or failed. A word that is in no table means whole.

Upstreams with an API of their own pass its words on in their form of OpenAI's API, in upper or lower case, and with
hyphens (Vercel) or Google's prefix.
"""

from typing import Any

from server.core.errors import Kind, UpstreamError
from server.core.openai.frames import says_something
from server.core.recovery.classify import in_band

# A limit or a filter has cut the answer short. Another attempt would be cut as well.
CUT_SHORT = {
    "length": "OpenAI (platform.openai.com/docs/api-reference/chat/object)",
    "content_filter": "OpenAI",
    "max_tokens": "Anthropic, Bedrock; Gemini, Cohere in upper case",
    "max_output_tokens": "OpenAI's Responses API (`incomplete_details`), Databricks",
    "model_length": "Mistral (docs.mistral.ai/api): the context is full",
    "model_context_window_exceeded": "Anthropic, Bedrock, Zhipu GLM",
    "error_limit": "Cohere's v1 API: the context is full",
    "repetition": "vLLM (vllm/v1/engine/__init__.py): the model repeats itself",
    "repetition_truncation": "Xiaomi MiMo: the same",
    "pause_turn": "Anthropic: the answer wants to be continued",
    "refusal": "Anthropic: a filter",
    "sensitive": "Zhipu GLM",
    "content_filtered": "Bedrock",
    "guardrail_intervened": "Bedrock",
    "error_toxic": "Cohere's v1 API",
    "safety": "Gemini (ai.google.dev/api/generate-content#FinishReason)",
    "recitation": "Gemini",
    "language": "Gemini",
    "blocklist": "Gemini",
    "prohibited_content": "Gemini",
    "spii": "Gemini",
    "image_safety": "Gemini",
    "image_prohibited_content": "Gemini",
    "image_recitation": "Gemini",
    "model_armor": "Vertex AI",
}
# The upstream, or the machine behind it, failed.
BROKEN = {
    "error": "OpenRouter (openrouter.ai/docs/api/reference/errors-and-debugging), Mistral, vLLM; Cohere in upper case",
    "abort": "vLLM (vllm/v1/engine/__init__.py), SGLang: the engine dropped the request",
    "aborted": "the same",
    "network_error": "Zhipu GLM (docs.z.ai/api-reference/llm/chat-completion)",
    "insufficient_system_resource": "DeepSeek (api-docs.deepseek.com/api/create-chat-completion)",
    "timeout": "Cohere, TensorRT-LLM",
    "cancelled": "TensorRT-LLM; nobody here has cancelled the request",
    "canceled": "the same",
    "user_cancel": "Cohere's v1 API: the same",
}
# The model has made something that its server could not read. Another attempt may do better, and no circuit opens.
MALFORMED = {
    "malformed_function_call": "Gemini",
    "malformed_tool_call": "Gemini's Interactions API",
    "malformed_response": "Gemini",
    "unexpected_tool_call": "Gemini: of a tool that was not offered",
    "too_many_tool_calls": "Gemini",
    "missing_thought_signature": "Gemini",
    "no_image": "Gemini: it was to make one",
    "image_other": "Gemini",
    "other": "Gemini: it stopped, and does not say why",
    "malformed_model_output": "Bedrock",
    "malformed_tool_use": "Bedrock",
}


def is_cut_short(reason: str) -> bool:
    """Whether a limit or a filter has cut the answer short."""
    return _name(reason) in CUT_SHORT


def check_failures(choices: object) -> None:
    """Raise UpstreamError if the finish reason of a choice means that the upstream has failed."""
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") and (failure := failure_of(choice)):
            raise failure


def failure_of(choice: dict[str, Any]) -> UpstreamError | None:
    """Return the failure that the finish reason of a choice means, with the words beside it; None if it means none."""
    reason = choice.get("finish_reason")
    if not reason or not isinstance(reason, str):
        return None
    name = _name(reason)
    if name not in BROKEN and name not in MALFORMED:
        return None
    if says_something(choice.get("error")):  # OpenRouter
        return in_band({"error": choice["error"]})
    kind = Kind.UNUSABLE if name in MALFORMED else Kind.IN_BAND
    return UpstreamError(kind, f'The upstream broke the answer off: its finish reason is "{name}".')


def _name(reason: str) -> str:
    """Return a finish reason as the tables write it."""
    return reason.lower().replace("-", "_").removeprefix("finish_reason_")
