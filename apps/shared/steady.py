"""`SteadyTransport`: under an HTTP client whose requests may be cancelled."""

import asyncio

import httpx


class SteadyTransport(httpx.AsyncBaseTransport):
    """Leaves a request alone until it is connected, also when its caller is cancelled.

    httpcore 1.0 loses a connection's place in its pool for ever when a request is cancelled just before it
    connects (encode/httpcore#1093): some hundred clients that hang up would leave none. So the sending runs in
    a task of its own, which is cancelled `grace` seconds after its caller; by then it is connected, or has failed.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, grace: float) -> None:
        self._transport = transport
        self._grace = grace
        self._left: set[asyncio.Task[None]] = set()

    @property
    def left(self) -> int:
        """How many requests still run whose callers have left."""
        return len(self._left)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it."""
        sending = asyncio.create_task(self._transport.handle_async_request(request))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            self._leave(sending)
            raise

    def _leave(self, sending: "asyncio.Task[httpx.Response]") -> None:
        leaving = asyncio.create_task(self._discard(sending))
        self._left.add(leaving)
        leaving.add_done_callback(self._left.discard)

    async def _discard(self, sending: "asyncio.Task[httpx.Response]") -> None:
        await asyncio.wait([sending], timeout=self._grace)
        sending.cancel()
        [answer] = await asyncio.gather(sending, return_exceptions=True)
        if isinstance(answer, httpx.Response):
            await answer.aclose()

    async def aclose(self) -> None:
        """Close the transport beneath, once those who were left are gone."""
        await asyncio.gather(*self._left, return_exceptions=True)
        await self._transport.aclose()
