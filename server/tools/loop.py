"""The tool loop of one stream: run the server's tools that the model calls, and ask it again with their results.

The log tells which calls there are, which of them have a result, and what the model gets next. So a call never runs
twice, not even after a failure of the upstream or a crash. A call that may have run in a process that is gone gets an
error as its result, because nobody knows whether it took effect.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from server.core.errors import StreamError
from server.core.generation import Generation
from server.core.openai.tool_calls import ToolCall
from server.core.replay import LoggedTurn
from server.core.wide_json import sound
from server.tools.bounded import Result
from server.tools.places import Payer
from server.tools.toolbox import Toolbox

MAX_QUOTED = 200  # characters of invalid arguments that the model is shown again
MAX_CALLS = 64  # of the server's tools in one turn that are run
TOO_MANY = f"It was not run: in one turn {MAX_CALLS} calls are run."
LOST = "The gateway was stopped while this tool ran: whether it took effect is not known."

Message = dict[str, Any]


class Answer(NamedTuple):
    """A call of one of the server's tools, with its result."""

    call: ToolCall
    result: Result


class ToolLoop:
    """The tools and turns of one stream. `generation` is the request of the running turn, `payer` has its calls."""

    def __init__(self, toolbox: Toolbox, request: Generation, payer: Payer) -> None:
        self._toolbox = toolbox
        self._payer = payer
        self._request = request
        self._client_tools = tool_names(request.body)
        self._tools = {name: tool for name, tool in toolbox.tools().items() if name not in self._client_tools}
        self.generation = request
        if self._tools:
            self.generation = replace(request, body={**request.body, "tools": self._offers()})

    def _offers(self) -> list[dict[str, Any]]:
        return [*(self._request.body.get("tools") or ()), *(tool.offer() for tool in self._tools.values())]

    @property
    def client_tools(self) -> Collection[str] | None:
        """The names of the client's tools; None: the server runs no tools, so all calls are the client's."""
        return self._client_tools if self._tools else None

    def due(self, calls: Collection[ToolCall]) -> bool:
        """Whether a finished turn has calls for the server: of its own tools, or of tools that do not exist."""
        return bool(self._tools) and any(call.name not in self._client_tools and not call.incomplete for call in calls)

    def resume(self, turns: Sequence[LoggedTurn]) -> None:
        """Go on after turns that an earlier relay of this stream has written."""
        answered = [turn for turn in turns if turn.answered]
        if answered:
            self._ask_again(answered)

    def check_limit(self, turns: Sequence[LoggedTurn]) -> None:
        """Raise StreamError if the model called tools in more than `max_rounds` turns, the last one included."""
        limit = self._toolbox.max_rounds
        if sum(turn.answered for turn in turns[:-1]) >= limit:
            text = f"The model called tools in more than {limit} rounds."
            raise StreamError(text, "too_many_tool_rounds", 502)

    def run(self, calls: Sequence[ToolCall], *, lost: bool = False) -> list[asyncio.Task[Answer]]:
        """Run calls concurrently. The caller awaits the tasks, and cancels them.

        `lost`: an earlier relay may have run them, so they are not run again.
        """
        tasks = []
        for number, call in enumerate(calls):
            error = LOST if lost else TOO_MANY if number >= MAX_CALLS else None
            tasks.append(asyncio.create_task(self._answer(call, error), name=f"tool {call.name}"))
        return tasks

    def next_request(self, turns: Sequence[LoggedTurn]) -> bool:
        """Make the request of the next turn if all calls of the last turn were the server's. Return whether they were.

        Otherwise the client has calls to answer.
        """
        if not all(call.server for call in turns[-1].calls):
            return False
        self._ask_again([turn for turn in turns if turn.answered])
        return True

    async def _answer(self, call: ToolCall, error: str | None) -> Answer:
        """Return the result of a call. With an `error` it is not run."""
        return Answer(call, await self._result(call) if error is None else Result(None, error, 0.0))

    async def _result(self, call: ToolCall) -> Result:
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(sorted(self._tools.keys() | self._client_tools))
            return Result(None, f"There is no tool {call.name!r}. There are: {names}.", 0.0)
        if call.error is not None:
            return Result(None, f"{call.error} They were: {call.raw[:MAX_QUOTED]}", 0.0)
        if not isinstance(call.arguments, dict):
            return Result(None, "The arguments must be a JSON object.", 0.0)
        return await self._toolbox.bounds.run(tool, call.arguments, self._payer)

    def _ask_again(self, answered: Sequence[LoggedTurn]) -> None:
        """Make the next turn's request. In the last turn the model must not call a tool."""
        request = self._request.body
        body = {**request, "tools": self._offers(), "messages": [*request["messages"], *messages(answered)]}
        if request.get("tool_choice") not in (None, "none", "auto"):
            body["tool_choice"] = "auto"  # a forced call would be made again in every turn
        if len(answered) >= self._toolbox.max_rounds and not self._client_tools:
            body["tool_choice"] = "none"
        self.generation = replace(self._request, body=body)


def messages(answered: Sequence[LoggedTurn]) -> list[Message]:
    """Return the messages with the model's own turns and the results of its calls."""
    history: list[Message] = []
    for turn in answered:
        calls = [_call_message(call) for call in turn.calls]
        history.append(
            {"role": "assistant", "content": sound(turn.texts.get((0, "content"), "")) or None, "tool_calls": calls}
        )
        history += [{"role": "tool", "tool_call_id": call.id, "content": turn.results[call.id]} for call in turn.calls]
    return history


def _call_message(call: ToolCall) -> Message:
    # Arguments that are no JSON are left out, because the templates of some upstreams parse them, and fail. The result
    # shows them to the model.
    arguments = {} if call.error is not None else call.arguments
    function = {"name": call.name, "arguments": orjson.dumps(arguments).decode()}
    return {"id": call.id, "type": "function", "function": function}


def tool_names(body: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the tools in a request. Their calls are the client's."""
    functions = [
        tool.get("function") or tool.get("custom") for tool in body.get("tools") or () if isinstance(tool, dict)
    ]
    functions += body.get("functions") or ()
    return frozenset(
        function["name"]
        for function in functions
        if isinstance(function, dict) and isinstance(function.get("name"), str)
    )
