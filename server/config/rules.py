"""Rules that one key alone cannot check: between keys, and between a key and what it names outside the file.

They read the raw tree of the TOML file. So they find their problems also if another key is wrong.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any

from server.config.problems import Problem, list_text, problem_at
from server.config.settings import REDIS_URL, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    # For a table of functions, the callable that loads one of them by its name and its "module:function". It raises
    # ValueError with one sentence if that fails.
    Loaders = Mapping[tuple[str, ...], Callable[[str, str], object]]

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
UNIQUE = (("upstreams", "name"), ("models", "name"), ("keys", "name"), ("keys", "sha256"), ("mcp", "name"))


def between_keys(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the rules between keys of the file."""
    host = _value(tree, "server", "host")
    if isinstance(host, str) and not is_loopback(host) and not tree.get("keys"):
        yield problem_at(("server", "host"), host, "expected a loopback address, or [[keys]] for all who can reach it")
    if "*" in _array(_value(tree, "server", "cors_origins")) and not tree.get("keys"):
        yield problem_at(("server", "cors_origins"), "*", "expected single origins, or [[keys]] for any")
    for section, key in UNIQUE:
        first: dict[str, int] = {}
        for i, table in _tables(tree, section):
            if isinstance(value := table.get(key), str) and first.setdefault(value, i) != i:
                yield problem_at((section, i, key), value, f"expected another than that of {section}[{first[value]}]")
    for i, owner in _tables(tree, "keys"):
        if owner.get("sha256") == EMPTY_SHA256:
            yield problem_at(("keys", i, "sha256"), EMPTY_SHA256, "expected the hash of a token, not of nothing")
    for i, mcp in _tables(tree, "mcp"):
        if ("command" in mcp) == ("url" in mcp):
            yield Problem(f"mcp[{i}]", "both" if "url" in mcp else "neither", 'expected one of "command" and "url"')
    yield from _targets(tree)


def _targets(tree: Mapping[str, Any]) -> Iterator[Problem]:
    names = [table.get("name") for _, table in _tables(tree, "upstreams")]
    upstreams = sorted({name for name in names if isinstance(name, str)})
    for i, model in _tables(tree, "models"):
        targets = _array(model.get("targets"))
        for j, target in enumerate(targets):
            location = ("models", i, "targets", j)
            if not isinstance(target, str):
                continue
            if upstreams and target.partition("/")[0] not in upstreams:
                wanted = f"expected a configured upstream before the slash: {list_text(upstreams)}"
                yield problem_at(location, target, wanted)
            elif target in targets[:j]:
                yield problem_at(location, target, "expected each target once")


def registered_names(
    tree: Mapping[str, Any], strategies: Collection[str] | None, stores: Collection[str] | None
) -> Iterator[Problem]:
    """Check that the strategy and the store are registered. None leaves a name unchecked."""
    for section, key, known in (("recovery", "strategy", strategies), ("store", "kind", stores)):
        if known is not None and isinstance(value := _value(tree, section, key), str) and value not in known:
            yield problem_at((section, key), value, f"expected a registered name: {list_text(sorted(known))}")


def outside_the_file(tree: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Problem]:
    """Check the environment variables and the certificates that the file names."""
    variable, kind = _value(tree, "store", "url_env"), _value(tree, "store", "kind")
    if kind == "redis" and isinstance(variable, str) and not re.fullmatch(REDIS_URL, environ.get(variable, "")):
        yield problem_at(("store", "url_env"), variable, "expected a variable that holds the address of Redis")
    for i, upstream in _tables(tree, "upstreams"):
        for key in ("api_key_env", "organization_env"):
            if not isinstance(variable := upstream.get(key), str) or not variable.isascii():
                continue
            if not (value := environ.get(variable)):
                wanted = "this variable is not set: none is sent"
                yield problem_at(("upstreams", i, key), variable, wanted, warning=True)
            elif not re.fullmatch(r"[!-~]+", value):
                wanted = "expected a variable with visible ASCII and nothing else (no space, no line end)"
                yield problem_at(("upstreams", i, key), variable, wanted)
        if isinstance(file := upstream.get("ca_file"), str):
            try:
                ssl.create_default_context(cafile=file)
            except (OSError, ValueError):  # ssl.SSLError is an OSError
                yield problem_at(("upstreams", i, "ca_file"), file, "expected a readable file of PEM certificates")


def loadable_functions(tree: Mapping[str, Any], loaders: Loaders) -> Iterator[Problem]:
    """Load the functions that the file names, as a gateway does at its start."""
    for location, load in loaders.items():
        for name, place in _texts(tree, location).items():
            try:
                load(name, place)
            except ValueError as error:
                reason = " ".join(str(error).split())  # on one line
                yield problem_at((*location, name), place, f"expected a function that works: {reason}")


# --- reading the raw tree, in which anything may have the wrong type ----------------------------------------------


def _tables(tree: Mapping[str, Any], section: str) -> list[tuple[int, dict[str, Any]]]:
    return [(i, table) for i, table in enumerate(_array(tree.get(section))) if isinstance(table, dict)]


def _array(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _value(tree: Mapping[str, Any], section: str, key: str) -> object:
    table = tree.get(section)
    return table.get(key) if isinstance(table, dict) else None


def _texts(tree: Mapping[str, Any], location: tuple[str, ...]) -> dict[str, str]:
    """Return the keys of a table whose values are text."""
    table: Any = tree
    for part in location:
        table = table.get(part) if isinstance(table, dict) else None
    return {name: text for name, text in table.items() if isinstance(text, str)} if isinstance(table, dict) else {}
