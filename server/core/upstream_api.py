"""What an upstream speaks: how it is asked, and what the things that it sends mean.

The relay works with one meaning, that of OpenAI's chat completions: a request is a chat request, and a piece of an
answer means a chunk. An upstream that speaks another API is asked in that API, and its events are translated. The
events themselves are kept as they came, for a client that speaks the same API.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from server.core.generation import Generation
from server.core.openai.chunks import Chunk
from server.core.openai.sse import Event

CHAT = "chat"
Background = Literal["asked", "always", "never"]


class Piece(NamedTuple):
    """What an upstream said: its bytes as they came, what they mean, and the API that they are in.

    `chunk` has no choices if the bytes mean nothing for the answer. It may be empty if the reader did not need it.
    """

    data: bytes
    chunk: Chunk
    api: str = CHAT


class Translator(Protocol):
    """Reads the events of one attempt. Classes inherit the defaults."""

    done: bool  # the upstream has said that its answer is over
    # The upstream's id of an answer that it goes on with, whether its connection is there or not. "": it does not.
    running: str = ""

    def read(self, event: Event) -> Sequence[Piece]:
        """Return what an event means: usually one piece. Raises UpstreamError if it is an error or cannot be read."""

    def rest(self) -> str:
        """Return the path that gives the events of a running answer after the last one that was read; "": none does.

        From now on events come from there. Those that were read are passed over, and a missing one is an error.
        """
        return ""


class UpstreamApi(Protocol):
    """One API of model servers. It has no state of any stream: its translators have. Classes inherit the defaults."""

    name: str  # as `api` of [[upstreams]] gives it
    path: str  # below `base_url`, as are all paths here

    def headers(self, generation: Generation) -> Mapping[str, str]:  # noqa: ARG002 — the default needs none
        """Return further headers of a request."""
        return {}

    @abstractmethod
    def body(
        self, generation: Generation, model: str, *, ask_usage: bool, drop_usage: bool, changes: dict[str, Any] | None
    ) -> bytes:
        """Return the JSON body for one attempt.

        `model`: the upstream's name of the model. `ask_usage`, `drop_usage`: as `Generation.upstream_body` has them.
        `changes`: fields of the chat request that a recovery has changed.
        """

    def in_background(self, body: bytes, generation: Generation, when: Background) -> bytes | None:  # noqa: ARG002
        """Return the body of a request whose answer goes on at the upstream if its connection breaks.

        None: this request is not to be made so, or the API has no such answers. `when`: see `Upstream.background`.
        """
        return None

    def translator(self) -> Translator | None:
        """Return what reads the events of one attempt. None: they are chunks already."""
        return None

    # The next two are asked only of an API whose translators have a `running` answer, and get its id.

    def again(self, running: str) -> str:  # noqa: ARG002
        """Return the path that gives a running answer from its first event."""
        return ""

    def cancelling(self, running: str) -> str:  # noqa: ARG002
        """Return the path to which a POST ends a running answer."""
        return ""

    def whole(self, answer: Chunk) -> Chunk:
        """Return an answer that was not streamed as a chat completion. Raises UpstreamError if it cannot be read."""
        return answer


class ChatApi(UpstreamApi):
    """OpenAI's chat completions (https://platform.openai.com/docs/api-reference/chat)."""

    name = CHAT
    path = "/chat/completions"

    def body(
        self, generation: Generation, model: str, *, ask_usage: bool, drop_usage: bool, changes: dict[str, Any] | None
    ) -> bytes:
        """Return the chat request."""
        return generation.upstream_body(model, ask_usage=ask_usage, drop_usage=drop_usage, changes=changes)
