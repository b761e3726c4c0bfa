"""`GET /v1/models`: the models that clients may ask for (https://platform.openai.com/docs/api-reference/models)."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import json_response
from server.config.settings import Model, Settings
from server.streams.routes import unknown_model
from server.streams.streams import Streams
from server.upstreams.model_list import ListedModel

OURS = "sluiceway"  # owns the models that have a name in the configuration


class Models:
    """The list of models, and each of them."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of these paths."""
        return [
            web.get("/v1/models", self.list, allow_head=False),
            web.get("/v1/models/{id:.+}", self.retrieve, allow_head=False),
        ]

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Return the models by the names that the caller may ask for, with OpenAI's fields."""
        settings, owner = self._streams.settings, request[OWNER]
        lists = await asyncio.gather(*(self._meant_by(model, settings) for model in settings.models))
        data: dict[str, dict[str, Any]] = {}
        for model in itertools.chain(*lists):
            if owner.may_ask(model.id):
                data.setdefault(model.id, _json(model))
        return json_response({"object": "list", "data": list(data.values())})

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        """Return one model. Raises Rejected 404 if for the caller there is none of this name."""
        name, settings = request.match_info["id"], self._streams.settings
        model = settings.resolve(name)
        if model is not None and "*" not in name and request[OWNER].may_ask(name):
            if any(target.model for target in model.targets):  # it answers, whatever the client calls it
                return json_response(_json(_own(name)))
            for listed in await self._meant_by(model, settings):
                if listed.id == name:
                    return json_response(_json(listed))
        raise unknown_model(name)

    async def _meant_by(self, model: Model, settings: Settings) -> Sequence[ListedModel]:
        """Return the models that an entry of the configuration stands for.

        A name stands for itself. A pattern stands for what its targets have, if it is the entry that answers: what
        "upstream/*" lists, and the model of "upstream/model".
        """
        if not model.is_pattern:
            return [_own(model.name)]
        lists = await asyncio.gather(*map(self._streams.upstreams.models_of, model.targets))
        return [listed for listed in itertools.chain(*lists) if settings.resolve(listed.id) is model]


def _own(name: str) -> ListedModel:
    return ListedModel(name, 0, OURS)


def _json(model: ListedModel) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by}
