"""The HTTP library of the terminal commands, by the name of httpx2. httpx, if it must stand in, has the same parts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

    from sluiceway.httpx2 import ResumingTransport
else:
    from importlib import import_module

    from sluiceway.library import chosen, of_the_sdk

    httpx2 = import_module(chosen())
    ResumingTransport = of_the_sdk().ResumingTransport

__all__ = ["ResumingTransport", "httpx2"]
