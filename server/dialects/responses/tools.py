"""The tools of a Responses request as the functions of a chat completion, and the names to translate calls back.

Source: https://platform.openai.com/docs/api-reference/responses/create (`tools`, `tool_choice`). Chat completions have
functions only. A `custom` tool becomes a function of one string, `input`. The tools of a `namespace` get its name in
front of theirs. A hosted tool is run by OpenAI's servers, so a chat upstream does not have it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from server.core.errors import Rejected
from server.core.openai.request import invalid

MAX_NAME = 64  # characters of a function's name (API reference)
MAX_TOOLS = 2048  # of one request, those within namespaces included
DIGEST = 8  # characters that tell apart two names that were cut
INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input of the tool, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}


class Tool(NamedTuple):
    """A tool as the client knows it."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None


def refused(param: str, what: str) -> Rejected:
    """Return the rejection of something that no chat completion can say."""
    text = f"Unsupported '{param}': {what} cannot be translated for an upstream that speaks chat completions."
    return Rejected(400, text, "unsupported_value", param)


def chat_name(name: str, namespace: str | None) -> str:
    """Return the name of a tool's function."""
    if not namespace:
        return name
    whole = f"{namespace}__{name}"
    if len(whole) <= MAX_NAME:
        return whole
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]
    return f"{whole[: MAX_NAME - DIGEST - 1]}_{digest}"


class Tools:
    """The tools of one request. `refusal` is the first one that a chat upstream cannot have.

    Raises:
        Rejected: 400, a tool is malformed.

    """

    def __init__(self, listed: object, name: str = "tools") -> None:
        self.functions: list[dict[str, Any]] = []  # as a chat completion has them
        self.by_name: dict[str, Tool] = {}  # by the name of the function
        self._names: dict[tuple[str, str | None], str] = {}  # of functions, by the client's name and namespace
        self.refusal: Rejected | None = None
        self.add(listed, name)

    def add(self, listed: object, name: str) -> None:
        """Add the array in the field `name`. Raises Rejected 400."""
        for index, tool in enumerate(_objects(listed, name)):
            path = f"{name}[{index}]"
            if tool.get("type") == "namespace":
                self._add_namespace(tool, path)
            else:
                self._add(tool, path, None)

    def _add_namespace(self, tool: Mapping[str, Any], path: str) -> None:
        namespace = _name(tool, path)
        words = _text(tool, "description", path)
        for index, member in enumerate(_objects(tool.get("tools"), f"{path}.tools")):
            self._add(member, f"{path}.tools[{index}]", namespace, words)

    def _add(self, tool: Mapping[str, Any], path: str, namespace: str | None, words: str = "") -> None:
        kind = tool.get("type")
        if not isinstance(kind, str):
            raise invalid(f"{path}.type", "the type of a tool")
        if kind not in ("function", "custom"):
            self._refuse(tool, kind, path)
            return
        if len(self.functions) == MAX_TOOLS:
            raise invalid(path, f"one of at most {MAX_TOOLS} tools")
        known = Tool("custom" if kind == "custom" else "function", _name(tool, path), namespace)
        function = _custom(tool, path) if kind == "custom" else _function(tool, path)
        name = self._unique(chat_name(known.name, namespace), known)
        if words:
            function["description"] = f"{words}\n\n{function.get('description', '')}".strip()
        self.by_name[name] = known
        self._names.setdefault((known.name, namespace), name)
        self.functions.append({"type": "function", "function": {"name": name, **function}})

    def _refuse(self, tool: Mapping[str, Any], kind: str, path: str) -> None:
        if kind == "web_search" and "external_web_access" in tool:
            return  # Codex offers it in every request, and marks it so. To refuse it would be to refuse Codex
        self.refusal = self.refusal or refused(path, f"a tool of the type {kind!r}")

    def _unique(self, name: str, tool: Tool) -> str:
        """Return a name that no other tool has: `a__b` may be a plain name, and a name in a namespace as well."""
        if self.by_name.get(name, tool) == tool:
            return name
        digest = hashlib.sha256(repr(tool).encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]
        return f"{name[: MAX_NAME - DIGEST - 1]}_{digest}"

    def name_of(self, name: str, namespace: str | None) -> str:
        """Return the name of the function for a call in the history, whose tool may not be offered any more."""
        return self._names.get((name, namespace)) or chat_name(name, namespace)

    def tool(self, function: str) -> Tool:
        """Return the client's tool for the name of a function. The model may also name one that does not exist."""
        return self.by_name.get(function) or Tool("function", function)

    def choice(self, choice: Any) -> tuple[list[dict[str, Any]], Any]:
        """Return the functions to offer, and the `tool_choice` of a chat completion (None: leave it out).

        Raises:
            Rejected: 400, the choice is malformed, or no such tool is there.

        """
        if not self.functions:
            # Upstreams refuse a choice without tools. `auto` and `none` mean nothing then.
            if choice not in (None, "auto", "none") and self.refusal is None:
                raise invalid("tool_choice", "'auto' or 'none' if there are no tools")
            return [], None
        if choice is None or choice in ("auto", "none", "required"):
            return self.functions, choice
        if not isinstance(choice, dict):
            raise invalid("tool_choice", "'none', 'auto', 'required' or an object")
        match choice.get("type"):
            case "function" | "custom":
                return self.functions, {"type": "function", "function": {"name": self._chosen(choice, "tool_choice")}}
            case "allowed_tools":
                return self._allowed(choice)
            case str(kind):
                self.refusal = self.refusal or refused("tool_choice", f"a choice of the type {kind!r}")
                return self.functions, None
        raise invalid("tool_choice.type", "the type of a choice")

    def _allowed(self, choice: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
        mode = choice.get("mode", "auto")
        if mode not in ("auto", "required"):
            raise invalid("tool_choice.mode", "'auto' or 'required'")
        path = "tool_choice.tools"
        allowed = {
            self._chosen(tool, f"{path}[{index}]") for index, tool in enumerate(_objects(choice.get("tools"), path))
        }
        offered = [function for function in self.functions if function["function"]["name"] in allowed]
        return (offered, mode) if offered else ([], None)

    def _chosen(self, choice: dict[str, Any], path: str) -> str:
        name, namespace = _name(choice, path), choice.get("namespace")
        if not isinstance(namespace, str | None) or (name, namespace) not in self._names:
            raise invalid(f"{path}.name", "the name of one of the tools")
        return self._names[name, namespace]


def _function(tool: Mapping[str, Any], path: str) -> dict[str, Any]:
    function: dict[str, Any] = {}
    if words := _text(tool, "description", path):
        function["description"] = words
    parameters = tool.get("parameters")
    if not isinstance(parameters, dict | None):
        raise invalid(f"{path}.parameters", "a JSON schema")
    if parameters is not None:
        function["parameters"] = parameters
    strict = tool.get("strict")
    if not isinstance(strict, bool | None):
        raise invalid(f"{path}.strict", "a boolean")
    if strict is not None:
        function["strict"] = strict
    return function


def _custom(tool: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a function of one string. The model learns the grammar of that string from the description."""
    words = _text(tool, "description", path)
    form = tool.get("format")
    if not isinstance(form, dict | None):
        raise invalid(f"{path}.format", "an object")
    if form is not None and form.get("type") == "grammar":
        syntax, definition = _text(form, "syntax", f"{path}.format"), _text(form, "definition", f"{path}.format")
        words = f"{words}\n\nThe input must match this grammar ({syntax}):\n{definition}".strip()
    return {**({"description": words} if words else {}), "parameters": INPUT}


def _objects(value: object, name: str) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    if not isinstance(value, list):
        raise invalid(name, "an array")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise invalid(f"{name}[{index}]", "an object")
        yield item


def _name(tool: Mapping[str, Any], path: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{path}.name", "a non-empty string")
    return name


def _text(holder: Mapping[str, Any], name: str, path: str) -> str:
    text = holder.get(name)
    if not isinstance(text, str | None):
        raise invalid(f"{path}.{name}", "a string")
    return text or ""
