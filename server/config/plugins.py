"""Code that a configuration names: entry points, the gateway's own and third parties'; and `"module:function"`."""

import pkgutil
from importlib.metadata import EntryPoint, entry_points
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


def plugin_names(group: str) -> list[str]:
    """Return the names that are registered in a group."""
    return sorted(entry_points(group=group).names)


def load_plugin(group: str, name: str) -> type:
    """Return the class registered under `name`. Raises LookupError."""
    for point in entry_points(group=group):
        if point.name == name:
            loaded: type = point.load()
            return loaded
    raise LookupError(f"nothing is registered as {name!r} in {group}")


def load_plugins(group: str) -> dict[str, Any]:
    """Return every class that is registered in a group, by name."""
    return {point.name: point.load() for point in entry_points(group=group)}


def known_plugins() -> dict[str, list[str]]:
    """Return the names that a configuration may use, as keyword arguments of `server.config.check.load`."""
    apis = [api.name for dialect in load_plugins(DIALECTS).values() if (api := dialect.upstream_api) is not None]
    return {"known_strategies": plugin_names(RECOVERY), "known_stores": plugin_names(STORES), "known_apis": apis}
