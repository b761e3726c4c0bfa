"""Which HTTP library to use: httpx2, or httpx beside an OpenAI SDK before version 3, which knows no other."""

from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType


def name(openai: str | None, *, has_httpx2: bool) -> str:
    """Return the library's name, by the version of OpenAI's SDK (None: not installed)."""
    if openai is not None:
        return "httpx" if int(openai.partition(".")[0]) < 3 else "httpx2"
    return "httpx2" if has_httpx2 else "httpx"


@cache
def chosen() -> str:
    """Return the name of the library that fits what is installed here."""
    try:
        openai = version("openai")
    except PackageNotFoundError:
        openai = None
    return name(openai, has_httpx2=find_spec("httpx2") is not None)


def of_the_sdk() -> ModuleType:
    """Return the room of this package for the library of the installed SDK."""
    return import_module(f"sluiceway.{chosen()}")
