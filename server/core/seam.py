"""Joining a later attempt's text to what was delivered, so that a reader sees one text.

`Suppression` serves a restart: the same request, told again; equal text is swallowed, and the first character beyond
what was delivered is the first to go out. `Trim` serves a continuation: the upstream was given the delivered text
and goes on from it, but may repeat white space or the whole of it first.
"""

from collections.abc import Mapping
from typing import Any

from server.core.chunks import SUBSTANCE_FIELDS, TEXT_FIELDS, Chunk, has_substance
from server.core.errors import Kind, UpstreamError

Texts = dict[tuple[int, str], str]  # delivered text by choice and field of the delta

MIN_OVERLAP = 12  # characters: a shorter repetition is more often style ("ha ha") than an echo
MAX_OVERLAP = 2000  # characters of the delivered end that a user turn may have quoted back


def diverged() -> UpstreamError:
    """Return the error of an attempt that told another story than the one delivered."""
    return UpstreamError(Kind.DIVERGED, "A restarted attempt gave a different text than the one already delivered.")


class Suppression:
    """Verified prefix suppression: swallow exactly what was delivered, raise on anything else."""

    def __init__(self, delivered: Texts, finished: Mapping[int, str] | None = None) -> None:
        self._left = {key: text for key, text in delivered.items() if text}
        self._finished = dict(finished or {})  # choices that had ended already: they must end again, and say no more

    def join(self, chunk: Chunk) -> list[Chunk]:
        """Return the part of `chunk` that lies beyond the delivered text.

        Raises:
            UpstreamError: the texts differ, or a choice finished inside the delivered prefix.

        """
        choices = [joined for choice in chunk["choices"] if (joined := self._join_choice(choice)) is not None]
        return [{**chunk, "choices": choices}] if choices else []

    def _join_choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        index, delta = choice.get("index", 0), dict(choice.get("delta") or {})
        delta.pop("role", None)
        crossed = False
        for name in TEXT_FIELDS:
            text, left = delta.get(name), self._left.get((index, name))
            if not text or not left:
                continue
            if len(text) <= len(left):
                if not left.startswith(text):
                    raise diverged()
                self._left[index, name] = left[len(text) :]
                del delta[name]
            else:
                if not text.startswith(left):
                    raise diverged()
                del self._left[index, name]
                delta[name] = text[len(left) :]
            crossed = True
        joined = {**choice, "delta": delta}
        if has_substance(joined) and self._owes(index):
            raise diverged()  # something new before all of the old has been told again
        if index in self._finished and has_substance(joined):
            if any(delta.get(name) for name in SUBSTANCE_FIELDS) or joined["finish_reason"] != self._finished[index]:
                raise diverged()
            return None
        if crossed:
            joined.pop("logprobs", None)  # they describe tokens of which a part was delivered before
        return joined if has_substance(joined) else None

    def _owes(self, index: int) -> bool:
        return any(text for (choice, _), text in self._left.items() if choice == index)


class Trim:
    """Overlap trim at the seam of a continuation.

    `delivered` is the whole text so far, `stripped` the white space that was cut off its end for the upstream. `echo`:
    this upstream may send the whole prefix again. `turn`: it answers a user turn and may quote the end again.
    Both only where the upstream is known for it: an exact continuation may rightly repeat its own words.
    """

    def __init__(self, delivered: str, stripped: str = "", *, echo: bool = False, turn: bool = False) -> None:
        self._candidates = [delivered] if (echo or turn) and len(delivered) >= MIN_OVERLAP else []
        if turn:
            tail = delivered[-MAX_OVERLAP:]
            self._candidates += [tail[start:] for start in range(len(tail) - MIN_OVERLAP + 1)]
        if stripped:
            self._candidates += [stripped[start:] for start in range(len(stripped))]
        self._pending = ""
        self._open = bool(self._candidates)

    def join(self, chunk: Chunk) -> list[Chunk]:
        """Return what of `chunk` is new; text that may still turn out to be a repetition is held back."""
        if not self._open:
            return [_without_role(chunk)]
        choice = chunk["choices"][0]
        delta = choice.get("delta") or {}
        text = self._feed(delta.get("content") or "", final=bool(choice.get("finish_reason")))
        joined = {**choice, "delta": {**delta, "content": text}}
        joined["delta"].pop("role", None)
        joined.pop("logprobs", None)
        return [{**chunk, "choices": [joined]}] if has_substance(joined) else []

    def _feed(self, text: str, *, final: bool) -> str:
        self._pending += text
        if not final and any(
            len(one) > len(self._pending) and one.startswith(self._pending) for one in self._candidates
        ):
            return ""
        self._open = False
        overlap = max((len(one) for one in self._candidates if self._pending.startswith(one)), default=0)
        return self._pending[overlap:]


def _without_role(chunk: Chunk) -> Chunk:
    choice = chunk["choices"][0]
    delta = choice.get("delta") or {}
    if "role" not in delta:
        return chunk
    return {**chunk, "choices": [{**choice, "delta": {k: v for k, v in delta.items() if k != "role"}}]}
