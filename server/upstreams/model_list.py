"""The models that an upstream lists (https://platform.openai.com/docs/api-reference/models/list)."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from server.upstreams.sdk import Sdk
from server.upstreams.translate import FOREIGN, translate

KEPT = 60.0  # seconds
PATIENCE = 5.0  # seconds for a whole list
MAX_BYTES = 4_194_304  # of a list; OpenRouter's, the longest that is known, has about one
MAX_MODELS = 10_000
MAX_NAME = 256  # characters
log = structlog.get_logger("sluiceway.upstreams")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model of a list. `created` is in seconds since the epoch, 0 if the upstream does not say."""

    id: str
    created: int
    owned_by: str


class ModelList:
    """What one upstream lists: asked for when somebody needs it, and kept for a minute."""

    def __init__(self, upstream: str, sdk: Sdk) -> None:
        self._upstream = upstream
        self._sdk = sdk
        self._models: Sequence[ListedModel] = ()
        self._fresh_until = 0.0
        self._last_answer = 0.0  # when the upstream was asked last, whatever came of it
        self._failing = False
        self._one_question = asyncio.Lock()  # many clients at once ask the upstream once

    async def current(self) -> Sequence[ListedModel]:
        """Return the models, at most a minute old. Empty if the upstream cannot be asked."""
        since = time.monotonic()
        if since >= self._fresh_until:
            async with self._one_question:
                if self._last_answer < since:
                    await self._ask()
        return self._models

    async def _ask(self) -> None:
        models = None
        try:
            async with asyncio.timeout(PATIENCE):
                status, body = await self._sdk.list_models(MAX_BYTES)
        except TimeoutError:
            problem = f"The upstream did not answer in {PATIENCE:g} s."
        except FOREIGN as error:
            problem = translate(error, in_body=False).message
        else:
            models = read_list(body, self._upstream) if status == 200 and len(body) <= MAX_BYTES else None
            problem = f"The upstream answered with status {status} and no list of models."
        self._last_answer = time.monotonic()
        self._models = models or ()
        self._fresh_until = self._last_answer + KEPT if models is not None else 0.0
        if models is None and not self._failing:  # one line, however often somebody looks
            log.warning("models not listed", upstream=self._upstream, cause=problem)
        self._failing = models is None


def read_list(body: bytes, upstream: str) -> Sequence[ListedModel] | None:
    """Return the models of a list, each once, or None if it is no list.

    A list is OpenAI's `{"data": [{"id": …}]}`, or the array alone (Together). An entry that is no model, or that is
    another gateway's pattern, is left out.
    """
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    entries = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(entries, list):
        return None
    models: dict[str, ListedModel] = {}
    for model in _models(entries[:MAX_MODELS], upstream):
        models.setdefault(model.id, model)
    return tuple(models.values())


def _models(entries: Sequence[Any], upstream: str) -> Iterator[ListedModel]:
    for entry in entries:
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or "*" in name or not name.isprintable():
            continue
        created, owner = entry.get("created"), entry.get("owned_by")
        yield ListedModel(
            id=name,
            created=created if type(created) is int and created >= 0 else 0,
            owned_by=owner if isinstance(owner, str) and len(owner) <= MAX_NAME else upstream,
        )
