"""`GET /` and `/static/…`: the console and the JavaScript client, from the files in server/static.

The pages' content security policy allows only this origin's own scripts, styles and connections. If a model's output
got into the page as markup, it could neither run nor load anything.
"""

from pathlib import Path

from aiohttp import web

from server.api.access import STATIC

FILES = Path(__file__).parent.parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Console:
    """Serves the static files. They are listed at the start, so no path of a request is ever opened."""

    def __init__(self) -> None:
        self._files = {path.name: path for path in FILES.iterdir() if path.suffix in TYPES}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/", self.page), web.get(STATIC + "{name}", self.file)]

    async def page(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002 — aiohttp's handler signature
        """Return the console."""
        return self._respond(self._files["index.html"])

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Return one of its files. Raises HTTPNotFound."""
        path = self._files.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        return self._respond(path)

    def _respond(self, path: Path) -> web.StreamResponse:
        return web.FileResponse(path, headers={**HEADERS, "Content-Type": TYPES[path.suffix]})
