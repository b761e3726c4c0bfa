"""A dialect as the HTTP side sees it: with routes, which the floors below do not know."""

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web

from server.api.respond import Responder
from server.core.dialect import Dialect
from server.streams.streams import Streams


class ServedDialect(Dialect, Protocol):
    """A dialect with paths of its own. Entry points name a class of this kind. Its constructor takes no arguments."""

    def routes(self, streams: Streams, responder: Responder) -> Sequence[web.RouteDef]:
        """Return the routes. Their handlers create streams and answer with them."""
