"""What the words of an upstream's error mean: each row is the text of a public server, SDK or document."""

# ruff: noqa: E501 — the words of upstreams are quoted as they are

import time

import pytest

from server.core.errors import Kind
from server.core.recovery.classify import from_status, in_band

NOW = 1_800_000_000.0

TOO_LONG = [
    # vLLM: the renderer, the engine, and two older wordings
    ("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, 1000 in "
    "the completion). Please reduce the length of the messages or completion."),
    ("The decoder prompt (length 5951) is longer than the maximum model length of 4096. Make sure that `max_model_len` is no "
    "smaller than the number of text tokens."),
    ("'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 32768 tokens and your "
    "request has 29000 input tokens (4096 > 32768 - 29000)."),
    "You passed 5121 input tokens and requested 1 output tokens. However, the model's context length is only 4096 tokens",
    # TensorRT-LLM, LM Studio, Volcengine, DeepInfra
    "The sum of prompt length (5000.0), query length (0) should not exceed max_num_tokens (4096)",
    ("Trying to keep the first 4096 tokens when context the overflows. However, the model is loaded with context length of "
    "only 2048 tokens"),
    "Total tokens of image and text exceed max message tokens",
    "Requested input length 39818 exceeds maximum input length 32767",
    "Prompt length (5000) exceeds maximum input length (4096)",
    # SGLang
    "The input (10009 tokens) is longer than the model's context length (8192 tokens).",
    "Requested token count exceeds the model's maximum context length of 64000 tokens. You requested a total of 71897 tokens",
    # TGI
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 512 "
    "`max_new_tokens`"),
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 2048",
    # llama.cpp and its Python binding
    "the request exceeds the available context size, try increasing it",
    "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "Context size has been exceeded.",
    "Requested tokens (2048) exceed context window of 512",
    # Ollama, LM Studio
    "prompt too long; exceeded max context length by 1200 tokens",
    "the input length exceeds the context length",
    "the prompt is longer than the context length currently available to the model",
    "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 10978 >= n_ctx: 8192)",
    # Gemini, in both wordings
    "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
    "The input token count exceeds the maximum number of tokens allowed (1048576).",
    # Anthropic, Bedrock
    "prompt is too long: 213462 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or `max_tokens`",
    "Input is too long for requested model.",
    "400 Bad Request: Too many input tokens. Max input tokens: 8192, request input token count: 9279",
    "Malformed input request: expected maxLength: 50000, actual: 52611, please reformat your input and try again.",
    # OpenAI, Azure
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
    # Mistral, Cohere
    "Prompt contains 300000 tokens and 0 draft tokens, too large for model with 131072 maximum context length",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292. Try using a shorter prompt",
    # DeepSeek, Moonshot, Zhipu, MiniMax, DashScope, Qianfan
    "This model's maximum context length is 131072 tokens. However, you requested 200000 tokens",
    "Invalid request: Your request exceeded model token limit: 262144 (requested: 291351)",
    "Prompt exceeds max length",
    "invalid params, context window exceeds limit",
    "InternalError.Algo.InvalidParameter: Range of input length should be [1, 202745]",
    "error_code: 336103, error_msg: Prompt tokens too long",
    # Groq, xAI, Cerebras, Fireworks, OpenRouter, Poolside, Copilot
    "Please reduce the length of the messages or completion.",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
    "The prompt is too long: 140000, model maximum context length: 131071",
    "This endpoint's maximum context length is 131072 tokens. However, you requested about 200000 tokens",
    "Input exceeds the maximum allowed input length of 131,072 tokens",
    "prompt token count of 50000 exceeds the limit of 32000",
]  # fmt: skip


@pytest.mark.parametrize("words", TOO_LONG)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_too_long_a_prompt(words: str, status: int) -> None:
    """In all wordings, and under each status in use, a prompt that is too long is known: another target may take it."""
    for body in ({"error": {"message": words}}, {"message": words}, words):
        assert from_status(status, body, None, NOW).kind is Kind.CONTEXT_LENGTH
    assert in_band({"error": {"message": words}}).kind is Kind.CONTEXT_LENGTH


# What speaks of tokens and lengths, and means something else: status, words, kind.
SOMETHING_ELSE = [
    (429, "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.", Kind.RATE_LIMIT),
    (429, ("Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 40000. The "
     "input or output tokens must be reduced in order to run successfully."), Kind.RATE_LIMIT),
    (429, "Too many tokens, please wait before trying again.", Kind.RATE_LIMIT),  # Bedrock, ThrottlingException
    (429, "This request would exceed your organization's rate limit of 40,000 input tokens per minute.", Kind.RATE_LIMIT),
    (429, "Too many tokens per day, please wait before trying again.", Kind.QUOTA),  # Bedrock
    (413, "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 7000", Kind.TOO_LARGE),
    (413, "Request exceeds the maximum size", Kind.TOO_LARGE),
    (400, ("max_tokens is too large: 500000. This model supports at most 16384 completion tokens, whereas you provided "
     "500000."), Kind.BAD_REQUEST),
    (400, "max_tokens: 200000 > 8192, which is the maximum allowed number of output tokens for claude-3", Kind.BAD_REQUEST),
    (400, "max_tokens must be at least 1, got -5.", Kind.BAD_REQUEST),
    (400, ("too many tokens: max tokens must be less than or equal to 4096, the maximum output for this model - received "
     "8192."), Kind.BAD_REQUEST),
    (400, "Range of max_tokens should be [1, 8192]", Kind.BAD_REQUEST),  # DashScope
    (400, "The encoder prompt (length 9000) is longer than the maximum model length of 4096.", Kind.BAD_REQUEST),  # vLLM
    (400, "`max_new_tokens` must be <= 512. Given: 600", Kind.BAD_REQUEST),
    (400, ("Invalid 'user': string too long. Expected a string with maximum length 64, but got a string with length 80 "
     "instead."), Kind.BAD_REQUEST),
    (400, "Invalid 'tools': array too long. Expected an array with maximum length 128, but got 130.", Kind.BAD_REQUEST),
    (400, "Unsupported parameter: 'context_length' is not supported with this model.", Kind.BAD_REQUEST),
    (400, "Invalid schema for function 'lookup': 'maxLength' is not permitted.", Kind.BAD_REQUEST),
    (404, "The model `m-long-context` does not exist.", Kind.REFUSED),
    (503, "Too many requests in the queue; the prompt was not looked at.", Kind.OVERLOADED),
]  # fmt: skip


@pytest.mark.parametrize(("status", "words", "kind"), SOMETHING_ELSE)
def test_something_else(status: int, words: str, kind: Kind) -> None:
    """A limit of the rate, of the answer, of an image or of a name is no prompt that is too long."""
    assert from_status(status, {"error": {"message": words}}, None, NOW).kind is kind


def test_a_long_string_is_a_prompt_only_in_the_messages() -> None:
    """OpenAI has one code for every string that is too long: the parameter says which one it was."""
    for param, kind in (
        ("messages.[0].content", Kind.CONTEXT_LENGTH),
        ("input", Kind.CONTEXT_LENGTH),
        ("user", Kind.BAD_REQUEST),
        ("tools[0].function.description", Kind.BAD_REQUEST),
        (None, Kind.BAD_REQUEST),
    ):
        error = {"message": "string too long", "code": "string_above_max_length", "param": param}
        assert from_status(400, {"error": error}, None, NOW).kind is kind


def test_a_long_message_costs_little() -> None:
    """An upstream cannot stop the gateway with a message that is hard to search."""
    for part in (
        "input token count ",
        "input flag ",
        "insufficient ",
        "country ",
        "exceeds the ",
        "`inputs` tokens + ",
    ):
        began = time.process_time()
        for _ in range(10):
            from_status(400, {"error": {"message": part * 200_000}}, None, NOW)
        assert time.process_time() - began < 1.0, part
