"""The `Response` object, as `GET /v1/responses/{id}` and the events that begin and end a stream show it.

Sources: https://platform.openai.com/docs/api-reference/responses/object, and the schema of Open Responses, which wants
every field here, most of them not null.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from server.core.generation import Generation
from server.core.lifecycle import State
from server.core.records import STREAM_PREFIX, Beginning, Ending
from server.dialects.responses import events

PREFIX = "resp_"
STATUSES = {
    State.COMPLETE: "completed",
    State.INCOMPLETE: "incomplete",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
# Finish reasons that mean a limit. Any other one that cuts an answer short is a filter's
# (server/core/openai/finish_reasons.py has all of them).
LIMITS = frozenset({
    "length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "error_limit",
    "repetition", "repetition_truncation", "pause_turn",
})  # fmt: skip
# What `error.code` may be: the API reference's words, and those that Codex acts on. The event `error` has our own.
CODES = frozenset({
    "server_error", "rate_limit_exceeded", "invalid_prompt",
    "context_length_exceeded", "insufficient_quota", "usage_not_included", "server_is_overloaded", "slow_down",
})  # fmt: skip
# Our codes, where they mean one of these.
CODES_OF_KINDS = {
    "upstream_rate_limit": "rate_limit_exceeded",
    "upstream_quota": "insufficient_quota",
    "content_policy_violation": "invalid_prompt",
    "upstream_bad_request": "invalid_prompt",
}
# Fields of the request that the resource repeats, with what they are if the request has none.
ECHOED: dict[str, Any] = {
    "previous_response_id": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "truncation": "disabled",
    "tool_choice": "auto",
    "service_tier": "default",
    "store": True,
    "background": False,
    "user": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
}
# Fields of the resource that the gateway decides about, also where the upstream speaks Responses: what outlives an
# attempt, and what the upstream was not told or was told otherwise.
OURS = frozenset({
    "id", "object", "created_at", "completed_at", "status", "error", "incomplete_details", "model", "output", "usage",
    "previous_response_id", "instructions", "metadata", "store", "background",
})  # fmt: skip


def response_id(stream_id: str) -> str:
    """Return the id of the response that a stream is: the prefix `resp_` and the random part of the stream's id."""
    return PREFIX + stream_id.removeprefix(STREAM_PREFIX)


def response(
    beginning: Beginning,
    source: Mapping[str, Any],
    output: Sequence[dict[str, Any]] = (),
    *,
    status: str = "in_progress",
    ending: Ending | None = None,
) -> dict[str, Any]:
    """Return the resource of a response.

    `source` is the client's request, `output` its items so far. `ending` is set if the stream has ended: it decides
    about `status`, `usage`, `error` and `incomplete_details`.
    """
    if ending is not None:
        status = STATUSES[ending.state]
    return {
        "id": response_id(beginning.id),
        "object": "response",
        "created_at": int(beginning.created),
        "status": status,
        "completed_at": int(ending.at) if ending is not None and status == "completed" else None,
        "error": _error(ending) if ending is not None and status == "failed" else None,
        "incomplete_details": {"reason": _reason(ending)} if ending is not None and status == "incomplete" else None,
        "model": beginning.model,
        "output": list(output),
        "usage": None if ending is None or ending.usage is None else usage(ending.usage),
        **{name: default if (value := source.get(name)) is None else value for name, default in ECHOED.items()},
        "reasoning": {"effort": None, "summary": None, **(source.get("reasoning") or {})},
        "text": {"verbosity": "medium", **_without_null(source.get("text")), "format": _format(source.get("text"))},
        "tools": [_tool(tool) for tool in source.get("tools") or ()],
    }


def settled(resource: object) -> dict[str, Any]:
    """Return what an upstream's response says beside `OURS`: what it has settled on, such as its service tier."""
    fields = resource.items() if isinstance(resource, dict) else ()
    return {name: value for name, value in fields if name not in OURS and value is not None}


def request_of(generation: Generation) -> Mapping[str, Any]:
    """Return the client's request. Of a request in another dialect: what the resource can repeat of it."""
    if generation.source is not None and generation.dialect == events.API:
        return generation.source
    chat = generation.body
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "parallel_tool_calls", "user")
    request = {name: chat[name] for name in names if name in chat}
    request["max_output_tokens"] = chat.get("max_completion_tokens") or chat.get("max_tokens")
    tools = chat.get("tools")
    request["tools"] = [
        {"type": "function", **tool["function"]}
        for tool in (tools if isinstance(tools, list) else ())
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict) and tool["function"].get("name")
    ]
    return request


def usage(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `usage` of a chat completion as Responses has it: five counts, all of them always there."""
    prompt = counts.get("prompt_tokens_details") or {}
    completion = counts.get("completion_tokens_details") or {}
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": prompt.get("cached_tokens", 0),
            "cache_write_tokens": prompt.get("cache_write_tokens", 0),
        },
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": completion.get("reasoning_tokens", 0)},
        "total_tokens": counts["total_tokens"],
    }


def _error(ending: Ending) -> dict[str, Any]:
    error = (ending.error or {}).get("error") or {}
    code = str(error.get("code") or "")
    if code not in CODES:
        code = CODES_OF_KINDS.get(ending.reason, "server_error")
    return {"code": code, "message": str(error.get("message") or "The response failed.")}


def _reason(ending: Ending) -> str:
    reasons = {reason.lower().replace("-", "_").removeprefix("finish_reason_") for reason in ending.reason.split(",")}
    return "max_output_tokens" if reasons <= LIMITS else "content_filter"


def _format(text: Any) -> dict[str, Any]:
    form = (text or {}).get("format") or {"type": "text"}
    if form.get("type") != "json_schema":
        return dict(form)
    return {"description": None, "strict": None, **form}


def _without_null(text: Any) -> dict[str, Any]:
    return {name: value for name, value in (text or {}).items() if value is not None}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}
