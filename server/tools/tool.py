"""A tool: what the model is told of it, and how it is called. The signature of a function makes a tool of it."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import ArgsKwargs, to_json

from server.aio.threads import run_in_thread

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what OpenAI's API takes


class ToolError(Exception):
    """A call that gave no result. The model is told its text."""


class ToolSetupError(ValueError):
    """A tool that cannot be offered, in one sentence."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `parameters` is a JSON schema of an object. `call` takes such an object and returns a text.

    `call` raises ToolError, or anything that the tool itself raises.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    call: Callable[[dict[str, Any]], Awaitable[str]]

    def offer(self) -> dict[str, Any]:
        """Return it as an item of `tools` (https://platform.openai.com/docs/api-reference/chat/create)."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


def from_function(name: str, function: Any) -> Tool:
    """Return a tool that calls a function: an async one in the event loop, a sync one in a thread.

    The schema comes from the annotations, and the description from the docstring. pydantic checks and converts the
    arguments. Raises ToolSetupError.
    """
    if not NAME.fullmatch(name):
        raise ToolSetupError(f"The name of the tool {name!r} must be 1 to 64 of A-Z, a-z, 0-9, _ and -.")
    if not callable(function):
        raise ToolSetupError(f"The tool {name!r} is not a function.")
    try:
        adapter = TypeAdapter(function)
        parameters = adapter.json_schema()
    except (PydanticUserError, PydanticInvalidForJsonSchema, NameError) as error:
        reason = str(error).partition("\n")[0]
        raise ToolSetupError(f"The signature of the tool {name!r} has no JSON schema: {reason}") from error
    if parameters.get("type") != "object":
        raise ToolSetupError(f"The tool {name!r} takes arguments by position; a model gives them by name.")
    is_async = inspect.iscoroutinefunction(function)

    async def call(arguments: dict[str, Any]) -> str:
        by_name = ArgsKwargs((), arguments)
        try:
            value = adapter.validate_python(by_name) if is_async else await _in_thread(adapter, by_name)
        except ValidationError as error:
            raise ToolError(_problems(error)) from error
        return as_text(await value if inspect.isawaitable(value) else value)

    return Tool(name, inspect.getdoc(function) or "", parameters, call)


async def _in_thread(adapter: TypeAdapter[Any], arguments: ArgsKwargs) -> Any:
    """Call a sync function in a thread. Raises what it raises, or ToolError for what would end the gateway."""

    def call() -> Any:
        try:
            return adapter.validate_python(arguments)
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise
            raise ToolError(repr(error)) from error

    ended = asyncio.Event()
    try:
        return await run_in_thread(call, name="tool", over=ended.set)
    except asyncio.CancelledError:
        await ended.wait()  # the call keeps its place among `max_concurrency` until its thread ends
        raise


def as_text(value: Any) -> str:
    """Return a result as the model reads it: a text unchanged, anything else as JSON."""
    return value if isinstance(value, str) else to_json(value, fallback=str).decode()


def _problems(error: ValidationError) -> str:
    parts = [
        f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors(include_url=False)
    ]
    return "The arguments do not fit: " + "; ".join(parts)
