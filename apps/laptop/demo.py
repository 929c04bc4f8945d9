"""`make demo`: the story with settings, ports and processes of its own."""

import os
import secrets

from apps.laptop import system
from apps.laptop.children import Children
from apps.laptop.places import Places, why_not
from apps.laptop.screen import Screen
from apps.laptop.story import Story
from apps.laptop.timeline import Timeline

_PORTS = 11


def settings() -> dict[str, str]:
    """Return the demo's settings: ports that are free, and a breaker whose story takes seconds, not minutes."""
    port = _free_ports()
    return {
        "GATEWAY_PORT": str(port),
        "AUTH_PORT": str(port + 1),
        "PROFILE_PORT": str(port + 2),
        "GATEWAY_METRICS_PORT": str(port + 5),
        "AUTH_METRICS_PORT": str(port + 6),
        "PROFILE_METRICS_PORT": str(port + 7),
        "REDIS_URL": f"redis://127.0.0.1:{port + 10}/0",
        "PROFILE_BREAKER_ENABLED": os.environ.get("PROFILE_BREAKER_ENABLED", "true"),
        "PROFILE_BREAKER_WINDOW_SECONDS": "5",
        "PROFILE_BREAKER_COOLDOWN_SECONDS": "5",
        "PROFILE_BREAKER_COOLDOWN_JITTER": "0",
        "PROFILE_BREAKER_STORE_BUDGET_SECONDS": "1",  # on a busy machine a first use is not refused for being slow
    }


async def run(children: Children, places: Places, screen: Screen) -> None:
    """Tell the story. Raises `TroubleError` with the first claim that does not hold."""
    timeline = Timeline(screen)
    timeline.tell("Redis, auth, three replicas of profile and the gateway are starting")
    took = await children.during(system.start(children, places))
    timeline.tell("ready: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))
    async with Story(places, timeline) as story:
        await children.during(story.tell())
    timeline.tell("every claim holds")


def _free_ports() -> int:
    """Return the first of some free ports in a row, below the range that systems use for outgoing connections."""
    while True:
        first = 20_000 + secrets.randbelow(10_000)
        if not any(why_not("127.0.0.1", port) for port in range(first, first + _PORTS)):
            return first
