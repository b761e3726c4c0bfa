"""Reads HTTP/1.1 requests from a byte buffer as they come. It forgives only what the clients in use need."""

from dataclasses import dataclass


class BadRequestError(Exception):
    """The bytes are not HTTP: the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request."""

    method: str
    path: str
    query: str
    version: str
    headers: dict[str, str]  # lower-case names
    body: bytes

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request on this connection."""
        return self.version == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"


def expects_continue(buffer: bytearray) -> bool:
    """Whether the buffer holds a head that waits for `100 Continue` and nothing after it."""
    return buffer.endswith(b"\r\n\r\n") and b"\r\nexpect: 100-continue\r\n" in buffer.lower()


def take(buffer: bytearray) -> Request | None:
    """Remove the first request from the buffer and return it. None: it is not whole yet. Raises BadRequestError."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    try:
        first, *lines = buffer[:end].decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body_and_stop = _chunked(buffer, end + 4)
        else:
            body_and_stop = _counted(buffer, end + 4, int(headers.get("content-length", "0")))
    except ValueError as error:
        raise BadRequestError(str(error)) from error
    if body_and_stop is None:
        return None
    body, stop = body_and_stop
    del buffer[:stop]
    path, _, query = target.partition("?")
    return Request(method, path, query, version, headers, body)


def _counted(buffer: bytearray, start: int, length: int) -> tuple[bytes, int] | None:
    stop = start + length
    return (bytes(buffer[start:stop]), stop) if len(buffer) >= stop else None


def _chunked(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    """Return a chunked body without trailers, and where it stops. None: it is not whole yet."""
    parts: list[bytes] = []
    while (line := buffer.find(b"\r\n", start)) >= 0:
        size = int(buffer[start:line].split(b";")[0], 16)
        start = line + 2
        if len(buffer) < start + size + 2:
            return None
        if size == 0:
            return b"".join(parts), start + 2
        parts.append(bytes(buffer[start : start + size]))
        start += size + 2
    return None
