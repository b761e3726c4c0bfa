"""What the terminal commands share: the way to the gateway, safe output, and a Ctrl-C that is not lost."""

import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, Self

from sluiceway.commands.library import ResumingTransport, httpx2
from sluiceway.outage import Patience

KEY_VARIABLE = "SLUICEWAY_KEY"
DEFAULT_URL = "http://127.0.0.1:8080"
NO_ANSWER = "that is no answer of a gateway"
# A model's text may hold escape sequences. They could rewrite the screen, the terminal's title or the clipboard.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class CommandError(Exception):
    """A command cannot do its work. The text is one sentence for its user."""


# --- the gateway ------------------------------------------------------------------------------------------------


def connect(url: str, environ: Mapping[str, str] = os.environ) -> httpx2.Client:
    """Return a client of the gateway at `url` (with or without `/v1`). It resumes streams, and says so on stderr.

    Raises CommandError if `url` is not an address, or if the key in `environ` has characters that no key has.
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


def get_list(client: httpx2.Client, path: str) -> list[dict[str, Any]]:
    """Return the objects that the gateway lists at `path`. Raises CommandError."""
    try:
        response = client.get(path, headers={"Accept": "application/json"})
    except httpx2.TransportError as error:
        raise CommandError(f"{client.base_url} cannot be reached: {error}") from error
    data = json_of(response).get("data")
    if not isinstance(data, list):
        raise CommandError(f"200: {NO_ANSWER}")
    return data


def json_of(response: httpx2.Response) -> dict[str, Any]:
    """Return the JSON object in a response whose body has been read. Raises CommandError for an error status."""
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    if response.status_code == 200 and isinstance(body, dict):
        return body
    if response.status_code == 401:
        raise CommandError(f"The gateway wants a key: put it into {KEY_VARIABLE}.")
    error = body.get("error") if isinstance(body, dict) else None
    raise CommandError(f"{response.status_code}: {error.get('message') if isinstance(error, dict) else NO_ANSWER}")


# --- output -----------------------------------------------------------------------------------------------------


def note(text: str) -> None:
    """Write a remark to standard error; dim in a terminal."""
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{dim}[{text}]{plain}\n")
    sys.stderr.flush()


def say(text: str) -> None:
    """Write a model's text to standard output at once, without its control characters."""
    sys.stdout.write(CONTROL.sub("", text))
    sys.stdout.flush()


# --- Ctrl-C -----------------------------------------------------------------------------------------------------


class Interrupts:
    """A context manager that raises KeyboardInterrupt at SIGINT, as Python does, and also remembers it.

    Python raises KeyboardInterrupt wherever the program is. If that is a destructor or a callback of the garbage
    collector, Python prints the exception and drops it. The answer that the user wanted to stop would go on.
    """

    def __init__(self) -> None:
        self._pending = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._pending = True
        raise KeyboardInterrupt

    def forget(self) -> None:
        """Forget earlier interrupts: the program has acted on them."""
        self._pending = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was an interrupt since `forget`."""
        if self._pending:
            raise KeyboardInterrupt
