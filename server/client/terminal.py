"""What the terminal commands share: where the gateway is, its key, and output that cannot drive the terminal."""

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from server.client.outage import Patience
from server.client.transport import ResumingTransport

KEY_VARIABLE = "SLUICEWAY_KEY"
DEFAULT_URL = "http://127.0.0.1:8080"
NO_ANSWER = "that is no answer of a gateway"
# A model's text may hold escape sequences, which could rewrite the screen or a terminal's title and clipboard.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class CommandError(Exception):
    """A command cannot do what was asked; the text is for its user."""


def connect(url: str, environ: Mapping[str, str] = os.environ) -> httpx2.Client:
    """Return a client of the gateway at `url` (with or without `/v1`) that resumes streams, with a note on stderr.

    Raises CommandError where the address or the key cannot be one.
    """
    key, base = environ.get(KEY_VARIABLE, ""), url.rstrip("/").removesuffix("/v1")
    if not key.isascii() or not key.isprintable():
        raise CommandError(f"{KEY_VARIABLE} holds characters that no key has.")
    if not re.match(r"https?://[^/]", base):
        raise CommandError(f"{url!r} is no address of a gateway: it looks like {DEFAULT_URL}.")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = ResumingTransport(httpx2.HTTPTransport(), Patience(), _note_cut)
    return httpx2.Client(base_url=base, headers=headers, transport=transport, timeout=30.0, follow_redirects=True)


def _note_cut(last_id: str) -> None:
    where = f" after event {last_id}" if last_id else ""
    note(f"connection lost{where}, resuming …")


def note(text: str) -> None:
    """Write a remark beside the output; dim in a terminal."""
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{dim}[{text}]{plain}\n")
    sys.stderr.flush()


def say(text: str) -> None:
    """Write text of a model to standard output, without control characters, at once."""
    sys.stdout.write(CONTROL.sub("", text))
    sys.stdout.flush()


def listed(client: httpx2.Client, path: str) -> list[dict[str, Any]]:
    """Return the objects that a path lists. Raises CommandError."""
    try:
        response = client.get(path, headers={"Accept": "application/json"})
    except httpx2.TransportError as error:
        raise CommandError(f"{client.base_url} cannot be reached: {error}") from error
    data = checked(response).get("data")
    if not isinstance(data, list):
        raise CommandError(f"200: {NO_ANSWER}")
    return data


def checked(response: httpx2.Response) -> dict[str, Any]:
    """Return the JSON of a response that has been read. Raises CommandError for an error status."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = None
    if response.status_code == 200 and isinstance(body, dict):
        return body
    if response.status_code == 401:
        raise CommandError(f"The gateway wants a key: put it into {KEY_VARIABLE}.")
    error = body.get("error") if isinstance(body, dict) else None
    raise CommandError(f"{response.status_code}: {error.get('message') if isinstance(error, dict) else NO_ANSWER}")
