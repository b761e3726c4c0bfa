"""The tree of errors: OpenAI's bodies, and what each kind of upstream failure means."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import server
from server.core import errors
from server.core.errors import (
    TRAITS,
    Fenced,
    Kind,
    Rejected,
    SluicewayError,
    StoreError,
    StreamError,
    UpstreamError,
    kind_of_status,
)

# Contract, Breaker: "connection faults, timeouts, 5xx, cuts and garbage count; 4xx, 429, client cancels and faults of
# one answer's content do not".
COUNT = {
    Kind.DNS, Kind.CONNECT, Kind.TLS, Kind.RESET, Kind.CUT, Kind.TRUNCATED, Kind.GARBAGE, Kind.CONNECT_TIMEOUT,
    Kind.TTFT_TIMEOUT, Kind.IDLE_TIMEOUT, Kind.OVERLOADED, Kind.IN_BAND,
}  # fmt: skip
# "A circuit opens on connection faults and timeouts, or on failures of several requests with different bodies."
MAY_BE_THE_REQUESTS = {Kind.CUT, Kind.TRUNCATED, Kind.GARBAGE, Kind.OVERLOADED, Kind.IN_BAND}


@pytest.mark.parametrize("kind", Kind)
def test_traits(kind: Kind) -> None:
    """Each kind has its row. The circuit counts exactly the kinds of `COUNT`. A timeout is a 504."""
    trait = TRAITS[kind]
    assert trait.breaks is (kind in COUNT)
    assert trait.suspect is (kind in MAY_BE_THE_REQUESTS)
    assert trait.status == 504 if "timeout" in kind.value else 400 <= trait.status < 600
    if trait.same:
        assert trait.other, "what the same target may do better another one may do too"


def test_never_again() -> None:
    """A request that is wrong goes to no other target. One that this target cannot serve goes to others only."""
    nowhere = {kind for kind, trait in TRAITS.items() if not trait.other}
    assert nowhere == {Kind.CONTENT_POLICY, Kind.BAD_REQUEST}
    assert not TRAITS[Kind.CONTEXT_LENGTH].same
    assert TRAITS[Kind.CONTEXT_LENGTH].other


def test_upstream_body() -> None:
    """The upstream's own status, code, type and param win; without them those of the kind are used."""
    own = UpstreamError(Kind.BAD_REQUEST, "No", status=422, code="bad", type="t", param="n")
    assert own.http_status == 422
    assert own.body() == {"error": {"message": "No", "type": "t", "param": "n", "code": "bad"}}
    ours = UpstreamError(Kind.TTFT_TIMEOUT, "Late")
    assert ours.http_status == 504
    wanted = {"message": "Late", "type": "api_error", "param": None, "code": "upstream_ttft_timeout"}
    assert ours.body() == {"error": wanted}
    assert str(ours) == "Late"
    named = UpstreamError(Kind.TTFT_TIMEOUT, "Late", request_id="req_1", upstream=("a", "a/m"))
    assert named.body()["error"]["upstream"] == {"name": "a", "target": "a/m", "request_id": "req_1"}


def test_other_bodies() -> None:
    """A rejection and a stream's own error have the same shape."""
    rejected = Rejected(429, "Slow down", "rate_limit_exceeded", retry_after=2.0)
    assert rejected.body()["error"] == {
        "message": "Slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded",
    }  # fmt: skip
    assert StreamError("Gone", "cancelled", 499).body()["error"]["type"] == "api_error"
    assert [str(error) for error in (rejected, StreamError("Gone", "cancelled", 499))] == ["Slow down", "Gone"]


def test_tree() -> None:
    """The root catches each error that a client may see; `except StoreError` also catches a fence."""
    for error in (Rejected, UpstreamError, StreamError, StoreError):
        assert issubclass(error, SluicewayError)
    assert issubclass(Fenced, StoreError)


def documented_errors(tree: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, parent and module of each class in the tree that the module's docstring draws."""
    ancestors: dict[int, str] = {}
    for branch, name, text in re.findall(r"^    ([│├└─ ]*)(\w+)(?: +(.*))?$", tree, re.MULTILINE):
        depth = len(branch) // 4
        ancestors[depth] = name
        if depth:
            place = re.match(r"([\w/]+)\.py: ", text)
            yield name, ancestors[depth - 1], place[1].replace("/", ".") if place else "core.errors"


def defined_errors(root: type[BaseException] = BaseException) -> Iterator[tuple[str, str, str]]:
    """Yield name, parent and module of each exception class that `server` defines."""
    for child in root.__subclasses__():
        if child.__module__.startswith("server."):
            yield child.__name__, root.__name__, child.__module__.removeprefix("server.")
        yield from defined_errors(child)


def test_the_tree_is_whole() -> None:
    """The opening of errors.py shows every exception class of the package with its parent and its file."""
    for module in pkgutil.walk_packages(server.__path__, "server."):
        if not module.name.endswith("__main__"):  # it would start the command line
            importlib.import_module(module.name)
    assert {*documented_errors(errors.__doc__ or "")} == {*defined_errors()}


def test_a_missing_error_is_noticed() -> None:
    """A tree without one class, or with a class below another parent, is not what the package defines."""
    tree = errors.__doc__ or ""
    for wrong in (
        re.sub(r"\n.*ToolSetupError.*", "", tree),
        tree.replace("│       ├── Fenced", "│   ├── Fenced    "),
        tree.replace("relay/plan.py", "relay/turn.py"),
    ):
        assert wrong != tree
        assert {*documented_errors(wrong)} != {*defined_errors()}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "invalid_request_error"),
     (429, "rate_limit_error"), (499, "api_error"), (500, "api_error"), (504, "api_error")],
)  # fmt: skip
def test_kind_of_status(status: int, kind: str) -> None:
    """OpenAI's `type` follows the status."""
    assert kind_of_status(status) == kind
