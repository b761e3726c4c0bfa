"""`GET /v1/models`: the models that clients may ask for (https://platform.openai.com/docs/api-reference/models)."""

from aiohttp import web

from server.api.errors import json_response
from server.streams.streams import Streams


class Models:
    """The list of configured models."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of this path."""
        return [web.get("/v1/models", self.list, allow_head=False)]

    async def list(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002 — aiohttp's handler signature
        """Return the configured models, with OpenAI's fields."""
        names = [model.name for model in self._streams.settings.models]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "sluiceway"} for name in names]
        return json_response({"object": "list", "data": data})
