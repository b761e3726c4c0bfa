"""Which configuration is used if the command line names none: a file in a usual place, or the environment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PLACES = (Path("sluiceway.toml"), Path("/etc/sluiceway/sluiceway.toml"))
KEY, ADDRESS = "OPENAI_API_KEY", "OPENAI_BASE_URL"  # the variables of OpenAI's SDKs
OPENAI = "https://api.openai.com/v1"


class NothingToRunError(Exception):
    """There is no configuration. The text is one sentence that says what to do."""


def configuration_file(named: Path | None, places: Sequence[Path] = PLACES) -> Path | None:
    """Return the file that was named, else the first one that exists in a usual place, else None."""
    return named or next((place for place in places if place.exists()), None)


def of_the_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the tree of a configuration for one upstream, the one of OpenAI's variables.

    Raises:
        NothingToRunError: there is no key.

    """
    if not environ.get(KEY):
        raise NothingToRunError(
            f"there is no {PLACES[0]} here, no {PLACES[1]}, and {KEY} is not set: "
            "`sluiceway init` writes a configuration to begin with."
        )
    upstream = {"name": "openai", "base_url": environ.get(ADDRESS) or OPENAI, "api_key_env": KEY}
    return {"upstreams": [upstream], "models": [{"name": "*", "targets": ["openai/*"]}]}
