"""NFS version 3 and its MOUNT protocol behind one port, as version 4 has it: by the program of a connection's first call."""

import asyncio
import struct

OUTSIDE, BEHIND = 2049, {100003: 2051, 100005: 2052}
HEAD = struct.Struct(">5I")  # length of the record, transaction, kind, version of RPC, program


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 20):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


async def serve(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    try:
        head = await client.readexactly(HEAD.size)
        server, to = await asyncio.open_connection("127.0.0.1", BEHIND[HEAD.unpack(head)[4]])
    except (OSError, EOFError, KeyError):
        back.close()
        return
    to.write(head)
    await asyncio.gather(pump(client, to), pump(server, back))


async def main() -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", OUTSIDE) as front:
        await front.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
