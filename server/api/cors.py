"""Lets pages of other sites use the gateway if `cors_origins` names them (Fetch Standard, section "CORS protocol").

Cookies (credentials in the words of the Fetch Standard) are never allowed: a key goes into the Authorization header.
"""

import re

from aiohttp import web

from server.core.errors import Rejected

METHODS = "GET, POST, DELETE"
EXPOSED = "X-Stream-Id, X-Request-Id, X-Sluiceway-Target, Retry-After, x-should-retry"
MAX_AGE = "600"  # seconds that a browser keeps the answer to a preflight
# A page may send any header: SDKs in browsers add their own, and without a key no header of ours has an effect.
HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}(?:, ?[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}){0,63}")


class Cors:
    """The CORS headers for one list of origins."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = frozenset(origins)
        self._any = "*" in self._origins

    def _allows(self, origin: str) -> bool:
        return self._any or origin in self._origins

    def preflight(self, request: web.Request) -> web.Response | None:
        """Return the answer to a preflight request, or None for any other request. Raises Rejected 403.

        A preflight carries no key, so it is answered before access is checked.
        """
        origin = request.headers.get("Origin")
        preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not self._origins or origin is None or not preflight:
            return None
        if not self._allows(origin):
            raise Rejected(403, "This origin may not use the gateway.", "forbidden_origin")
        headers = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": MAX_AGE}
        names = request.headers.get("Access-Control-Request-Headers", "")
        if HEADER_NAMES.fullmatch(names):
            headers["Access-Control-Allow-Headers"] = names
        return web.Response(status=204, headers=headers)

    async def sign(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let the page of an allowed origin read this response. aiohttp calls it before it sends the head."""
        if not self._any:
            response.headers.add("Vary", "Origin")  # a cache must not give the answer for one origin to another
        origin = request.headers.get("Origin")
        if origin is not None and self._allows(origin):
            response.headers["Access-Control-Allow-Origin"] = "*" if self._any else origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
