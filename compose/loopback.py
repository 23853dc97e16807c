"""`python3 loopback.py PORT HOST`: a port of this container's loopback that leads to a service.

Beam speaks without TLS only to a host that is called `localhost`.
"""

import asyncio
import sys

PORT, HOST = int(sys.argv[1]), sys.argv[2]


async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass on what comes, until it ends."""
    try:
        while part := await source.read(1 << 16):
            target.write(part)
            await target.drain()
    except ConnectionError:
        pass
    finally:
        target.close()


async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect one caller with the service."""
    try:
        back, forth = await asyncio.open_connection(HOST, PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pour(reader, forth), pour(back, writer))


async def main() -> None:
    """Serve until the container ends."""
    server = await asyncio.start_server(join, "127.0.0.1", PORT)
    await server.serve_forever()


asyncio.run(main())
