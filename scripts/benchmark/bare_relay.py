"""The smallest relay in aiohttp: it copies the bytes of the upstream's response to the client, and parses none.

What the gateway costs above this is the price of what it does.
"""

import asyncio
import sys

import uvloop
from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web


async def serve(port: int, upstream: str) -> None:
    """Relay POST requests to the upstream until the process is stopped."""
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, read_bufsize=16384, cookie_jar=DummyCookieJar()) as session:

        async def relay(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            headers = {"Content-Type": request.content_type, "Accept-Encoding": "identity"}
            async with session.post(upstream + request.path, data=body, headers=headers) as answer:
                response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
                writer = await response.prepare(request)
                assert writer is not None
                while data := await answer.content.readany():
                    await writer.write(data)
                return response

        app = web.Application()
        app.router.add_post("/{path:.*}", relay)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
