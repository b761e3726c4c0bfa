"""Who may: the bearer token's owner, or one user on a loopback host where there are no keys."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import web

from server.config.settings import Key, Settings, is_loopback
from server.core.errors import Rejected
from server.streams.admission import Owner

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/"})
STATIC = "/static/"
SINGLE_USER = Owner()
OWNER = web.RequestKey("owner", Owner)  # who asks, on every request that got past the middleware


class RateLimit:
    """A sliding window of one minute, in two counters: the last whole minute weighs by what is left of it."""

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._minute = 0
        self._now = 0
        self._before = 0

    def take(self, at: float) -> float | None:
        """Count one request; return None, or the seconds to wait where it is one too many."""
        minute, into = int(at // 60), at % 60
        if minute != self._minute:
            self._before = self._now if minute == self._minute + 1 else 0
            self._minute, self._now = minute, 0
        if self._before * (60 - into) / 60 + self._now >= self._limit:
            return 60 - into if self._now >= self._limit else max(1.0, 60 / self._limit)
        self._now += 1
        return None


class Access:
    """Authentication and limits for one configuration."""

    def __init__(self, settings: Settings) -> None:
        self._limits: dict[tuple[str, int], RateLimit] = {}
        self._origins = frozenset(settings.server.cors_origins)
        self.take(settings.keys)

    def take(self, keys: Sequence[Key]) -> None:
        """Let these keys in from now on, and no other. What an unchanged limit has counted stays counted."""
        self._keys = [(key, bytes.fromhex(key.sha256)) for key in keys]
        limits = [(key.name, key.requests_per_minute) for key in keys]
        self._limits = {limit: self._limits.get(limit) or RateLimit(limit[1]) for limit in limits}

    def owner(self, request: web.Request) -> Owner:
        """Return who asks. Raises Rejected 401, 403, 415 or 429."""
        if request.path in OPEN_PATHS or request.path.startswith(STATIC):
            return SINGLE_USER
        if not self._keys:
            self._local_only(request)
            return SINGLE_USER
        key = self._key(request)
        wait = self._limits[key.name, key.requests_per_minute].take(time.time())
        if wait is not None:
            raise Rejected(429, "Too many requests for this key.", "rate_limit_exceeded", retry_after=wait)
        return Owner(key.name, key.admin, key.max_streams)

    def _key(self, request: web.Request) -> Key:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for key, wanted in self._keys:  # all of them, in constant time: the time must not tell how near a guess was
            if hmac.compare_digest(digest, wanted):
                found = key
        if found is None or scheme.lower() != "bearer" or not token:
            raise Rejected(401, "This needs a valid key: Authorization: Bearer <key>.", "invalid_api_key")
        return found

    def _local_only(self, request: web.Request) -> None:
        """Keep foreign web pages out of a keyless gateway (DNS rebinding, cross-site requests)."""
        try:
            host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        except ValueError:
            host = ""
        if not is_loopback(host):
            raise Rejected(403, "Without keys the gateway serves this machine only.", "forbidden_host")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._origins and origin != f"http://{request.headers['Host']}":
            raise Rejected(403, "This origin may not use the gateway.", "forbidden_origin")
        if request.method == "POST" and request.content_type != "application/json":
            raise Rejected(415, "The body must be application/json.", "unsupported_media_type")
