"""What the HTTP side needs of a dialect beyond what the floors below need: its routes."""

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web

from server.api.respond import Responder
from server.core.dialect import Dialect
from server.streams.streams import Streams


class ServedDialect(Dialect, Protocol):
    """A dialect with paths of its own. A class of this kind is what the entry points name; it takes no arguments."""

    def routes(self, streams: Streams, responder: Responder) -> Sequence[web.RouteDef]:
        """Return what is served: handlers that create streams and answer with them."""
