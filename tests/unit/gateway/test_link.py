"""The gateway's link to the broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource

import pika

from mepd.gateway.amqp import Link, Session


async def _up(_session: Session) -> None:
    pass


def test_R6_no_descriptor_for_the_broker_is_no_end_of_trying() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    calls = 0

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = Link(pika.ConnectionParameters("127.0.0.1", port), _up, lambda: None)
        # the first one reads files, and would fail without descriptors
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", port)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        job = asyncio.create_task(link.run())
        await asyncio.sleep(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        while not calls:
            await asyncio.sleep(0.02)
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await job
        server.close()

    try:
        asyncio.run(asyncio.wait_for(run(), 20))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert calls
