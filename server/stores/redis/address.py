"""Where Redis is: one server, or the master that Sentinel names at the moment.

    redis://[[user]:password@]host[:port][/db][?option=…]
    redis+sentinel://[[user]:password@]host[:port],host[:port],…/service[/db][?option=…]

`rediss` instead of `redis` is with TLS; `unix:///path[?db=0]` is a socket.
The options are redis-py's (https://redis.readthedocs.io/en/stable/connections.html). With Sentinel, the user and the
password are those of the Redis servers; `sentinel_username` and `sentinel_password` are options. A client asks the
sentinels before each connection (https://redis.io/docs/latest/develop/reference/sentinel-clients/).
"""

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError

SENTINEL = "+sentinel"
SENTINEL_PORT = 26379
SENTINEL_TIMEOUT = 1.0  # seconds: the next one is asked then
OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


class MasterConnection(Connection):
    """A connection to the server that Sentinel calls the master when it is opened."""

    def __init__(self, *, sentinel: Sentinel, service: str, **options: Any) -> None:
        super().__init__(**options)
        self._sentinel = sentinel
        self._service = service

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect. Every way to a connection comes here. Raises RedisError, also if no sentinel knows a master."""
        if not self.is_connected:
            self.host, self.port = await self._sentinel.discover_master(self._service)
        await super().connect_check_health(*args, **options)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer. A master that has become a replica is left: the next call asks the sentinels again."""
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError:
            await self.disconnect()
            raise


class MasterTlsConnection(MasterConnection, SSLConnection):
    """The same with TLS."""


class Address:
    """The address in a URL. `text` is for people: it has no user, password or option. Raises ValueError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        self.text = f"{hosts}{parts.path}"
        self._sentinel: Sentinel | None = None
        if not parts.scheme.endswith(SENTINEL):
            self._url = url
            parse_url(url)
            return
        self._service, _, db = parts.path.removeprefix("/").partition("/")
        if not self._service:
            raise ValueError("the name of the service is missing")
        options = dict(parse_qsl(parts.query))
        own = {name: options.pop(key) for key, name in OF_SENTINELS.items() if key in options}
        user = parts.netloc.rpartition("@")[0]
        netloc = f"{user}@localhost" if user else "localhost"
        self._url = parts._replace(
            scheme=parts.scheme.removesuffix(SENTINEL), netloc=netloc, path=f"/{db}", query=urlencode(options)
        ).geturl()
        tls = parse_url(self._url).get("connection_class") is SSLConnection
        self._connection = MasterTlsConnection if tls else MasterConnection
        timeouts = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py does not type it
            [_host(one) for one in hosts.split(",")],
            sentinel_kwargs={**timeouts, **own, "ssl": tls, "retry": Retry(NoBackoff(), 0)},
        )

    async def close(self) -> None:
        """Disconnect from the sentinels."""
        for one in self._sentinel.sentinels if self._sentinel is not None else ():
            await one.aclose()

    def pool(self, **options: Any) -> BlockingConnectionPool:
        """Return a pool of connections to it. A connection is opened when it is needed."""
        found: dict[str, Any] = {**parse_url(self._url), **options}
        if self._sentinel is not None:
            found |= {"connection_class": self._connection, "sentinel": self._sentinel, "service": self._service}
        return BlockingConnectionPool(**found)


def _host(text: str) -> tuple[str, int]:
    """Return a host and its port."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or SENTINEL_PORT
