"""Counters of what one turn has delivered so far, over all its attempts. The texts themselves are in the log."""

from typing import Any

from server.core.openai.chunks import ONCE_FIELDS, REASONING_FIELDS, Chunk, identity, index_of
from server.core.openai.finish_reasons import is_cut_short
from server.core.openai.usage import measured


class Transcript:
    """Takes every chunk that is about to be delivered. Its memory does not grow."""

    __slots__ = (
        "calls",
        "choices",
        "finish",
        "first",
        "reasoning",
        "tokens",
        "usage",
        "usage_shown",
    )

    def __init__(self, choices: int = 1) -> None:
        self.choices = choices
        self.first: Chunk = {}  # identity of the first delivered chunk
        self.tokens = 0  # content chunks, as the native protocol counts them
        self.finish: dict[int, str] = {}  # finish reason by choice
        self.reasoning = False
        self.calls = False  # tool calls or audio, which a client must not get twice
        self.usage: dict[str, Any] | None = None  # of the attempt that is running
        self.usage_shown = False  # the upstream's own usage chunk has gone out

    @property
    def finished(self) -> bool:
        """Whether every choice that was asked for has a finish reason."""
        return len(self.finish) >= self.choices

    @property
    def closing(self) -> bool:
        """Whether only usage and `[DONE]` can be missing.

        Gemini writes `stop` into every chunk, also into those of its thoughts, and the answer comes after a pause. So
        `stop` beside reasoning alone closes nothing.
        """
        if len(self.finish) < self.choices:
            return False
        thoughts = self.reasoning and not self.tokens and not self.calls
        return not thoughts or any(map(is_cut_short, self.finish.values()))

    def reopen(self) -> None:
        """Forget finish reasons that have closed nothing: another attempt may say more."""
        if self.finished and not self.closing:
            self.finish.clear()

    @property
    def begun(self) -> bool:
        """Whether anything has been delivered."""
        return bool(self.first) or self.tokens > 0

    def observe_token(self, chunk: Any) -> bool:
        """Count a chunk that holds one piece of content and nothing else. Return False for any other chunk or value.

        Nearly every frame is such a chunk. It needs no further check.
        """
        try:
            (choice,) = chunk["choices"]
            delta = choice["delta"]
            content = delta["content"]
            plain = (
                content.__class__ is str
                and len(delta) == 1
                and choice["finish_reason"] is None
                and choice["index"].__class__ is int
            )
        except (KeyError, TypeError, ValueError):
            return False
        if not plain or not content or chunk.get("usage") or chunk.get("error") or chunk.get("object") == "error":
            return False
        self.tokens += 1
        return True

    def observe(self, chunk: Chunk) -> None:
        """Count one chunk."""
        if not self.first:
            self.first = identity(chunk) or {"id": ""}
        choices = chunk.get("choices")
        for choice in choices or ():
            if delta := choice.get("delta"):
                content = delta.get("content")
                if content:
                    self.tokens += 1
                if not content or len(delta) > 1 or not isinstance(content, str):
                    self._observe_other_fields(delta)
            if reason := choice.get("finish_reason"):
                self.finish[index_of(choice)] = reason
        if usage := chunk.get("usage"):
            self.observe_usage(usage)
            self.usage_shown = self.usage_shown or not choices

    def _observe_other_fields(self, delta: Chunk) -> None:
        """Note what a delta has beside a plain content text."""
        # Content may be a list of parts (Mistral). It holds reasoning as well, and cannot be continued as a text.
        parts = not isinstance(delta.get("content") or "", str)
        self.reasoning = self.reasoning or parts or any(delta.get(name) for name in REASONING_FIELDS)
        self.calls = self.calls or any(delta.get(name) for name in ONCE_FIELDS)

    def observe_whole(self, answer: Chunk) -> None:
        """Count a whole, non-streaming answer."""
        choices = answer.get("choices")
        for index, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict) and isinstance(choice.get("finish_reason"), str):
                self.finish[index] = choice["finish_reason"]
        self.observe_usage(answer.get("usage"))
        self.tokens = (self.usage or {}).get("completion_tokens", 0)

    def observe_usage(self, usage: object) -> None:
        """Keep the upstream's own count. A later one (a running total) replaces an earlier one."""
        self.usage = measured(usage) or self.usage
