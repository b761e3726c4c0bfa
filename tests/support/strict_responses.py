"""Responses' events and resources, checked strictly by the types of OpenAI's SDK: nothing missing, nothing unknown.

The SDK itself checks nothing: it takes whatever the server sends.
"""

import inspect
import types
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import orjson
from openai import BaseModel
from openai.types.responses import Response, ResponseStreamEvent
from pydantic.fields import FieldInfo
from wire import Event

# Fields that the SDK's types lack. Open Responses wants the first two; OpenAI's servers nest the error.
EXTRA = {
    "Response": {"presence_penalty", "frequency_penalty", "store"},
    "ResponseErrorEvent": {"error"},
}
# Words that Codex acts on, and that OpenAI's servers send, but the SDK's type does not have.
CODES = {"context_length_exceeded", "insufficient_quota"}


class NotValidError(AssertionError):
    """A value that a type does not allow."""


def check(value: Any, hint: Any, path: str = "$") -> None:
    """Raise NotValidError unless a value has a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        check(value, arguments[0], path)
    elif origin in (Union, types.UnionType):
        _check_union(value, arguments, path)
    elif origin is Literal:
        _demand(value in arguments or (path.endswith("error.code") and value in CODES), value, hint, path)
    elif origin in (list, dict):
        _demand(isinstance(value, origin), value, hint, path)
        for key, item in enumerate(value) if origin is list else value.items():
            check(item, arguments[-1], f"{path}[{key!r}]")
    elif inspect.isclass(hint) and issubclass(hint, BaseModel):
        _check_model(value, hint, path)
    elif hint is not object:
        allowed = (int, float) if hint is float else (type(None) if hint is None else hint,)
        _demand(type(value) in allowed, value, hint, path)


def _demand(condition: bool, value: Any, hint: Any, path: str) -> None:
    if not condition:
        raise NotValidError(f"{path}: {value!r} is not {hint}")


def _check_union(value: Any, hints: Sequence[Any], path: str) -> None:
    problems = []
    kind = value.get("type") if isinstance(value, dict) else None
    possible = [hint for hint in hints if not _excludes(hint, kind)] if isinstance(kind, str) else hints
    for hint in possible or hints:
        try:
            check(value, hint, path)
        except NotValidError as error:
            problems.append(str(error))
        else:
            return
    raise NotValidError(max(problems, key=len))


@cache
def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Give the fields of a model by their names in JSON."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


@cache
def _excludes(hint: Any, kind: str) -> bool:
    """Whether a hint is a model that does not allow this `type`. A union of 50 events is checked for one of them."""
    model = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        return False
    field = _fields(model).get("type")
    return field is not None and get_origin(field.annotation) is Literal and kind not in get_args(field.annotation)


def _check_model(value: Any, model: type[BaseModel], path: str) -> None:
    _demand(isinstance(value, dict), value, model, path)
    fields = _fields(model)
    unknown = value.keys() - fields.keys() - EXTRA.get(model.__name__, set())
    _demand(not unknown, f"the unknown {sorted(unknown)}", model, path)
    for name, field in fields.items():
        if name in value:
            check(value[name], field.annotation, f"{path}.{name}")
        else:
            _demand(not field.is_required(), f"no {name!r}", model, path)


# What the schema of Open Responses wants of a resource: all of these fields, most of them not null.
OPEN_RESPONSES = frozenset({
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
    "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
    "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage", "max_output_tokens",
    "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
})  # fmt: skip
MAY_BE_NULL = frozenset({
    "completed_at", "incomplete_details", "previous_response_id", "instructions", "error", "reasoning", "usage",
    "max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key",
})  # fmt: skip


def resource(value: Any) -> dict[str, Any]:
    """Return a resource after a strict check."""
    check(value, Response)
    return _open(value)


def _open(value: dict[str, Any]) -> dict[str, Any]:
    """Return a resource after a check of what Open Responses wants of it."""
    missing = OPEN_RESPONSES - value.keys() | {name for name in OPEN_RESPONSES - MAY_BE_NULL if value.get(name) is None}
    assert not missing, f"Open Responses wants {sorted(missing)}"
    for tool in value["tools"]:
        if tool["type"] == "function":
            assert tool.keys() >= {"name", "description", "parameters", "strict"}
    return value


def events(found: list[Event]) -> list[dict[str, Any]]:
    """Return the events of a whole response after a strict check of each, and of what they say together."""
    assert found[-1].data == b"[DONE]", found[-1]
    datas = [orjson.loads(event.data) for event in found[:-1]]
    assert [event.id for event in found] == list(range(1, len(found) + 1))
    assert [event.event for event in found[:-1]] == [data["type"] for data in datas]
    return sequence(datas)


def sequence(datas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check the events of a whole response, and what they say together; return them."""
    assert [data["sequence_number"] for data in datas] == list(range(len(datas)))
    for data in datas:
        check(data, ResponseStreamEvent, data["type"])
        if "response" in data:
            _open(data["response"])
    assert datas[0]["type"] == "response.created"
    assert len({data["response"]["id"] for data in datas if "response" in data}) == 1
    _check_items(datas)
    return datas


def _check_items(datas: list[dict[str, Any]]) -> None:
    """Check that items keep their identity, that texts are what their deltas say, and that nothing is left out."""
    items: dict[int, dict[str, Any]] = {}
    texts: dict[tuple[str, str, int], str] = {}
    for data in datas:
        kind, _, step = data["type"].rpartition(".")
        if data["type"] == "response.output_item.added":
            assert data["output_index"] == len(items)
            items[data["output_index"]] = data["item"]
        elif "output_index" in data:
            item = items[data["output_index"]]
            assert item["id"] == (data["item"]["id"] if "item" in data else data["item_id"])
        if step == "delta":
            key = (kind, data["item_id"], data.get("content_index", data.get("summary_index", 0)))
            texts[key] = texts.get(key, "") + data["delta"]
        elif step == "done" and kind in {name for name, _, _ in texts}:
            name = next(name for name in ("text", "refusal", "arguments", "input") if name in data)
            key = (kind, data["item_id"], data.get("content_index", data.get("summary_index", 0)))
            assert data[name].encode("utf-16", "surrogatepass") == texts.get(key, "").encode("utf-16", "surrogatepass")
    final = datas[-1]["response"]["output"]
    identities = [(item["type"], item["id"], item.get("call_id"), item.get("name")) for item in final]
    assert identities == [(item["type"], item["id"], item.get("call_id"), item.get("name")) for item in items.values()]
