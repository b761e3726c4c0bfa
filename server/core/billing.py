"""The usage of one stream: the count that its client is shown, and the bill for all attempts together."""

from collections.abc import Mapping, Sequence
from typing import Any

from server.core.openai.transcript import Transcript
from server.core.openai.usage import COUNTS, DETAILS, MAX_COUNT, estimate, prompt_bytes

Usage = dict[str, Any]


class Bill:
    """Follows the usage of one stream over its attempts.

    The client is shown the prompt once and the completion that was delivered to it. A restart repeats the whole
    completion, so the upstream's count of it is exact. A continuation's count covers only its own part, so the client
    is then shown an estimate.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._prompt: int | None = None  # bytes of its texts, once they were counted: a prompt may have 8 MB
        self._settled: list[Usage] = []
        self._earlier_turns: list[Usage] = []  # as shown, one for each turn that is over
        self._tokens_at_start = 0  # tokens delivered when the running attempt began
        self._running = False
        self._continued = False
        self._was_billed = False  # the attempt that was settled last

    def begin(self, transcript: Transcript, *, continued: bool) -> None:
        """Note that an attempt begins. `continued`: it goes on from the delivered text and does not repeat it."""
        transcript.usage = None
        self._continued = continued
        self._tokens_at_start = transcript.tokens
        self._running = True

    def resume(self) -> None:
        """Note that the attempt that was settled last goes on: its answer is billed once."""
        if self._was_billed:
            self._settled.pop()
        self._was_billed, self._running = False, True

    def settle(self, transcript: Transcript, *, has_token: bool, restarted: bool) -> None:
        """Note that an attempt is over, and bill it if it sent anything.

        `has_token`: it sent a token. `restarted`: it repeated the delivered text from the start.
        """
        self._running = False
        self._was_billed = has_token or transcript.usage is not None
        if self._was_billed:
            tokens = transcript.tokens if restarted else transcript.tokens - self._tokens_at_start
            self._settled.append(transcript.usage or self._estimate(tokens))

    def next_turn(self, transcript: Transcript, request: Mapping[str, Any]) -> None:
        """Note that a turn is over. The next one sends `request` and has a transcript of its own."""
        self._earlier_turns.append(self._turn_usage(transcript))
        self._request, self._prompt = request, None
        self._continued = False

    def shown(self, transcript: Transcript) -> Usage:
        """Return the usage of the stream as its client sees it, summed over its turns, with `measured`."""
        last = self._turn_usage(transcript)
        if not self._earlier_turns:
            return last
        turns = [*self._earlier_turns, last]
        return {**_sum(turns), "measured": all(usage["measured"] for usage in turns)}

    def _turn_usage(self, transcript: Transcript) -> Usage:
        if transcript.usage is not None and not self._continued:
            return {**transcript.usage, "measured": True}
        return self._estimate(transcript.tokens)

    def total(self, transcript: Transcript) -> Usage:
        """Return what was billed over all attempts, the running one included."""
        parts = list(self._settled)
        if self._running and (transcript.usage is not None or transcript.tokens > self._tokens_at_start):
            parts.append(transcript.usage or self._estimate(transcript.tokens - self._tokens_at_start))
        return {**_sum(parts), "attempts": len(parts), "measured": all(part.get("measured", True) for part in parts)}

    def _estimate(self, completion: int) -> Usage:
        if self._prompt is None:
            self._prompt = prompt_bytes(self._request)
        return estimate(self._prompt, completion)


def _sum(parts: Sequence[Usage]) -> Usage:
    total: Usage = _sums(parts, COUNTS)
    for name, counts in DETAILS.items():
        details = [part[name] for part in parts if name in part]
        if details:
            total[name] = _sums(details, [count for count in counts if any(count in one for one in details)])
    return total


def _sums(parts: Sequence[Usage], names: Sequence[str]) -> dict[str, int]:
    return {name: min(sum(part.get(name, 0) for part in parts), MAX_COUNT) for name in names}
