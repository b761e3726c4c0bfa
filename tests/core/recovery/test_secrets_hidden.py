"""In which forms a secret is found in an upstream's words."""

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.recovery.secrets import HIDDEN, Secrets

KEY = "sk-live+0123/456 789"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"Bearer {KEY}.",
        quote(KEY),
        quote(KEY, safe=""),
        KEY.encode().hex(),
        KEY.encode().hex().upper(),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
        base64.b64encode(f"Bearer {KEY}".encode()).decode(),
        base64.b64encode(f"user:{KEY}".encode()).decode(),
        base64.b64encode(f"{KEY}:".encode()).decode(),
        f"{KEY}{KEY}",
    ],
)
def test_forms(text: str) -> None:
    """As it is, in a URL, in hexadecimal, and in base64 with anything around it."""
    hidden = Secrets([KEY]).hide(f"refused: {text}")
    assert HIDDEN in hidden
    assert hidden.startswith("refused: ")
    for part in (KEY[:10], KEY[-10:], KEY.encode().hex()[:16]):
        assert part not in hidden


@given(st.binary(max_size=20), st.binary(max_size=20), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
def test_base64_with_anything_around(before: bytes, after: bytes, encode) -> None:
    """Whatever stands before and after a secret, of its base64 at most three characters at each end are left."""
    encoded = encode(before + KEY.encode() + after).decode()
    hidden = Secrets([KEY]).hide(encoded)
    assert hidden.count(HIDDEN) >= 1
    assert len(hidden) <= len(encoded) - (len(KEY) * 8 // 6 - 3) + len(HIDDEN)


def test_what_is_not_hidden() -> None:
    """Short values would hide words, and without secrets nothing is hidden."""
    assert Secrets(["on", None, ""]).hide("on and on") == "on and on"
    assert Secrets([]).hide(KEY) == KEY
