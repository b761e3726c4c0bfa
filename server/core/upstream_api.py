"""What an upstream speaks: how it is asked, and what the things that it sends mean.

The relay works with one meaning, that of OpenAI's chat completions: a request is a chat request, and a piece of an
answer means a chunk. An upstream that speaks another API is asked in that API, and its events are translated. The
events themselves are kept as they came, for a client that speaks the same API.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from server.core.generation import Generation
from server.core.openai.chunks import Chunk
from server.core.openai.sse import Event

CHAT = "chat"


class Piece(NamedTuple):
    """What an upstream said: its bytes as they came, what they mean, and the API that they are in.

    `chunk` has no choices if the bytes mean nothing for the answer. It may be empty if the reader did not need it.
    """

    data: bytes
    chunk: Chunk
    api: str = CHAT


class Translator(Protocol):
    """Reads the events of one attempt."""

    done: bool  # the upstream has said that its answer is over

    def read(self, event: Event) -> Sequence[Piece]:
        """Return what an event means: usually one piece. Raises UpstreamError if it is an error or cannot be read."""


class UpstreamApi(Protocol):
    """One API of model servers. It has no state of any stream: its translators have. Classes inherit the defaults."""

    name: str  # as `api` of [[upstreams]] gives it
    path: str  # below `base_url`

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

    def translator(self) -> Translator | None:
        """Return what reads the events of one attempt. None: they are chunks already."""
        return None

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
