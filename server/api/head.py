"""What the head of every request must be: fields that HTTP allows once are there once, and no codings but ours.

aiohttp's parser takes some heads that it half understands. What is understood in two ways, here and at a proxy in
front, is how requests are smuggled, and how a check of one field is passed with another.
"""

from aiohttp import HttpVersion10, HttpVersion11, web

from server.core.errors import Rejected

# Fields of one value (RFC 9110, section 5.3). A second one would be ignored here, and may count elsewhere.
ONCE = (
    "Authorization", "x-api-key", "api-key", "Host", "Origin", "Content-Type", "Content-Length", "Idempotency-Key",
    "Last-Event-ID", "X-On-Disconnect",
)  # fmt: skip
CODINGS = frozenset({"", "identity", "gzip", "deflate"})  # of a body; aiohttp undoes them


def check_head(request: web.Request) -> None:
    """Raise Rejected 400, 415, 501 or 505 for a head that is ambiguous or asks for what is not spoken here."""
    headers = request.headers
    if request.version not in (HttpVersion10, HttpVersion11):
        raise Rejected(505, "This is HTTP/1.1.", "http_version_not_supported")
    for name in ONCE:
        if len(headers.getall(name, ())) > 1:
            raise Rejected(400, f"There is more than one {name}.", "duplicate_header", name)
    transfer = headers.getall("Transfer-Encoding", ())
    if transfer and [value.strip().lower() for value in transfer] != ["chunked"]:  # RFC 9112, section 6.1
        raise Rejected(501, "The only transfer coding is chunked.", "transfer_coding_not_supported")
    if ",".join(headers.getall("Content-Encoding", ())).strip().lower() not in CODINGS:
        raise Rejected(415, "A body may be coded with gzip or deflate, once.", "unsupported_content_encoding")
