"""`sluiceway check`: print everything that is wrong with a configuration, one line per problem."""

import os
import sys
from pathlib import Path

from server.config.check import check as problems_of
from server.config.plugins import TOOLS, installed, known_plugins
from server.config.problems import BAD_CONFIG
from server.streams.preprocess import imported
from server.systemd import with_credentials
from server.tools.toolbox import configured


def check(config: Path) -> int:
    """Print the problems of the file `config`. Return the exit status: 2 if one is more than a warning, else 0."""
    loaders = {("tools", "functions"): configured, ("preprocess",): imported}
    tools = [point.name for point in installed(TOOLS)]
    problems = problems_of(
        config, with_credentials(os.environ), **known_plugins(), loaders=loaders, installed_tools=tools
    )
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201 — the command's output
    return BAD_CONFIG if any(not problem.warning for problem in problems) else 0
