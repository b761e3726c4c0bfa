"""From a Messages request to a chat completion request.

Source: https://platform.claude.com/docs/en/api/messages. Fields and betas that are not known here are passed over.
"""

import hashlib
from typing import Any

from server.core.openai.request import MODEL
from server.dialects.messages.conversation import chat_messages
from server.dialects.messages.fields import Object, Unsaid, invalid, items, mapping, refuse, text
from server.dialects.messages.tool_names import short_name

MAX_USER = 64  # characters of OpenAI's `user`; Claude Code's ids are longer
# Thinking budgets in tokens, and the effort that stands for that much.
EFFORTS = ((4_000, "low"), (16_000, "medium"))
MOST = "high"
WORDS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
SAMPLING = {"temperature": 1, "top_p": 1, "top_k": None}  # with the most that each may be; none may be negative
SERVER_SIDE = {"mcp_servers": "MCP servers", "container": "A container"}  # what Anthropic itself would run


def chat_body(source: Object, unsaid: Unsaid = refuse, *, counting: bool = False) -> dict[str, Any]:
    """Return the body of a chat completion request. `counting`: it is to be counted only, so `max_tokens` may lack.

    Raises:
        Rejected: 400, with the place of what is wrong, or, by `unsaid`, of what cannot be said.

    """
    model = text(source.get("model"), "model")
    if not MODEL.fullmatch(model):
        raise invalid("model", "Input should have 1 to 256 characters, none of them a control character")
    body: dict[str, Any] = {"model": model, "messages": chat_messages(source, unsaid)}
    if source.get("max_tokens") is not None or not counting:
        body["max_tokens"] = _max_tokens(source.get("max_tokens"))
    if source.get("stream") is not None:
        body["stream"] = _boolean(source["stream"], "stream")
    body |= {name: _number(source[name], name, most) for name, most in SAMPLING.items() if source.get(name) is not None}
    if stops := source.get("stop_sequences"):
        body["stop"] = [text(stop, place) for place, stop in items(stops, "stop_sequences")]
    for name, what in SERVER_SIDE.items():
        if source.get(name):
            unsaid(name, what)
    return body | _tools(source, unsaid) | _reasoning(source) | _format(source) | _user(source)


def _tools(source: Object, unsaid: Unsaid) -> dict[str, Any]:
    if source.get("tools") is None:
        return {}
    tools = []
    for place, item in items(source["tools"], "tools"):
        tool = mapping(item, place)
        kind = tool.get("type")
        if kind not in (None, "custom"):
            unsaid(f"{place}.type", f"A tool of the type {text(kind, f'{place}.type')!r}")
            continue
        function: dict[str, Any] = {"name": short_name(text(tool.get("name"), f"{place}.name"))}
        if tool.get("description") is not None:
            function["description"] = text(tool["description"], f"{place}.description")
        function["parameters"] = mapping(tool.get("input_schema"), f"{place}.input_schema")
        if tool.get("strict"):
            function["strict"] = True
        tools.append({"type": "function", "function": function})
    return {"tools": tools, **_tool_choice(source)} if tools else {}


def _tool_choice(source: Object) -> dict[str, Any]:
    if source.get("tool_choice") is None:
        return {}
    choice = mapping(source["tool_choice"], "tool_choice")
    kind = text(choice.get("type"), "tool_choice.type")
    chosen: Any = CHOICES.get(kind)
    if kind == "tool":
        name = short_name(text(choice.get("name"), "tool_choice.name"))
        chosen = {"type": "function", "function": {"name": name}}
    if chosen is None:
        raise invalid("tool_choice.type", "Input should be 'auto', 'any', 'tool' or 'none'")
    fields = {"tool_choice": chosen}
    if choice.get("disable_parallel_tool_use"):
        fields["parallel_tool_calls"] = False
    return fields


def _reasoning(source: Object) -> dict[str, Any]:
    """Return how much the model is to think: as the client's words say, or by its budget of tokens."""
    thinking = mapping(source.get("thinking") or {}, "thinking")
    config = mapping(source.get("output_config") or {}, "output_config")
    if thinking.get("type") == "disabled":
        return {}
    if config.get("effort") is not None:
        effort = WORDS.get(text(config["effort"], "output_config.effort"))
        return {"reasoning_effort": effort} if effort else {}
    budget = thinking.get("budget_tokens")
    if thinking.get("type") != "enabled" or budget is None:
        return {}
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise invalid("thinking.budget_tokens", "Input should be a valid integer")
    return {"reasoning_effort": next((effort for limit, effort in EFFORTS if budget < limit), MOST)}


def _format(source: Object) -> dict[str, Any]:
    """Return the form of a structured answer. Its older place is `output_format`."""
    config = mapping(source.get("output_config") or {}, "output_config")
    form = mapping(config.get("format") or source.get("output_format") or {}, "output_config.format")
    if form.get("type") != "json_schema":
        return {}
    schema = mapping(form.get("schema"), "output_config.format.schema")
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    }


def _user(source: Object) -> dict[str, Any]:
    user = mapping(source.get("metadata") or {}, "metadata").get("user_id")
    if user is None:
        return {}
    name = text(user, "metadata.user_id")
    if len(name) > MAX_USER:
        name = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return {"user": name}


def _max_tokens(value: object) -> int:
    if value is None:
        raise invalid("max_tokens", "Field required")
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid("max_tokens", "Input should be a valid integer")
    if value < 1:
        raise invalid("max_tokens", "Input should be greater than or equal to 1")
    return value


def _boolean(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(place, "Input should be a valid boolean")
    return value


def _number(value: object, place: str, most: int | None) -> int | float:
    """Return a number from 0 to `most`; without such a bound an integer. NaN is in no range."""
    kinds = int if most is None else int | float
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise invalid(place, "Input should be a valid integer" if most is None else "Input should be a valid number")
    if not value >= 0:
        raise invalid(place, "Input should be greater than or equal to 0")
    if most is not None and value > most:
        raise invalid(place, f"Input should be less than or equal to {most}")
    return value
