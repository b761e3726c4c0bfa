"""The usage that the client is shown, and the tokens billed over all attempts and rounds."""

from typing import Any

from server.core.billing import Bill
from server.core.openai.transcript import Transcript

REQUEST = {"messages": [{"role": "user", "content": "x" * 40}]}  # ten tokens, as estimates go


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def say(transcript: Transcript, tokens: int, measured: dict[str, int] | None = None) -> None:
    """Deliver so many tokens, and the upstream's own count."""
    for _ in range(tokens):
        transcript.observe({"choices": [{"delta": {"content": "x"}}]})
    transcript.observe_usage(measured)


def begun() -> tuple[Bill, Transcript]:
    bill, transcript = Bill(REQUEST), Transcript()
    bill.begin(transcript, continued=False)
    return bill, transcript


def test_one_attempt() -> None:
    """The upstream's own count is shown as measured, with its details, and billed once."""
    bill, transcript = begun()
    say(transcript, 3, {**usage(9, 4), "prompt_tokens_details": {"cached_tokens": 8}})
    assert bill.shown(transcript) == {**usage(9, 4), "prompt_tokens_details": {"cached_tokens": 8}, "measured": True}
    billed = {**usage(9, 4), "prompt_tokens_details": {"cached_tokens": 8}, "attempts": 1, "measured": True}
    assert bill.total(transcript) == billed
    bill.settle(transcript, has_token=True, restarted=False)
    assert bill.total(transcript) == billed


def test_no_count() -> None:
    """Without the upstream's count the usage and the bill are estimates, marked as such."""
    bill, transcript = begun()
    say(transcript, 3)
    assert bill.shown(transcript) == {**usage(10, 3), "measured": False}
    assert bill.total(transcript) == {**usage(10, 3), "attempts": 1, "measured": False}


def test_attempt_that_said_nothing() -> None:
    """An attempt that failed before its first token costs nothing."""
    bill, transcript = begun()
    assert bill.total(transcript) == {**usage(0, 0), "attempts": 0, "measured": True}
    bill.settle(transcript, has_token=False, restarted=False)
    assert bill.total(transcript) == {**usage(0, 0), "attempts": 0, "measured": True}


def test_restart() -> None:
    """A restart repeats the text: its count is what the client got, and both attempts are billed."""
    bill, transcript = begun()
    say(transcript, 3)
    bill.settle(transcript, has_token=True, restarted=False)
    bill.begin(transcript, continued=False)
    say(transcript, 2, usage(9, 5))
    bill.settle(transcript, has_token=True, restarted=True)
    assert bill.shown(transcript) == {**usage(9, 5), "measured": True}
    assert bill.total(transcript) == {**usage(10 + 9, 3 + 5), "attempts": 2, "measured": False}


def test_continuation() -> None:
    """A continuation counts only its own part. So the client is shown an estimate of the prompt and all its text."""
    bill, transcript = begun()
    say(transcript, 3, usage(9, 3))
    bill.settle(transcript, has_token=True, restarted=False)
    bill.begin(transcript, continued=True)
    say(transcript, 2, usage(14, 2))
    assert bill.shown(transcript) == {**usage(10, 5), "measured": False}
    assert bill.total(transcript) == {**usage(9 + 14, 3 + 2), "attempts": 2, "measured": True}


def test_counts_of_odd_types() -> None:
    """A total that is no number, or not there, does not cost a stream its ending."""
    for total in ("5", None, [], {}):
        bill, transcript = begun()
        odd: dict[str, Any] = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": total}
        say(transcript, 1, odd)
        assert bill.total(transcript)["completion_tokens"] == 3
        assert bill.total(transcript)["total_tokens"] == 5
        assert bill.shown(transcript)["total_tokens"] == 5


def test_rounds() -> None:
    """Over tool rounds the client is shown the sum, measured only if all were."""
    bill, first = begun()
    say(first, 2, usage(9, 2))
    bill.settle(first, has_token=True, restarted=False)
    bill.next_turn(first, {"messages": [{"content": "x" * 80}]})
    second = Transcript()
    bill.begin(second, continued=False)
    say(second, 4)
    assert bill.shown(second) == {**usage(9 + 20, 2 + 4), "measured": False}
    say(second, 0, usage(30, 4))
    assert bill.shown(second) == {**usage(9 + 30, 2 + 4), "measured": True}
    assert bill.total(second) == {**usage(9 + 30, 2 + 4), "attempts": 2, "measured": True}
