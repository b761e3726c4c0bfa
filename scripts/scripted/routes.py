"""The paths of the provider: two of OpenAI's, and those with an underscore, which steer and watch it."""

import time
from typing import Any
from urllib.parse import parse_qs

import orjson

from scripted.connection import Connection
from scripted.player import Player, answer, error_body, problem
from scripted.request import Request
from scripted.script import Script, ScriptError
from scripted.seen import Memory, Seen

# Fields that would make an answer fail in the middle if they had another type.
KINDS = {"n": int, "max_tokens": int, "max_completion_tokens": int, "stream": bool, "stream_options": dict}


class InvalidError(Exception):
    """A request is answered 400. The text says why."""


class Routes:
    """Answers every request of every connection, with the scripts in one memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def serve(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        try:
            match request.method, request.path:
                case "POST", "/v1/chat/completions":
                    await self._complete(connection, request)
                case "GET", "/v1/models":
                    models = [{"id": name, "object": "model", "owned_by": "scripted"} for name in self._memory.models]
                    answer(connection, 200, orjson.dumps({"object": "list", "data": models}))
                case "POST", "/_script":
                    self._write(request)
                    answer(connection, 200, b"{}")
                case "POST", "/_open":
                    self._memory.gates[str(decoded(request.body).get("model"))].release()
                    answer(connection, 200, b"{}")
                case "GET", "/_seen":
                    answer(connection, 200, self._report(request))
                case "DELETE", "/_seen":
                    self._memory.seen.clear()
                    answer(connection, 200, b"{}")
                case "GET", "/_now":
                    answer(connection, 200, orjson.dumps({"now": time.monotonic()}))
                case method, path:
                    message = f"Invalid URL ({method} {path})"
                    answer(connection, 404, error_body(problem(message, code="unknown_url")))
        except (InvalidError, ScriptError) as error:
            answer(connection, 400, error_body(problem(str(error))))

    async def _complete(self, connection: Connection, request: Request) -> None:
        parameters = decoded(request.body)
        model = parameters.get("model")
        messages = parameters.get("messages")
        if not isinstance(model, str):
            raise InvalidError("you must provide a model parameter")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise InvalidError("messages: expected an array of objects")
        for name, kind in KINDS.items():
            if not isinstance(parameters.get(name), kind | None):
                raise InvalidError(f"{name}: {parameters[name]!r} is not of type {kind.__name__}")
        if parameters.get("n", 1) == 0:
            raise InvalidError("n: 0 is less than the minimum of 1")
        call, script = self._memory.next_call(model)
        if (fields := parameters.get("script")) is not None:
            script = Script.parse(fields)
        elif (text := request.headers.get("x-script")) is not None:
            script = Script.parse(decoded(text.encode("latin-1")))
        seen = Seen(
            model=model,
            call=call,
            number=self._memory.requests,
            headers=request.headers,
            body=parameters,
            connection=connection.number,
            meter=connection,
            base=connection.written,
        )
        self._memory.seen.append(seen)
        connection.current = seen
        await Player(connection, request, parameters, script, seen, self._memory.gates[model]).play()

    def _write(self, request: Request) -> None:
        content = decoded(request.body)
        model, calls = content.get("model"), content.get("calls")
        if not isinstance(model, str) or not isinstance(calls, list) or not calls:
            raise InvalidError('expected {"model": NAME, "calls": [SCRIPT, …]}')
        self._memory.write(model, [Script.parse(call) for call in calls])

    def _report(self, request: Request) -> bytes:
        models = parse_qs(request.query).get("model")
        chosen = (seen for seen in self._memory.seen if models is None or seen.model in models)
        return orjson.dumps([seen.report(self._memory.began) for seen in chosen])


def decoded(text: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises InvalidError if it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidError(f"We could not parse the JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidError("expected a JSON object")
    return value
