"""What a fault does to an answer."""

import asyncio
import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from apps.auth.faults import Fault, Faults
from apps.shared import connection
from apps.shared.problems import Problem


class Cut(Response):
    """An answer that breaks off in the middle of its body, or before it has begun."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Promise the whole, send half, and hang up."""
        del receive
        if self.body:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            half = bytes(self.body[: len(self.body) // 2])
            await send({"type": "http.response.body", "body": half, "more_body": True})
        connection.abort(scope)


async def spoil(fault: Fault, faults: Faults, request: Request, answer: object) -> Response | None:
    """Return what is answered instead; None if the answer stands, though it is late, or the fault was over first."""
    if await _is_over(fault, faults):
        return None
    if fault.kind == "hang":
        await _hang(fault, faults, request)
        return Cut(b"")
    if fault.kind == "refuse":
        return Cut(b"")
    if fault.kind == "truncate":
        return Cut(json.dumps(answer).encode())
    if fault.kind == "error":
        wait = fault.retry_after_seconds
        raise Problem(fault.status, "a fault was ordered", None if wait is None else {"retry-after": str(wait)})
    return None


async def _is_over(fault: Fault, faults: Faults) -> bool:
    """Take as long as the fault says; return whether it ended before that."""
    try:
        async with asyncio.timeout(fault.latency_seconds):
            await faults.over(fault)
    except TimeoutError:
        return False
    return True


async def _hang(fault: Fault, faults: Faults, request: Request) -> None:
    """Wait for the end of the fault, or for the client to go away."""
    waits = [asyncio.create_task(faults.over(fault)), asyncio.create_task(_gone(request))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
