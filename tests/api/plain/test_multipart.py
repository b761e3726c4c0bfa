"""The scanner of multipart bodies: what it passes, with the model put back, is what came; two meanings are refused."""

import io

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.plain.multipart import MAX_HEAD, MAX_MODEL, MAX_PARTS, FormScanner, boundary_of
from server.core.errors import Rejected

NAME = b'Content-Disposition: form-data; name="model"'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav'


def body(*parts: tuple[bytes, bytes], boundary: bytes = b"xX") -> bytes:
    """Write a body of parts, each a head and its content."""
    return b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts) + b"--%b--\r\n" % boundary


def scan(data: bytes, sizes: list[int], boundary: str = "xX") -> tuple[FormScanner, bytes]:
    """Feed a body in pieces of these sizes, in turn; return what was passed."""
    scanner, passed, at, turn = FormScanner(boundary), b"", 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        passed += scanner.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    scanner.end()
    return scanner, passed


CONTENT = st.binary(max_size=200) | st.sampled_from([b"", b"\r\n", b"\r\n--", b"\r\n--x", b"--", b"\r\n\r\n--x\r\n--"])
OTHERS = st.lists(st.tuples(st.sampled_from([FILE, b'content-disposition:form-data;name=a;filename="m"']), CONTENT))


@given(OTHERS, OTHERS, st.text(alphabet="abc/-:é", max_size=30), st.lists(st.integers(1, 64), min_size=1))
def test_what_passes(before, after, model, sizes) -> None:
    """However a body is cut into pieces, all of it is passed but the model's name, whose place is known."""
    data = body(*before, (NAME, model.encode()), *after)
    if any(b"--xX" in content for _, content in (*before, *after)):
        return
    scanner, passed = scan(data, sizes)
    assert scanner.model == model
    assert passed[: scanner.model_at] + model.encode() + passed[scanner.model_at :] == data


@given(OTHERS.filter(bool), st.lists(st.integers(1, 64), min_size=1))
def test_no_model(parts, sizes) -> None:
    """A body without a model is passed as it is; a part with one fits before it."""
    data = body(*parts)
    if any(b"--xX" in content for _, content in parts):
        return
    scanner, passed = scan(data, sizes)
    assert (scanner.model, passed) == (None, data)
    assert scan(scanner.missing_model("m") + data, [7])[0].model == "m"


def test_what_a_client_sends() -> None:
    """A body of the SDK's own HTTP client is understood, with the model behind the file or before it."""
    for order in (["model", "file"], ["file", "model"]):
        files = {"model": (None, "whisper-1"), "file": ('a"b.wav', io.BytesIO(b"\r\n--" * 1000), "audio/wav")}
        request = httpx2.Request("POST", "http://h", files=[(name, files[name]) for name in order])
        boundary = boundary_of(request.headers["Content-Type"])
        data = request.read()
        assert scan(data, [100], boundary)[0].model == "whisper-1"


TWO = body((NAME, b"a"), (FILE, b"x"), (NAME, b"b"))
REFUSED = {
    "two models": TWO,
    "two models, one as a file": body((NAME, b"a"), (NAME + b'; filename="m"', b"b")),
    "two models in other words": body((NAME, b"a"), (b"CONTENT-DISPOSITION: Form-Data; NAME=model", b"b")),
    "an escaped name": body((b'Content-Disposition: form-data; name="mo\\del"', b"a")),
    "an encoded name": body((b"Content-Disposition: form-data; name*=utf-8''model", b"a")),
    "two names": body((b'Content-Disposition: form-data; name="file"; name="model"', b"a")),
    "no name": body((b"Content-Disposition: form-data", b"a")),
    "two dispositions": body((FILE + b"\r\n" + NAME, b"a")),
    "no disposition": body((b"Content-Type: text/plain", b"a")),
    "another disposition": body((b'Content-Disposition: attachment; name="model"', b"a")),
    "a folded field": body((b'Content-Disposition: form-data;\r\n name="model"', b"a")),
    "a bare line end in a head": body((b'X: a\nContent-Disposition: form-data; name="model"', b"a")),
    "a coded model": body((NAME + b"\r\nContent-Transfer-Encoding: base64", b"bW9kZWw=")),
    "a model that is no text": body((NAME, b"\xff")),
    "a long model": body((NAME, b"m" * (MAX_MODEL + 1))),
    "a delimiter after a bare line end": body((FILE, b"x\n--xX\r\n" + NAME + b"\r\n\r\nb")),
    "a delimiter in the middle of a line": body((FILE, b"x--xX--")),
    "a longer delimiter": body((FILE, b"x\r\n--xXx\r\n")),
    "a delimiter with a space": body((FILE, b"x\r\n--xX \r\n")),
    "something before": b"preamble\r\n" + body((NAME, b"a")),
    "something behind": body((NAME, b"a")) + b"--xX\r\n" + NAME + b"\r\n\r\nb\r\n--xX--\r\n",
    "nothing": b"",
    "no end": body((NAME, b"a"))[:-4],
    "no content": b"--xX\r\n" + NAME,
    "a long head": body((b"X: " + b"y" * MAX_HEAD + b"\r\n" + NAME, b"a")),
    "many parts": body(*[(FILE, b"")] * (MAX_PARTS + 1)),
    "JSON": b'{"model": "a"}',
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("size", [1, 1000, 1_000_000])
def test_what_could_be_read_in_two_ways(why: str, size: int) -> None:
    """A body in which an upstream could see another model is 400, and so is one that is broken."""
    with pytest.raises(Rejected) as refused:
        scan(REFUSED[why], [size])
    assert (refused.value.status, refused.value.code) == (400, "invalid_multipart")


BOUNDARIES = {
    "multipart/form-data; boundary=abc": "abc",
    'multipart/form-data; boundary="a=b c"': None,
    'multipart/form-data; charset=utf-8; Boundary="a=b"': "a=b",
    "multipart/form-data; boundary=----WebKitFormBoundaryX ; x=y": "----WebKitFormBoundaryX",
    "multipart/form-data": None,
    "multipart/form-data; boundary=": None,
    "multipart/form-data; boundary=a; boundary=b": None,
    "multipart/form-data; boundary=" + "a" * 71: None,
    "multipart/form-data; boundary=é": None,
}


@pytest.mark.parametrize("kind", BOUNDARIES)
def test_boundary(kind: str) -> None:
    """The boundary is that of RFC 2046, named once."""
    if (boundary := BOUNDARIES[kind]) is not None:
        assert boundary_of(kind) == boundary
    else:
        with pytest.raises(Rejected):
            boundary_of(kind)
