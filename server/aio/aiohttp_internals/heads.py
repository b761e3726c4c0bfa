"""The heads of an exchange with an upstream: as objects they take 2 KB of a stream, long after they were read."""

from types import MappingProxyType
from typing import Any

import aiohttp
from yarl import URL

from server.aio.private_part import PrivatePart, expect

NO_HEADERS: Any = MappingProxyType({})
NO_REQUEST = aiohttp.RequestInfo(URL(), "", NO_HEADERS, URL())


def forget_heads(response: aiohttp.ClientResponse) -> None:
    """Drop the headers of an answer and of its request. aiohttp keeps them for those who read them later."""
    if HEADS.usable:
        inner: Any = response
        inner._headers, inner._raw_headers, inner._request_info = NO_HEADERS, (), NO_REQUEST
        inner._cache.clear()  # those that were read


def _check_heads() -> None:
    """Look whether these attributes are what a response tells of its headers, and the cache is where it keeps that."""
    response: Any = object.__new__(_Response)
    expect(response._headers is None and response._raw_headers is None, "a response keeps its headers elsewhere")
    for number in range(2):
        response._headers, response._raw_headers, response._request_info, response._cache = number, number, number, {}
        told = response.headers, response.raw_headers, response.request_info
        expect(told == (number, number, number), "a response keeps its headers elsewhere")


class _Response(aiohttp.ClientResponse):
    def __del__(self, _warnings: object = None) -> None:
        """Do nothing: it was never open."""


HEADS = PrivatePart("aiohttp heads of answers", _check_heads, instead="2 KB more for each open stream")
