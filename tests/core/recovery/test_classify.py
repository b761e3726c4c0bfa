"""What an upstream's own errors mean: statuses, codes, credentials, `Retry-After`."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest

from server.core.errors import Kind
from server.core.recovery.classify import from_status, in_band, parse_retry_after

NOW = 1_800_000_000.0  # in January 2027
STATUSES = {
    400: Kind.BAD_REQUEST,
    401: Kind.AUTH,
    402: Kind.QUOTA,
    403: Kind.AUTH,
    404: Kind.REFUSED,
    405: Kind.REFUSED,
    406: Kind.REFUSED,
    407: Kind.AUTH,
    408: Kind.REQUEST_TIMEOUT,
    409: Kind.CONFLICT,
    410: Kind.REFUSED,
    412: Kind.REFUSED,
    413: Kind.TOO_LARGE,
    414: Kind.REFUSED,
    415: Kind.REFUSED,
    418: Kind.BAD_REQUEST,
    421: Kind.NOT_READY,
    422: Kind.BAD_REQUEST,
    423: Kind.NOT_READY,
    424: Kind.NOT_READY,
    425: Kind.NOT_READY,
    426: Kind.REFUSED,
    429: Kind.RATE_LIMIT,
    451: Kind.REFUSED,
    498: Kind.RATE_LIMIT,
    499: Kind.NOT_READY,
    500: Kind.OVERLOADED,
    501: Kind.OVERLOADED,
    502: Kind.OVERLOADED,
    503: Kind.OVERLOADED,
    504: Kind.OVERLOADED,
    520: Kind.OVERLOADED,
    521: Kind.OVERLOADED,
    522: Kind.OVERLOADED,
    523: Kind.OVERLOADED,
    524: Kind.OVERLOADED,
    530: Kind.OVERLOADED,
    529: Kind.OVERLOADED,
    599: Kind.OVERLOADED,
}


@pytest.mark.parametrize("body", [None, "", "words", {}, [], 5, {"error": {"message": "words"}}])
def test_every_status(body: Any) -> None:
    """Every status has its kind, whatever the body is, and is kept, except 401, 403, 407 and what is no error."""
    for status in range(300, 600):
        error = from_status(status, body, None, NOW)
        wanted = STATUSES.get(status, Kind.BAD_REQUEST if 400 <= status < 500 else Kind.OVERLOADED)
        assert (status, error.kind) == (status, wanted)
        assert error.http_status == (502 if status in (401, 403, 407) or status < 400 else status)
        assert error.message


SECRET = "sk-live-0123456789"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "body", [{"error": {"message": f"Incorrect API key: {SECRET}", "code": SECRET}}, f"key {SECRET}"]
)
def test_refused_credentials(status: int, body: Any) -> None:
    """An upstream that refuses the gateway's key may quote it: nothing of its words goes on."""
    error = from_status(status, body, "5", NOW)
    assert (error.kind, error.http_status) == (Kind.AUTH, 502)
    assert SECRET not in repr(error)
    assert orjson.dumps(error.body()).find(SECRET.encode()) == -1
    assert error.body()["error"]["code"] == "upstream_auth"


@pytest.mark.parametrize("name", ["code", "type"])
@pytest.mark.parametrize("word", ["invalid_api_key", "authentication_error", "API_KEY_INVALID", "permission_error"])
def test_refused_credentials_in_words(name: str, word: str) -> None:
    """The same holds if only the message of a 400 or of an in-band error tells it."""
    body = {"error": {"message": f"Incorrect API key: {SECRET}", name: word}}
    for error in (from_status(400, body, None, NOW), in_band(body)):
        assert (error.kind, error.http_status) == (Kind.AUTH, 502)
        assert SECRET not in repr(error)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (401, Kind.AUTH),
        (403, Kind.AUTH),
        (404, Kind.REFUSED),
        (408, Kind.REQUEST_TIMEOUT),
        (429, Kind.RATE_LIMIT),
        ("429", Kind.RATE_LIMIT),
        ("rate_limit_exceeded", Kind.RATE_LIMIT),
        ("insufficient_quota", Kind.QUOTA),
        ("content_filter", Kind.CONTENT_POLICY),
        ("context_length_exceeded", Kind.CONTEXT_LENGTH),
        (400, Kind.BAD_REQUEST),
        (500, Kind.OVERLOADED),
        (502, Kind.OVERLOADED),
        ("server_error", Kind.IN_BAND),
        (None, Kind.IN_BAND),
        (True, Kind.IN_BAND),
        (200, Kind.IN_BAND),
        (1.5, Kind.IN_BAND),
        ([429], Kind.IN_BAND),
    ],
)
def test_in_band_codes(code: Any, kind: Kind) -> None:
    """An error event has no status of its own: its code says what it is, as a number or as a word."""
    assert in_band({"error": {"message": "x", "code": code}}).kind is kind


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0), ("0", 0.0), ("1.5", 1.5), (" 3 ", 3.0), ("-4", 0.0), ("007", 7.0),
        ("3600", 3600.0), ("3601", 3600.0), ("100000000000000000000", 3600.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("", None), (None, None), ("soon", None), ("nan", None), ("inf", None), ("1e999", None), ("2, 3", None),
        ("Wed, 99 Foo 2020 99:99:99 GMT", None), ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
    ],
)  # fmt: skip
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds and dates are read, from zero to an hour. Anything else counts as no header."""
    assert parse_retry_after(value, NOW) == seconds


def test_retry_after_dates() -> None:
    """The three forms of a date that RFC 9110 wants understood mean the same moment."""
    when = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=100)
    for text in (
        format_datetime(when, usegmt=True),
        when.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        when.strftime("%a %b %d %H:%M:%S %Y"),
    ):
        assert parse_retry_after(text, NOW) == 100, text


def test_retry_after_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Retry-After` belongs to the error of any status, as seconds; a zone other than GMT does not shift it."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert from_status(503, None, "7", NOW).retry_after == 7.0
        assert parse_retry_after("Sun Nov  6 08:49:37 1994", NOW) == 0.0
        test_retry_after_dates()
    finally:
        monkeypatch.undo()
        time.tzset()
