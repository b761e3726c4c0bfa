"""Joins a later attempt's text to the delivered text, so that a reader sees one text.

`Suppression` is for a restart, which sends the same request again. It drops the text that was delivered; the first
character after it is the first to go out. `Trim` is for a continuation. Its upstream was given the delivered text and
goes on from there, but may first repeat white space or the whole text.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from server.core.errors import Kind, UpstreamError
from server.core.openai.chunks import (
    SUBSTANCE_FIELDS,
    TEXTS,
    Chunk,
    has_substance,
    index_of,
    others_of,
    says_anything,
    text_of,
    text_within,
)
from server.core.wide_json import halved, paired

Texts = dict[tuple[int, str], str]  # delivered text by choice and kind (chunks.TEXTS)
Others = Mapping[tuple[int, str], int]  # number of items that were delivered beside texts, by choice and field
NOTHING: Others = {}

MIN_OVERLAP = 12  # characters; a shorter repetition is more often style ("ha ha") than an echo
MAX_OVERLAP = 2000  # characters: how much of the delivered text's end an answer to a user turn may quote


def diverged() -> UpstreamError:
    """Return the error of an attempt whose text differs from the delivered one."""
    return UpstreamError(Kind.DIVERGED, "A restarted attempt gave a different text than the one already delivered.")


class Suppression:
    """Verified prefix suppression: drop exactly the delivered text, and raise if the new one differs.

    Texts are compared in halves of surrogate pairs, because an attempt may have been cut between two of them. Of what
    comes beside texts, as many items as were delivered are dropped: a second picture differs from the first one, but
    the client has one already.
    """

    def __init__(self, delivered: Texts, finished: Mapping[int, str] | None = None, others: Others = NOTHING) -> None:
        self._unmatched = {key: halved(text) for key, text in delivered.items() if text}  # not matched to its end yet
        # How many characters of each text have come again. It is a position, because cutting a long text is quadratic.
        self._matched = dict.fromkeys(self._unmatched, 0)
        self._finished = dict(finished or {})  # choices that have ended: they must end again, with nothing new
        self._others = dict(others)  # of these, items that have not come again yet

    def join(self, chunk: Chunk) -> list[Chunk]:
        """Return the part of `chunk` that lies beyond the delivered text.

        Raises:
            UpstreamError: the texts differ, or a choice finished inside the delivered prefix.

        """
        choices = [joined for choice in chunk["choices"] if (joined := self._join_choice(choice)) is not None]
        return [{**chunk, "choices": choices}] if choices else []

    def end(self) -> list[Chunk]:
        """Return nothing. Raises UpstreamError if the text ended inside the delivered prefix."""
        if self._unmatched:
            raise diverged()
        return []

    def _join_choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        index, delta = index_of(choice), dict(choice.get("delta") or {})
        delta.pop("role", None)
        compared: dict[str, str] = {}  # texts of the delta, each with its new part
        for kind, names in TEXTS.items():
            if (index, kind) in self._unmatched and (text := text_of(delta, kind)):
                compared[str(text)] = new = self._new_part((index, kind), text)
                for name in names:
                    if delta.pop(name, None) and new:
                        delta[name] = new
        self._drop_told_items(index, delta, compared)
        joined = {**choice, "delta": delta}
        unmatched = self._has_unmatched(index)
        if unmatched and has_substance(joined):
            raise diverged()  # something new, or the end, before the whole delivered text came again
        if index in self._finished:
            if not unmatched:
                self._verify_finish(index, joined)
            return None
        if unmatched or compared:
            joined.pop("logprobs", None)  # they describe tokens that were partly delivered before
        return joined if says_anything(joined) else None

    def _drop_told_items(self, index: int, delta: Chunk, compared: Mapping[str, str]) -> None:
        """Drop what a delta carries beside texts if it was told before."""
        for name, items in list(others_of(delta)):
            new = [kept for item in items if (kept := self._new_item(index, name, item, compared)) is not None]
            if not new:
                del delta[name]
            elif isinstance(delta[name], list):
                delta[name] = new

    def _new_item(self, index: int, name: str, item: Any, compared: Mapping[str, str]) -> Any:
        """Return the new part of an item, or None if it was told before."""
        if (key := text_within(item)) is not None:
            text = compared.get(item[key], item[key])
            return {**item, key: text} if text and not self._has_unmatched(index) else None
        if self._others.get((index, name)):
            self._others[index, name] -= 1
            return None
        return item

    def _new_part(self, key: tuple[int, str], text: object) -> str:
        """Return the part of `text` after the delivered text. Raises UpstreamError if it differs from it before."""
        delivered, matched = self._unmatched[key], self._matched[key]
        text = halved(text) if isinstance(text, str) else None
        if text is None or not (delivered.startswith(text, matched) or text.startswith(delivered[matched:])):
            raise diverged()
        self._matched[key] = matched + len(text)
        if self._matched[key] >= len(delivered):
            del self._unmatched[key]
        return paired(text[len(delivered) - matched :])

    def _has_unmatched(self, index: int) -> bool:
        return any(choice == index for choice, _ in self._unmatched)

    def _verify_finish(self, index: int, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason") or self._finished[index]
        if reason != self._finished[index] or any(choice["delta"].get(name) for name in SUBSTANCE_FIELDS):
            raise diverged()


class Trim:
    """Overlap trim at the seam of a continuation.

    `delivered` is the whole text so far, `stripped` the white space at its end that the upstream was not given. `echo`:
    this upstream may send the whole prefix again. `turn`: it answers a user turn and may quote the end again. Set them
    only for an upstream that is known to do so, because an exact continuation may repeat words on purpose.
    """

    def __init__(self, delivered: str, stripped: str = "", *, echo: bool = False, turn: bool = False) -> None:
        delivered, stripped = halved(delivered), halved(stripped)
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
        """Return the new part of `chunk`. Text that may still be a repetition is held back."""
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
        """Return the text that is still held back, because the upstream ended without a finish reason."""
        text = self._take("", final=True)
        return [{**self._last, "choices": [{"index": 0, "delta": {"content": text}}]}] if text else []

    def _take(self, text: str, *, final: bool) -> str:
        text = self._prefill.take(halved(text), final=final)
        return paired(self._space.take(text, final=final))


class _Overlap:
    """Removes a repetition from the start of a text: the longest end of `delivered` that it begins with.

    Each of `starts` is a position in `delivered` where such an end may begin.
    """

    def __init__(self, delivered: str, starts: Iterable[int]) -> None:
        self._delivered = delivered
        self._starts = list(starts)  # of the ends that may still match
        self._pending = ""
        self._overlap = 0

    def take(self, text: str, *, final: bool) -> str:
        """Return the new text. Text that may still become a repetition is held back, unless it is `final`."""
        if not self._starts:
            return text
        self._pending += text
        delivered, length = self._delivered, len(self._pending)
        for start in self._starts:
            if len(delivered) - start <= length and self._pending.startswith(delivered[start:]):
                self._overlap = max(self._overlap, len(delivered) - start)
        self._starts = [
            start
            for start in self._starts
            if len(delivered) - start > length and delivered.startswith(self._pending, start)
        ]
        if self._starts and not final:
            return ""
        self._starts = []
        return self._pending[self._overlap :]
