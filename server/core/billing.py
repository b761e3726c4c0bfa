"""What a stream used: the count shown to the client, and what all attempts together were billed for."""

from collections.abc import Sequence
from typing import Any

from server.core.openai.transcript import Transcript
from server.core.openai.usage import estimate, prompt_bytes

Usage = dict[str, Any]
TOTALS = ("prompt_tokens", "completion_tokens", "total_tokens")


class Bill:
    """Follows the usage of one stream over its attempts.

    The client is shown the prompt once and the completion that was delivered to it. A restart tells the whole
    completion again, so its own count is exact; a continuation counts only its part, so the sum is an estimate.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._settled: list[Usage] = []
        self._rounds: list[Usage] = []  # as shown, of the tool rounds that are over
        self._before = 0  # tokens delivered when the running attempt began
        self._running = False
        self._continued = False

    def begin(self, transcript: Transcript, *, continued: bool) -> None:
        """Note that an attempt begins; `continued`: it goes on from the delivered text instead of telling it again."""
        transcript.usage = None
        self._continued = continued
        self._before = transcript.tokens
        self._running = True

    def settle(self, transcript: Transcript, *, spoke: bool, restarted: bool) -> None:
        """Note that an attempt is over: bill it if it said anything."""
        self._running = False
        if spoke or transcript.usage is not None:
            made = transcript.tokens if restarted else transcript.tokens - self._before
            self._settled.append(transcript.usage or self._estimate(made))

    def next_round(self, transcript: Transcript, request: dict[str, Any]) -> None:
        """Note that a round is over; the next one asks with `request` and has a transcript of its own."""
        self._rounds.append(self._round(transcript))
        self._request = request
        self._continued = False

    def shown(self, transcript: Transcript) -> Usage:
        """Return the usage of the stream as its client sees it, summed over its rounds, with `measured`."""
        last = self._round(transcript)
        if not self._rounds:
            return last
        rounds = [*self._rounds, last]
        return {**_summed(rounds), "measured": all(one["measured"] for one in rounds)}

    def _round(self, transcript: Transcript) -> Usage:
        if transcript.usage is not None and not self._continued:
            return {**transcript.usage, "measured": True}
        return self._estimate(transcript.tokens)

    def total(self, transcript: Transcript) -> Usage:
        """Return what was billed over all attempts, the running one included."""
        parts = list(self._settled)
        if self._running and (transcript.usage is not None or transcript.tokens > self._before):
            parts.append(transcript.usage or self._estimate(transcript.tokens - self._before))
        return {**_summed(parts), "attempts": len(parts), "measured": all(part.get("measured", True) for part in parts)}

    def _estimate(self, completion: int) -> Usage:
        return estimate(prompt_bytes(self._request), completion)


def _summed(parts: Sequence[Usage]) -> Usage:
    return {name: sum(part[name] for part in parts) for name in TOTALS}
