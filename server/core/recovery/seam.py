"""Joining a later attempt's text to what was delivered, so that a reader sees one text.

`Suppression` serves a restart: the same request, told again; equal text is swallowed, and the first character beyond
what was delivered is the first to go out. `Trim` serves a continuation: the upstream was given the delivered text
and goes on from it, but may repeat white space or the whole of it first.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from server.core.errors import Kind, UpstreamError
from server.core.openai.chunks import SUBSTANCE_FIELDS, TEXTS, Chunk, has_substance, index_of, says_anything, text_of

Texts = dict[tuple[int, str], str]  # delivered text by choice and kind (chunks.TEXTS)

MIN_OVERLAP = 12  # characters: a shorter repetition is more often style ("ha ha") than an echo
MAX_OVERLAP = 2000  # characters of the delivered end that a user turn may have quoted back


def diverged() -> UpstreamError:
    """Return the error of an attempt that told another story than the one delivered."""
    return UpstreamError(Kind.DIVERGED, "A restarted attempt gave a different text than the one already delivered.")


class Suppression:
    """Verified prefix suppression: swallow exactly what was delivered, raise on anything else."""

    def __init__(self, delivered: Texts, finished: Mapping[int, str] | None = None) -> None:
        self._owed = {key: text for key, text in delivered.items() if text}  # not told again to its end yet
        self._told = dict.fromkeys(self._owed, 0)  # characters of it (a position: cutting a long text is quadratic)
        self._finished = dict(finished or {})  # choices that had ended already: they must end again, and say no more

    def join(self, chunk: Chunk) -> list[Chunk]:
        """Return the part of `chunk` that lies beyond the delivered text.

        Raises:
            UpstreamError: the texts differ, or a choice finished inside the delivered prefix.

        """
        choices = [joined for choice in chunk["choices"] if (joined := self._join_choice(choice)) is not None]
        return [{**chunk, "choices": choices}] if choices else []

    def end(self) -> list[Chunk]:
        """Return nothing. Raises UpstreamError where the text ended inside the delivered prefix."""
        if self._owed:
            raise diverged()
        return []

    def _join_choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        index, delta = index_of(choice), dict(choice.get("delta") or {})
        delta.pop("role", None)
        crossed = False
        for kind, names in TEXTS.items():
            if (index, kind) in self._owed and (text := text_of(delta, kind)):
                crossed = True
                beyond = self._beyond((index, kind), text)
                for name in names:
                    if delta.pop(name, None) and beyond:
                        delta[name] = beyond
        joined = {**choice, "delta": delta}
        if self._owes(index):
            if has_substance(joined):
                raise diverged()  # something new, or the end, before all of the old has been told again
            return None
        if index in self._finished:
            self._verify_finish(index, joined)
            return None
        if crossed:
            joined.pop("logprobs", None)  # they describe tokens of which a part was delivered before
            return joined if has_substance(joined) else None
        return joined if says_anything(joined) else None

    def _beyond(self, key: tuple[int, str], text: object) -> str:
        """Return what of `text` lies beyond the delivered one. Raises UpstreamError where it differs before that."""
        owed, told = self._owed[key], self._told[key]
        if not isinstance(text, str) or not (owed.startswith(text, told) or text.startswith(owed[told:])):
            raise diverged()
        self._told[key] = told + len(text)
        if self._told[key] >= len(owed):
            del self._owed[key]
        return text[len(owed) - told :]

    def _owes(self, index: int) -> bool:
        return any(choice == index for choice, _ in self._owed)

    def _verify_finish(self, index: int, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason") or self._finished[index]
        if reason != self._finished[index] or any(choice["delta"].get(name) for name in SUBSTANCE_FIELDS):
            raise diverged()


class Trim:
    """Overlap trim at the seam of a continuation.

    `delivered` is the whole text so far, `stripped` the white space that was cut off its end for the upstream. `echo`:
    this upstream may send the whole prefix again. `turn`: it answers a user turn and may quote the end again.
    Both only where the upstream is known for it: an exact continuation may rightly repeat its own words.
    """

    def __init__(self, delivered: str, stripped: str = "", *, echo: bool = False, turn: bool = False) -> None:
        prefill = delivered.removesuffix(stripped)
        starts: set[int] = set()
        if (echo or turn) and len(prefill) >= MIN_OVERLAP:
            starts.add(0)
        if turn:
            starts.update(range(max(0, len(prefill) - MAX_OVERLAP), len(prefill) - MIN_OVERLAP + 1))
        self._prefill = _Overlap(prefill, starts)
        self._space = _Overlap(stripped, range(len(stripped)))
        self._last: Chunk = {}

    def join(self, chunk: Chunk) -> list[Chunk]:
        """Return what of `chunk` is new; text that may still turn out to be a repetition is held back."""
        self._last, choice = chunk, chunk["choices"][0]
        delta = {name: value for name, value in (choice.get("delta") or {}).items() if name != "role"}
        content = delta.get("content")
        text = content if isinstance(content, str) else ""
        new = self._take(text, final=bool(choice.get("finish_reason")))
        joined = {**choice, "delta": delta}
        if new != text:
            delta["content"] = new
            joined.pop("logprobs", None)
        return [{**chunk, "choices": [joined]}] if says_anything(joined) else []

    def end(self) -> list[Chunk]:
        """Return what was held back, where the upstream ended without a finish reason."""
        text = self._take("", final=True)
        return [{**self._last, "choices": [{"index": 0, "delta": {"content": text}}]}] if text else []

    def _take(self, text: str, *, final: bool) -> str:
        return self._space.take(self._prefill.take(text, final=final), final=final)


class _Overlap:
    """Takes the longest of some ends of `told` (from `starts` on) away from the start of what follows."""

    def __init__(self, told: str, starts: Iterable[int]) -> None:
        self._told = told
        self._starts = list(starts)  # of the ends that may still come whole
        self._pending = ""
        self._overlap = 0

    def take(self, text: str, *, final: bool) -> str:
        """Return what is new. Text is held back while it may grow into a repetition, and not if it is `final`."""
        if not self._starts:
            return text
        self._pending += text
        told, length = self._told, len(self._pending)
        for start in self._starts:
            if len(told) - start <= length and self._pending.startswith(told[start:]):
                self._overlap = max(self._overlap, len(told) - start)
        self._starts = [
            start for start in self._starts if len(told) - start > length and told.startswith(self._pending, start)
        ]
        if self._starts and not final:
            return ""
        self._starts = []
        return self._pending[self._overlap :]
