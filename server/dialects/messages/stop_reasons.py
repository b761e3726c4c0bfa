"""Why an answer stopped, in the words of both APIs.

Sources: https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons;
`server/core/openai/finish_reasons.py` for the words of upstreams.
"""

from collections.abc import Iterable

from server.core.openai.finish_reasons import is_cut_short

END, TOOLS, SEQUENCE, LENGTH, REFUSAL = "end_turn", "tool_use", "stop_sequence", "max_tokens", "refusal"
CONTEXT, PAUSE = "model_context_window_exceeded", "pause_turn"
# Finish reasons that cut an answer short. Any other one of that kind is a filter's.
CUT_SHORT = {
    "length": LENGTH,
    "max_tokens": LENGTH,
    "max_output_tokens": LENGTH,
    "repetition": LENGTH,
    "repetition_truncation": LENGTH,
    "model_length": CONTEXT,
    "model_context_window_exceeded": CONTEXT,
    "error_limit": CONTEXT,
    "pause_turn": PAUSE,
}
# What a chat client is told of a stop reason. OpenAI has no word for the last two: they stay, and count as cut short.
FINISH_REASONS = {
    END: "stop",
    SEQUENCE: "stop",
    TOOLS: "tool_calls",
    LENGTH: "length",
    REFUSAL: "content_filter",
    CONTEXT: "model_context_window_exceeded",
    PAUSE: "pause_turn",
}


def stop_reason(reasons: Iterable[str], *, calls: bool, refused: bool, sequence: str | None) -> str:
    """Return the stop reason of an answer: what happened counts for more than the upstream's word for it.

    `calls`: it has calls of tools. `refused`: the model said so in a field of its own. `sequence`: the text that
    stopped it, if the upstream named it.
    """
    for reason in reasons:
        if is_cut_short(reason):
            word = reason.lower().replace("-", "_").removeprefix("finish_reason_")
            return CUT_SHORT.get(word, REFUSAL)
    if calls:
        return TOOLS
    if refused:
        return REFUSAL
    return END if sequence is None else SEQUENCE


def finish_reason(reason: object) -> str:
    """Return the finish reason for a stop reason. A word that is not known here stays."""
    return FINISH_REASONS.get(reason, reason) if isinstance(reason, str) and reason else "stop"
