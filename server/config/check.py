"""Makes ``Settings`` of a TOML file, or finds every mistake in it at once."""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from server.config.problems import (
    ConfigError,
    Location,
    Problem,
    key_text,
    list_text,
    problem_at,
    quoted,
)
from server.config.rules import between_keys, hidden_tools, loadable_functions, outside_the_file, registered_names
from server.config.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from server.config.rules import Loaders

# Where to put a secret, for an unknown key that looks as if it were meant for one.
INSTEAD = {
    "upstreams": '"api_key_env", the name of an environment variable',
    "keys": '"sha256", the hash of the token',
    "store": '"url_env", the name of an environment variable',
}


def load(
    path: Path,
    environ: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    known_strategies: Collection[str] | None = None,
    known_stores: Collection[str] | None = None,
    known_apis: Collection[str] | None = None,
) -> Settings:
    """Read the settings from a TOML file; raise ConfigError with all problems.

    ``host`` and ``port`` override the file. ``known_…`` are the registered names; None leaves the name unchecked.
    """
    tree = _read(path, host, port)
    return parse(tree, environ, known_strategies=known_strategies, known_stores=known_stores, known_apis=known_apis)


def check(
    path: Path,
    environ: Mapping[str, str],
    *,
    known_strategies: Collection[str] | None = None,
    known_stores: Collection[str] | None = None,
    known_apis: Collection[str] | None = None,
    loaders: Loaders | None = None,
    installed_tools: Collection[str] = (),
) -> list[Problem]:
    """Return everything that makes ``load`` raise, the functions that cannot be loaded, and the warnings.

    ``installed_tools`` are the names of the tools that installed distributions offer.

    It raises nothing. Loading a function runs its module, so ``load`` does not do it: its caller loads the functions
    itself.
    """
    try:
        tree = _read(path)
        problems = _examine(tree, environ, known_strategies, known_stores, known_apis, loaders)[1]
        return [*problems, *hidden_tools(tree, installed_tools)]
    except ConfigError as error:
        return list(error.problems)


def parse(
    tree: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    known_strategies: Collection[str] | None = None,
    known_stores: Collection[str] | None = None,
    known_apis: Collection[str] | None = None,
) -> Settings:
    """Make settings of the tree that a TOML file holds; raise ConfigError with all problems."""
    settings, problems = _examine(tree, environ, known_strategies, known_stores, known_apis)
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
        reason = f"not TOML: {quoted(str(error), bare='.*')}"
    else:
        overrides = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
        if isinstance(server := tree.setdefault("server", {}), dict):
            server.update(overrides)
        return tree
    raise ConfigError([Problem(quoted(str(path), bare=".*"), None, reason)])


def _examine(
    tree: Mapping[str, Any],
    environ: Mapping[str, str],
    strategies: Collection[str] | None,
    stores: Collection[str] | None,
    apis: Collection[str] | None,
    loaders: Loaders | None = None,
) -> tuple[Settings | None, list[Problem]]:
    """Return the settings and all problems, in the order of the sections.

    The settings are None if a key is wrong by itself. A key with such a mistake is not reported for a broken rule, too.
    """
    settings, problems = None, []
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        problems = _translated(error)
    wrong_keys = {problem.key for problem in problems}
    broken_rules = [
        *between_keys(tree),
        *registered_names(tree, strategies, stores, apis),
        *outside_the_file(tree, environ),
        *loadable_functions(tree, loaders or {}),
    ]
    problems += [problem for problem in broken_rules if problem.key not in wrong_keys]
    sections = list(Settings.model_fields)

    def position(problem: Problem) -> int:
        section = re.split(r"[.\[]", problem.key)[0]
        return sections.index(section) if section in sections else len(sections)

    return settings, sorted(problems, key=position)


# --- from pydantic's errors to problems ---------------------------------------------------------------------------


def _translated(error: ValidationError) -> list[Problem]:
    """Return our problems for pydantic's.

    pydantic does not count bad items of an array, and then calls the array too short. Leave that out: the items have
    problems of their own.
    """
    details = error.errors(include_url=False)
    locations = [detail["loc"] for detail in details]
    return [
        _problem_of(detail)
        for detail in details
        if detail["type"] != "too_short"
        or not any(len(loc) > len(detail["loc"]) and loc[: len(detail["loc"])] == detail["loc"] for loc in locations)
    ]


def _problem_of(detail: ErrorDetails) -> Problem:
    location = detail["loc"]
    match detail["type"]:
        case "extra_forbidden":
            return Problem(key_text(location), None, f"unknown key; {_hint(location)}")
        case "missing":
            description = _fields(location)[str(location[-1])].description
            return Problem(key_text(location), None, f"missing; required: {description}")
        case "too_short":
            return Problem(key_text(location), "an empty array", "expected at least one item")
        case "tuple_type" if len(location) == 1:
            wanted = f"{_heading(str(location[0]))}, an array of tables"
        case "tuple_type":
            wanted = "an array"
        case "model_type" | "dict_type":
            wanted = "a table"
        case _:  # "wanted": the phrase of the type itself (settings.py)
            wanted = detail["msg"]
    location = location[:-1] if location[-1] == "[key]" else location  # pydantic's mark for the key of a table
    return problem_at(location, detail["input"], f"expected {wanted}")


def _table(section: str) -> type[BaseModel]:
    annotation: Any = Settings.model_fields[section].annotation
    return (get_args(annotation) or (annotation,))[0]  # type: ignore[no-any-return]  # X of tuple[X, ...]


def _heading(section: str) -> str:
    return f"[[{section}]]" if get_args(Settings.model_fields[section].annotation) else f"[{section}]"


def _fields(location: Location) -> dict[str, Any]:
    return dict(Settings.model_fields if len(location) == 1 else _table(str(location[0])).model_fields)


def _hint(location: Location) -> str:
    """Return advice for an unknown key: what was probably meant, or where it belongs."""
    name, fields = str(location[-1]), _fields(location)
    if location[0] in INSTEAD and re.search(r"(?i)key|token|secret|passw|auth", name):
        return f"did you mean {INSTEAD[str(location[0])]}?"
    if nearest := difflib.get_close_matches(name.lower(), fields, 1):
        return f'did you mean "{nearest[0]}"?'
    if homes := [section for section in Settings.model_fields if name in _table(section).model_fields]:
        return f"it belongs in {list_text([_heading(section) for section in homes])}"
    return f"expected one of {list_text(fields)}"
