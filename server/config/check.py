"""From a TOML file to ``Settings``, or to every mistake in it at once: one line each, without a secret in it."""

from __future__ import annotations

import difflib
import json
import re
import ssl
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from server.config.settings import Settings, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    # By the table that names functions: what loads one by its name and place, or raises ValueError with one sentence.
    Loaders = Mapping[tuple[str, ...], Callable[[str, str], object]]

Loc = tuple[int | str, ...]

BAD_CONFIG = 2  # exit status
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
# What a secret in the wrong place looks like: a known prefix, or a long run of letters and digits.
SECRET = re.compile(r"(?i)(\b|_)(sk|pk|rk|gsk|hf|xai|ghp|bearer)[-_ ]\S{8}|(?=[a-z]*\d)[a-z0-9]{24}")
# Keys whose values are secrets as soon as somebody has misread what they are for.
HIDDEN = {"sha256", "headers", "command"}
UNIQUE = (("upstreams", "name"), ("models", "name"), ("keys", "name"), ("keys", "sha256"), ("mcp", "name"))
INSTEAD = {
    "upstreams": '"api_key_env", the name of an environment variable',
    "keys": '"sha256", the hash of the token',
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend: the key, its value as it may be shown (None: there is none), and what would be right."""

    key: str
    value: str | None
    wanted: str
    warning: bool = False

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value} — "
        return f"{'warning: ' if self.warning else ''}{self.key}: {value}{self.wanted}"


class ConfigError(ValueError):
    """The configuration cannot be used; ``problems`` has every reason, its text has one line for each."""

    def __init__(self, problems: Collection[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def load(
    path: Path,
    environ: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    known_strategies: Collection[str] | None = None,
    known_stores: Collection[str] | None = None,
) -> Settings:
    """Read the settings from a TOML file; raise ConfigError with all problems.

    ``host`` and ``port`` win over the file. ``known_…`` are the registered names; None leaves the name unchecked.
    """
    tree = _read(path, host, port)
    return parse(tree, environ, known_strategies=known_strategies, known_stores=known_stores)


def check(
    path: Path,
    environ: Mapping[str, str],
    *,
    known_strategies: Collection[str] | None = None,
    known_stores: Collection[str] | None = None,
    loaders: Loaders | None = None,
) -> list[Problem]:
    """Return all that ``load`` would raise for, the functions that cannot be loaded, and the warnings; raise nothing.

    Loading a function runs its module: ``load`` leaves that to who is going to call them.
    """
    try:
        return _examine(_read(path), environ, known_strategies, known_stores, loaders)[1]
    except ConfigError as error:
        return list(error.problems)


def parse(
    tree: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    known_strategies: Collection[str] | None = None,
    known_stores: Collection[str] | None = None,
) -> Settings:
    """Make settings of what a TOML file would hold; raise ConfigError with all problems."""
    settings, problems = _examine(tree, environ, known_strategies, known_stores)
    if errors := [problem for problem in problems if not problem.warning]:
        raise ConfigError(errors)
    assert settings is not None
    return settings


def _read(path: Path, host: str | None = None, port: int | None = None) -> dict[str, Any]:
    try:
        tree = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte {error.start + 1}"
    except RecursionError:
        reason = "not TOML: nested too deeply"
    except ValueError as error:  # TOMLDecodeError, whose text has line and column, or a number with too many digits
        reason = f"not TOML: {_quoted(str(error), bare='.*')}"
    else:
        given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
        if isinstance(server := tree.setdefault("server", {}), dict):
            server.update(given)
        return tree
    raise ConfigError([Problem(_quoted(str(path), bare=".*"), None, reason)])


def _examine(
    tree: Mapping[str, Any],
    environ: Mapping[str, str],
    strategies: Collection[str] | None,
    stores: Collection[str] | None,
    loaders: Loaders | None = None,
) -> tuple[Settings | None, list[Problem]]:
    """Return the settings if every key by itself is right, and all problems in the order of the sections."""
    settings, problems = None, []
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        problems = _translated(error)
    wrong = {problem.key for problem in problems}
    further = [*_between(tree), *_registered(tree, strategies, stores), *_outside(tree, environ)]
    further += _functions(tree, loaders or {})
    problems += [problem for problem in further if problem.key not in wrong]
    order = list(Settings.model_fields)

    def place(problem: Problem) -> int:
        section = re.split(r"[.\[]", problem.key)[0]
        return order.index(section) if section in order else len(order)

    return settings, sorted(problems, key=place)


# Rules between keys. They read the raw tree, so that they speak also where some other key is wrong.


def _tables(tree: Mapping[str, Any], section: str) -> list[tuple[int, dict[str, Any]]]:
    return [(i, table) for i, table in enumerate(_array(tree.get(section))) if isinstance(table, dict)]


def _array(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _value(tree: Mapping[str, Any], section: str, key: str) -> object:
    table = tree.get(section)
    return table.get(key) if isinstance(table, dict) else None


def _between(tree: Mapping[str, Any]) -> Iterator[Problem]:
    host = _value(tree, "server", "host")
    if isinstance(host, str) and not is_loopback(host) and not tree.get("keys"):
        yield _problem(("server", "host"), host, "expected a loopback address, or [[keys]] for all who can reach it")
    if "*" in _array(_value(tree, "server", "cors_origins")) and not tree.get("keys"):
        yield _problem(("server", "cors_origins"), "*", "expected single origins, or [[keys]] for any")
    for section, key in UNIQUE:
        seen: dict[str, int] = {}
        for i, table in _tables(tree, section):
            if isinstance(value := table.get(key), str) and seen.setdefault(value, i) != i:
                yield _problem((section, i, key), value, f"expected another than that of {section}[{seen[value]}]")
    for i, owner in _tables(tree, "keys"):
        if owner.get("sha256") == EMPTY_SHA256:
            yield _problem(("keys", i, "sha256"), EMPTY_SHA256, "expected the hash of a token, not of nothing")
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
            loc = ("models", i, "targets", j)
            if not isinstance(target, str):
                continue
            if upstreams and target.partition("/")[0] not in upstreams:
                yield _problem(loc, target, f"expected a configured upstream before the slash: {_list(upstreams)}")
            elif target in targets[:j]:
                yield _problem(loc, target, "expected each target once")


def _registered(
    tree: Mapping[str, Any], strategies: Collection[str] | None, stores: Collection[str] | None
) -> Iterator[Problem]:
    for section, key, known in (("recovery", "strategy", strategies), ("store", "kind", stores)):
        if known is not None and isinstance(value := _value(tree, section, key), str) and value not in known:
            yield _problem((section, key), value, f"expected a registered name: {_list(sorted(known))}")


def _outside(tree: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Problem]:
    """Look at what the keys name outside the file: environment variables and certificates."""
    for i, upstream in _tables(tree, "upstreams"):
        for key in ("api_key_env", "organization_env"):
            if not isinstance(variable := upstream.get(key), str) or not variable.isascii():
                continue
            if not (value := environ.get(variable)):
                yield _problem(("upstreams", i, key), variable, "this variable is not set: none is sent", warning=True)
            elif not re.fullmatch(r"[!-~]+", value):
                wanted = "expected a variable with visible ASCII and nothing else (no space, no line end)"
                yield _problem(("upstreams", i, key), variable, wanted)
        if isinstance(file := upstream.get("ca_file"), str):
            try:
                ssl.create_default_context(cafile=file)
            except (OSError, ValueError):  # ssl.SSLError is an OSError
                yield _problem(("upstreams", i, "ca_file"), file, "expected a readable file of PEM certificates")


def _functions(tree: Mapping[str, Any], loaders: Loaders) -> Iterator[Problem]:
    """Load the functions that the file names, as a gateway would at its start."""
    for loc, load in loaders.items():
        for name, place in _texts(tree, loc).items():
            try:
                load(name, place)
            except ValueError as error:
                words = " ".join(str(error).split())  # in one line
                yield _problem((*loc, name), place, f"expected a function that works: {words}")


def _texts(tree: Mapping[str, Any], loc: tuple[str, ...]) -> dict[str, str]:
    """Return the keys of a table whose values are text."""
    table: Any = tree
    for part in loc:
        table = table.get(part) if isinstance(table, dict) else None
    return {name: text for name, text in table.items() if isinstance(text, str)} if isinstance(table, dict) else {}


# From pydantic's errors to ours.


def _translated(error: ValidationError) -> list[Problem]:
    """Return our problems; one about an array's length only where its items have none (bad ones do not count)."""
    details = error.errors(include_url=False)
    locs = [detail["loc"] for detail in details]
    return [
        _problem_of(detail)
        for detail in details
        if detail["type"] != "too_short"
        or not any(len(loc) > len(detail["loc"]) and loc[: len(detail["loc"])] == detail["loc"] for loc in locs)
    ]


def _problem_of(detail: ErrorDetails) -> Problem:
    loc = detail["loc"]
    match detail["type"]:
        case "extra_forbidden":
            return Problem(_key(loc), None, f"unknown key; {_hint(loc)}")
        case "missing":
            description = _fields(loc)[str(loc[-1])].description
            return Problem(_key(loc), None, f"missing; required: {description}")
        case "too_short":
            return Problem(_key(loc), "an empty array", "expected at least one item")
        case "tuple_type" if len(loc) == 1:
            wanted = f"{_heading(str(loc[0]))}, an array of tables"
        case "tuple_type":
            wanted = "an array"
        case "model_type" | "dict_type":
            wanted = "a table"
        case _:  # "wanted", from the type itself
            wanted = detail["msg"]
    loc = loc[:-1] if loc[-1] == "[key]" else loc  # pydantic's mark for the key of a table
    return _problem(loc, detail["input"], f"expected {wanted}")


def _table(section: str) -> type[BaseModel]:
    annotation: Any = Settings.model_fields[section].annotation
    return (get_args(annotation) or (annotation,))[0]  # type: ignore[no-any-return]  # X of tuple[X, ...]


def _heading(section: str) -> str:
    return f"[[{section}]]" if get_args(Settings.model_fields[section].annotation) else f"[{section}]"


def _fields(loc: Loc) -> dict[str, Any]:
    return dict(Settings.model_fields if len(loc) == 1 else _table(str(loc[0])).model_fields)


def _hint(loc: Loc) -> str:
    """Say what an unknown key may have been meant to be."""
    name, fields = str(loc[-1]), _fields(loc)
    if loc[0] in INSTEAD and re.search(r"(?i)key|token|secret|passw|auth", name):
        return f"did you mean {INSTEAD[str(loc[0])]}?"
    if nearest := difflib.get_close_matches(name.lower(), fields, 1):
        return f'did you mean "{nearest[0]}"?'
    if homes := [section for section in Settings.model_fields if name in _table(section).model_fields]:
        return f"it belongs in {_list([_heading(section) for section in homes])}"
    return f"expected one of {_list(fields)}"


# Showing values.


def _problem(loc: Loc, value: object, wanted: str, *, warning: bool = False) -> Problem:
    return Problem(_key(loc), _shown(loc, value), wanted, warning)


def _key(loc: Loc) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{_quoted(part, bare='[A-Za-z0-9_-]+')}" for part in loc)
    return "".join(parts).removeprefix(".")


def _list(names: Collection[str]) -> str:
    return ", ".join(_quoted(name, bare="[ -~]+") for name in names)


def _quoted(text: str, bare: str) -> str:
    """Return the text on one line and not too long: as it is if it is printable and matches ``bare``."""
    text = text if len(text) <= 200 else text[:200] + "…"
    if text.isprintable() and re.fullmatch(bare, text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _shown(loc: Loc, value: object) -> str:
    """Return a value on one line, with what may be a secret left out."""
    match value:
        case str():
            variable = str(loc[-1]).endswith("_env") and not re.fullmatch(r"[A-Z][A-Z0-9_]*", value)
            _, user, text = value.rpartition("@")  # what precedes a host is a password, what follows it often too
            text, query, _ = text.partition("?")
            if variable or HIDDEN & set(loc) or SECRET.search(text[:500]):
                return f"(hidden, {len(value)} characters)"
            return _quoted(f"{user and '…@'}{text}{query and '?…'}", bare="(?!)")
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 64:
            return "a very large number"
        case dict():
            return "a table"
        case list():
            return "an array"
        case _:
            return str(value)
