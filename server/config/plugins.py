"""Code that a configuration names: entry points, the gateway's own and third parties'; and `"module:function"`."""

import pkgutil
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

RECOVERY = "sluiceway.recovery"
DIALECTS = "sluiceway.dialects"
STORES = "sluiceway.stores"
TOOLS = "sluiceway.tools"


class LoadError(ValueError):
    """Code that a configuration names and that cannot be loaded: the error, by its type and message."""


def load_object(place: str | EntryPoint) -> object:
    """Return what is at `place`: `"module:name"`, or an entry point. Raises LoadError."""
    try:
        return place.load() if isinstance(place, EntryPoint) else pkgutil.resolve_name(place)
    except (Exception, SystemExit) as error:  # importing runs foreign code, which fails with anything
        raise LoadError(f"{type(error).__name__}: {error}") from error


@lru_cache(1)
def _found(_path: tuple[str, ...]) -> Any:  # in Python 3.11 it is not called EntryPoints, but has the same `select`
    return entry_points()


def installed(group: str) -> EntryPoints:
    """Return the entry points of a group.

    A search opens a file of every installed distribution, and a start asks for five groups. So it is done once for each
    `sys.path`, and again when a configuration is read: by then something may have been installed.
    """
    points: EntryPoints = _found(tuple(sys.path)).select(group=group)
    return points


def plugin_names(group: str) -> list[str]:
    """Return the names that are registered in a group."""
    return sorted(installed(group).names)


def load_plugin(group: str, name: str) -> type:
    """Return the class registered under `name`. Raises LookupError."""
    for point in installed(group):
        if point.name == name:
            loaded: type = point.load()
            return loaded
    raise LookupError(f"nothing is registered as {name!r} in {group}")


def load_plugins(group: str) -> dict[str, Any]:
    """Return every class that is registered in a group, by name."""
    return {point.name: point.load() for point in installed(group)}


def known_plugins() -> dict[str, list[str]]:
    """Return the names that a configuration may use, as keyword arguments of `server.config.check.load`."""
    _found.cache_clear()
    apis = [api.name for dialect in load_plugins(DIALECTS).values() if (api := dialect.upstream_api) is not None]
    return {"known_strategies": plugin_names(RECOVERY), "known_stores": plugin_names(STORES), "known_apis": apis}
