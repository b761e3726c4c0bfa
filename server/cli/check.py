"""`sluiceway check`: print what would run, or everything that is wrong with a configuration, one line per problem."""

import os
import sys
from pathlib import Path

from server.config.check import check as problems_of
from server.config.check import load, parse
from server.config.finding import NothingToRunError, configuration_file, of_the_environment
from server.config.plugins import TOOLS, installed, known_plugins
from server.config.problems import BAD_CONFIG, ConfigError
from server.config.settings import Settings
from server.streams.preprocess import imported
from server.systemd import with_credentials
from server.tools.toolbox import configured


def check(named: Path | None) -> int:
    """Check the file `named`, or what `sluiceway serve` would take without one. Return the exit status.

    It is 2 if a problem is more than a warning. If there is none, one line says what would run.
    """
    environ = with_credentials(os.environ)
    config = configuration_file(named)
    try:
        if config is None:
            settings = parse(of_the_environment(environ), environ)
        else:
            loaders = {("tools", "functions"): configured, ("preprocess",): imported}
            tools = [point.name for point in installed(TOOLS)]
            problems = problems_of(config, environ, **known_plugins(), loaders=loaders, installed_tools=tools)
            for problem in problems:
                print(problem, file=sys.stderr)  # noqa: T201 — the command's output
            if any(not problem.warning for problem in problems):
                return BAD_CONFIG
            settings = load(config, environ, host=None, port=None, **known_plugins())
    except NothingToRunError as error:
        print(f"sluiceway: {error}", file=sys.stderr)  # noqa: T201
        return BAD_CONFIG
    except ConfigError as error:  # of the environment, or of a file that has just been changed
        print(error, file=sys.stderr)  # noqa: T201
        return BAD_CONFIG
    print(summary(settings))  # noqa: T201
    return 0


def summary(settings: Settings) -> str:
    """Say in one line what would run, such as "2 upstreams, 3 models, sqlite"."""
    upstreams, models = len(settings.upstreams), len(settings.models)
    return (
        f"{upstreams} upstream{'s' if upstreams > 1 else ''}, {models} model{'s' if models > 1 else ''}, "
        f"{settings.store.kind}"
    )
