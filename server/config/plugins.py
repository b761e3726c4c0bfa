"""Entry points: the built-ins and what third parties register beside them."""

from importlib.metadata import entry_points

RECOVERY = "sluiceway.recovery"
DIALECTS = "sluiceway.dialects"
STORES = "sluiceway.stores"
TOOLS = "sluiceway.tools"


def plugin_names(group: str) -> list[str]:
    """Return what is registered in a group."""
    return sorted(entry_points(group=group).names)


def load_plugin(group: str, name: str) -> type:
    """Return the class registered under `name`. Raises LookupError."""
    for point in entry_points(group=group):
        if point.name == name:
            loaded: type = point.load()
            return loaded
    raise LookupError(f"nothing is registered as {name!r} in {group}")


def load_plugins(group: str) -> dict[str, type]:
    """Return every class that is registered in a group, by name."""
    return {point.name: point.load() for point in entry_points(group=group)}


def known() -> dict[str, list[str]]:
    """Return the names that a configuration may choose from."""
    return {"known_strategies": plugin_names(RECOVERY), "known_stores": plugin_names(STORES)}
