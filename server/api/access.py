"""Who may use the gateway: the owner of the key; without keys, one user on a loopback host."""

import hashlib
import hmac
import re
import time
from collections.abc import Sequence

from aiohttp import web

from server.api.plain.paths import PATHS
from server.config.settings import Key, Settings, is_loopback
from server.core.errors import Rejected
from server.core.records import owned_by
from server.streams.admission import Owner

HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+))(?::[0-9]{1,5})?")  # RFC 9110, section 7.2
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/"})
STATIC = "/static/"
SINGLE_USER = Owner()
OWNER = web.RequestKey("owner", Owner)  # the caller; the middleware sets it on every request that it lets through


class RateLimit:
    """A sliding window of one minute, in two counters.

    The count of the last whole minute is weighted with the share of that minute that is still inside the window.
    """

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._minute = 0
        self._current = 0
        self._previous = 0

    def take(self, at: float) -> float | None:
        """Count one request at the time `at`. Return None, or the seconds to wait if it is one too many."""
        minute, elapsed = int(at // 60), at % 60
        if minute != self._minute:
            self._previous = self._current if minute == self._minute + 1 else 0
            self._minute, self._current = minute, 0
        if self._previous * (60 - elapsed) / 60 + self._current >= self._limit:
            return 60 - elapsed if self._current >= self._limit else max(1.0, 60 / self._limit)
        self._current += 1
        return None


class Access:
    """Authentication and rate limits of the configuration in force."""

    def __init__(self, settings: Settings) -> None:
        self._limits: dict[tuple[str, int], RateLimit] = {}
        self._origins = frozenset(settings.server.cors_origins)
        self.take(settings.keys)

    def take(self, keys: Sequence[Key]) -> None:
        """Accept these keys from now on, and no others. A key whose limit is unchanged keeps its count."""
        self._keys = [(key, bytes.fromhex(key.sha256)) for key in keys]
        limits = [(owner_of(key), key.requests_per_minute) for key in keys]
        self._limits = {limit: self._limits.get(limit) or RateLimit(limit[1]) for limit in limits}

    def owner(self, request: web.Request) -> Owner:
        """Return the caller of a request. Raises Rejected 401, 403, 415 or 429."""
        if request.path in OPEN_PATHS or request.path.startswith(STATIC):
            return SINGLE_USER
        if not self._keys:
            self._local_only(request)
            return SINGLE_USER
        key = self._key(request)
        wait = self._limits[owner_of(key), key.requests_per_minute].take(time.monotonic())
        if wait is not None:
            raise Rejected(429, "Too many requests for this key.", "rate_limit_exceeded", retry_after=wait)
        return Owner(owner_of(key), key.admin, key.max_streams, key.models)

    def _key(self, request: web.Request) -> Key:
        """Return the key that a request has sent. If it sends several, they must be the same. Raises Rejected 401."""
        tokens = _tokens(request)
        digest = hashlib.sha256((tokens[0] if tokens else "").encode("utf-8", "surrogateescape")).digest()
        match = None
        # Compare with all keys, each in constant time. Otherwise the time would tell how close a guess is.
        for key, key_digest in self._keys:
            if hmac.compare_digest(digest, key_digest):
                match = key
        if match is None or len(set(tokens)) != 1 or not tokens[0]:
            words = "This needs one valid key, as Authorization: Bearer <key>, x-api-key or api-key."
            raise Rejected(401, words, "invalid_api_key")
        return match

    def _local_only(self, request: web.Request) -> None:
        """Keep web pages of other sites out of a gateway without keys (DNS rebinding, cross-site requests)."""
        host = HOST.fullmatch(request.headers.get("Host", ""))
        if host is None or not is_loopback(host["v6"] or host["name"]):
            raise Rejected(403, "Without keys the gateway serves this machine only.", "forbidden_host")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._origins and origin != f"http://{request.headers['Host']}":
            raise Rejected(403, "This origin may not use the gateway.", "forbidden_origin")
        served = request.match_info.http_exception is None  # else the answer is 404 or 405, whatever the body
        # A request without a body is no form's: with it OpenAI's JavaScript SDK cancels a response.
        nothing = "Content-Type" not in request.headers and not request.can_read_body
        if request.method == "POST" and served and request.content_type != "application/json" and not nothing:
            _no_form(request)


def _no_form(request: web.Request) -> None:
    """Refuse what a form of another site can send, without a preflight (Fetch Standard, CORS protocol).

    Some paths take uploads, of a type that forms have. There the origin, which browsers send with every POST, has said
    enough; `Sec-Fetch-Site` says it again. Raises Rejected 403 or 415.
    """
    resource = request.match_info.route.resource
    if request.content_type != "multipart/form-data" or resource is None or resource.canonical not in PATHS:
        raise Rejected(415, "The body must be application/json.", "unsupported_media_type")
    if "Origin" not in request.headers and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Rejected(403, "This origin may not use the gateway.", "forbidden_origin")


def owner_of(key: Key) -> str:
    """Return what the streams of a key are stored under: its name, and which token it is.

    With another token the name is another owner. So whoever gets a name that somebody had before does not get his
    streams, which may be in a durable store for as long as `retention`.
    """
    return owned_by(key.name, key.sha256)


def _tokens(request: web.Request) -> list[str]:
    """Return every key that a request sends, "" for one that is not sent as it should be.

    Clients of other APIs send their keys in other headers: `x-api-key` (Anthropic's), `api-key` (Azure's).
    """
    tokens = [request.headers[name].strip() for name in ("x-api-key", "api-key") if name in request.headers]
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        tokens.append(token.strip() if scheme.lower() == "bearer" else "")
    return tokens
