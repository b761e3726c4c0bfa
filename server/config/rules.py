"""Rules that one key alone cannot check: between keys, and between a key and what it names outside the file.

They read the raw tree of the TOML file. So they find their problems also if another key is wrong.
"""

from __future__ import annotations

import re
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any

from server.config.problems import Problem, key_text, list_text, problem_at
from server.config.settings import PATTERN_MARKS, REDIS_URL, is_loopback, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from server.config.problems import Location

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
    yield from _mcp_servers(tree)
    yield from _headers(tree)
    yield from _models(tree)
    yield from _models_of_keys(tree)


def _mcp_servers(tree: Mapping[str, Any]) -> Iterator[Problem]:
    for i, mcp in _tables(tree, "mcp"):
        if ("command" in mcp) == ("url" in mcp):
            yield Problem(f"mcp[{i}]", "both" if "url" in mcp else "neither", 'expected one of "command" and "url"')
        for way, keys in (("command", ("env", "env_from")), ("url", ("headers", "header_env"))):
            for key in keys:
                if key in mcp and way not in mcp:
                    yield problem_at(("mcp", i, key), mcp[key], f'expected only with "{way}"')


def _headers(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that each header of an upstream has one source."""
    for i, upstream in _tables(tree, "upstreams"):
        sources: dict[str, str] = {}
        if upstream.get("api_key_env") and (auth := upstream.get("auth")) in ("api-key", "x-api-key"):
            sources[auth] = "that of the key"
        for key in ("headers", "header_env"):
            for name in _texts(upstream, (key,)):
                if first := sources.get(name.lower()):
                    place = key_text(("upstreams", i, key, name))
                    yield Problem(place, None, f"expected another header than {first}")
                sources.setdefault(name.lower(), f"one of {key}")


def _models(tree: Mapping[str, Any]) -> Iterator[Problem]:
    names = [table.get("name") for _, table in _tables(tree, "upstreams")]
    upstreams = sorted({name for name in names if isinstance(name, str)})
    for i, model in _tables(tree, "models"):
        if isinstance(name := model.get("name"), str) and "*" not in name and re.search(PATTERN_MARKS, name):
            wanted = 'this is a name and no pattern: only "*" stands for other characters'
            yield problem_at(("models", i, "name"), name, wanted, warning=True)
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


def _models_of_keys(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Name each model of a key that no request can be for. A pattern may mean what an upstream lists."""
    models = [name for _, table in _tables(tree, "models") if isinstance(name := table.get("name"), str)]
    for i, owner in _tables(tree, "keys"):
        for j, name in enumerate(_array(owner.get("models"))):
            if isinstance(name, str) and "*" not in name and not any(matches(model, name) for model in models):
                wanted = f"no model has this name: {list_text(models)}"
                yield problem_at(("keys", i, "models", j), name, wanted, warning=True)


def registered_names(
    tree: Mapping[str, Any],
    strategies: Collection[str] | None,
    stores: Collection[str] | None,
    apis: Collection[str] | None,
) -> Iterator[Problem]:
    """Check that the strategy, the store and the upstreams' APIs are registered. None leaves a name unchecked."""
    places: list[tuple[Location, Any, Collection[str] | None]] = [
        (("recovery", "strategy"), _value(tree, "recovery", "strategy"), strategies),
        (("store", "kind"), _value(tree, "store", "kind"), stores),
        *((("upstreams", i, "api"), upstream.get("api"), apis) for i, upstream in _tables(tree, "upstreams")),
    ]
    for place, value, known in places:
        if known is not None and isinstance(value, str) and value not in known:
            yield problem_at(place, value, f"expected a registered name: {list_text(sorted(known))}")


def outside_the_file(tree: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Problem]:
    """Check the environment variables and the certificates that the file names."""
    variable, kind = _value(tree, "store", "url_env"), _value(tree, "store", "kind")
    if kind == "redis" and isinstance(variable, str) and not re.fullmatch(REDIS_URL, environ.get(variable, "")):
        yield problem_at(("store", "url_env"), variable, "expected a variable that holds the address of Redis")
    for i, upstream in _tables(tree, "upstreams"):
        for key in ("api_key_env", "organization_env"):
            where: Location = ("upstreams", i, key)
            yield from _variable(where, upstream.get(key), environ, r"[!-~]+", "(no space, no line end)")
        for name, variable in _texts(upstream, ("header_env",)).items():
            where = ("upstreams", i, "header_env", name)
            yield from _variable(where, variable, environ, r"[!-~]([ -~]*[!-~])?", "(no line end)")
        if isinstance(file := upstream.get("ca_file"), str):
            try:
                ssl.create_default_context(cafile=file)
            except (OSError, ValueError):  # ssl.SSLError is an OSError
                yield problem_at(("upstreams", i, "ca_file"), file, "expected a readable file of PEM certificates")
    yield from _mcp_variables(tree, environ)


def _mcp_variables(tree: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Problem]:
    for i, mcp in _tables(tree, "mcp"):
        for j, variable in enumerate(_array(mcp.get("env_from"))):
            if isinstance(variable, str) and variable not in environ:
                wanted = "this variable is not set: the command does not get it"
                yield problem_at(("mcp", i, "env_from", j), variable, wanted, warning=True)
        headers = mcp.get("header_env")
        for header, variable in headers.items() if isinstance(headers, dict) else ():
            location = ("mcp", i, "header_env", header)
            yield from _variable(location, variable, environ, r"[ -~]+", "(no line end)")


def _variable(
    location: Location, variable: object, environ: Mapping[str, str], pattern: str, without: str
) -> Iterator[Problem]:
    """Check that an environment variable holds what a header may hold."""
    if not isinstance(variable, str) or not variable.isascii():
        return
    if not (value := environ.get(variable)):
        yield problem_at(location, variable, "this variable is not set: requests go without it", warning=True)
    elif not re.fullmatch(pattern, value):
        wanted = f"expected a variable with visible ASCII and nothing else {without}"
        yield problem_at(location, variable, wanted)


def loadable_functions(tree: Mapping[str, Any], loaders: Loaders) -> Iterator[Problem]:
    """Load the functions that the file names, as a gateway does at its start."""
    for location, load in loaders.items():
        for name, place in _texts(tree, location).items():
            try:
                load(name, place)
            except ValueError as error:
                reason = " ".join(str(error).split())  # on one line
                yield problem_at((*location, name), place, f"expected a function that works: {reason}")


def hidden_tools(tree: Mapping[str, Any], installed: Collection[str]) -> Iterator[Problem]:
    """Name the tools of installed distributions that are not offered, because another tool has their name."""
    functions = _texts(tree, ("tools", "functions"))
    for name, place in functions.items():
        if name in installed:
            wanted = "hides the tool of this name of an installed distribution"
            yield problem_at(("tools", "functions", name), place, wanted, warning=True)
    for name, count in Counter(installed).items():
        if count > 1 and name not in functions:
            wanted = f"{count} installed distributions have a tool of this name: one is offered"
            yield problem_at(("tools",), name, wanted, warning=True)


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
