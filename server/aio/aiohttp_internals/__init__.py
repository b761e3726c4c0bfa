"""Every reach into aiohttp's private parts, each with its reason, its check at import, and the plain way without it.

Written for aiohttp 3.14; `setup.cfg` bounds it. `tests/aio/test_aiohttp_internals.py` takes each part away.
"""
