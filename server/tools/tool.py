"""A tool: what the model is told of it, and how it is called. A function becomes one by its signature."""

import asyncio
import contextvars
import inspect
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import ArgsKwargs, to_json

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what OpenAI's API takes


class ToolError(Exception):
    """A call that gave no result; its text is what the model is told."""


class ToolSetupError(ValueError):
    """A tool that cannot be offered: one sentence for whoever configured it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `parameters` is a JSON schema of an object; `call` takes such an object and returns a text."""

    name: str
    description: str
    parameters: dict[str, Any]
    call: Callable[[dict[str, Any]], Awaitable[str]]

    def offer(self) -> dict[str, Any]:
        """Return it as an item of `tools` (https://platform.openai.com/docs/api-reference/chat/create)."""
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": told}


def from_function(name: str, function: Any) -> Tool:
    """Return a tool that calls a function, sync (in a thread) or async.

    Its schema comes from the annotations, its description from the docstring; arguments are checked and converted by
    pydantic. Raises ToolSetupError.
    """
    if not NAME.fullmatch(name):
        raise ToolSetupError(f"The name of the tool {name!r} must be 1 to 64 of A-Z, a-z, 0-9, _ and -.")
    if not callable(function):
        raise ToolSetupError(f"The tool {name!r} is not a function.")
    try:
        adapter = TypeAdapter(function)
        parameters = adapter.json_schema()
    except (PydanticUserError, PydanticInvalidForJsonSchema, NameError) as error:
        words = str(error).partition("\n")[0]
        raise ToolSetupError(f"The signature of the tool {name!r} has no JSON schema: {words}") from error
    if parameters.get("type") != "object":
        raise ToolSetupError(f"The tool {name!r} takes arguments by position; a model gives them by name.")
    is_async = inspect.iscoroutinefunction(function)

    async def call(arguments: dict[str, Any]) -> str:
        given = ArgsKwargs((), arguments)
        try:
            value = adapter.validate_python(given) if is_async else await _in_thread(adapter, given)
        except ValidationError as error:
            raise ToolError(_problems(error)) from error
        return as_text(await value if inspect.isawaitable(value) else value)

    return Tool(name, inspect.getdoc(function) or "", parameters, call)


async def _in_thread(adapter: TypeAdapter[Any], given: ArgsKwargs) -> Any:
    """Call a sync function in a daemon thread: the interpreter would wait for the threads of a pool, hanging or not."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
            future.exception()  # seen: after a timeout nobody asks for it

    def work() -> None:
        value: Any = None
        error: Exception | None = None
        try:
            value = context.run(adapter.validate_python, given)
        except BaseException as raised:  # noqa: BLE001 — whatever a tool raises is its result, SystemExit too
            if isinstance(raised, Exception) and not isinstance(raised, StopIteration):
                error = raised
            else:  # what no future takes
                error = ToolError(repr(raised))
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, name="tool", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})  # a thread cannot be stopped: its place is taken until it ends
        raise


def as_text(value: Any) -> str:
    """Return a result as the model reads it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else to_json(value, fallback=str).decode()


def _problems(error: ValidationError) -> str:
    parts = [
        f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors(include_url=False)
    ]
    return "The arguments do not fit: " + "; ".join(parts)
