"""`make up`: the whole system, until it is told to end."""

import asyncio
from typing import Any

from apps.laptop import system
from apps.laptop.children import Children
from apps.laptop.events import Events
from apps.laptop.places import Places
from apps.laptop.screen import Part, Screen, clock, state


async def run(children: Children, places: Places, screen: Screen) -> None:
    """Start it, say where it is, and then tell of every transition until this is cancelled. Raises `TroubleError`."""
    took = await children.during(system.start(children, places))
    screen.show(", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))
    for line in _places(places):
        screen.show(line)
    fleet = Follower(screen)
    await children.during(fleet.follow([place.url for place in places.profiles]))


class Follower:
    """All replicas' events, each transition of the fleet shown once."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._seen: set[str] = set()

    async def follow(self, urls: list[str]) -> None:
        """Read the streams of all."""
        await asyncio.gather(*(Events(url, self._hear).follow() for url in urls))

    def _hear(self, applied: dict[str, Any]) -> None:
        made = applied["transition"]
        if made["previous_state"] and made["epoch"] not in self._seen:  # without one, the keys were just made
            self._seen.add(made["epoch"])
            self._screen.show(*line(applied))


def line(applied: dict[str, Any]) -> list[Part]:
    """Return a transition as one line: when, what, why, who, and on which counts."""
    made = applied["transition"]
    who = f"{made['replica']}, alone: Redis is away" if applied["local"] else made["replica"]
    counts = f", {made['failures']} failures of {made['calls']} calls" if made["calls"] else ""
    until = f", for {made['cooldown']:.1f} s" if made["state"] == "OPEN" else ""
    change: list[Part] = [state(made["previous_state"]), " -> ", state(made["state"])]
    return [f"{clock(made['since'])}  {applied['breaker']}  ", *change, f"  {made['reason']}, by {who}{counts}{until}"]


def _places(places: Places) -> list[str]:
    """Return what to look at and what to try."""
    first, faults = places.profiles[0].url, f"{places.auth.url}/faults"
    login = f" -H 'Authorization: Bearer {places.auth_token}'" if places.auth_token else ""
    order = '{"override": "FORCED_OPEN", "author": "me", "reason": "a drill", "seconds": 60}'
    ports = ", ".join(f"{place.metrics_port} ({place.name})" for place in (places.auth, *places.profiles))
    token = f" -H 'Authorization: Bearer {places.override_token}'"
    found = {
        "a profile": f"curl {places.gateway.url}/profile/ada",
        "the console": f"{first}/console",
        "the breaker": f"{first}/breakers/auth",
        "its events": f"curl -N {first}/breakers/events",
        "auth's count": f"{places.auth.url}/stats",
        "auth fails": f'curl{login} -X PUT {faults} -d \'{{"kind": "error", "expires_seconds": 60}}\'',
        "auth heals": f"curl{login} -X DELETE {faults}",
        "an override": f"curl{token} {first}/breakers/auth/override -d '{order}'",
        "metrics": f"{places.gateway.metrics_url} (gateway), and on the ports {ports}",
    }
    if not places.override_token:
        found["an override"] = "set PROFILE_OVERRIDE_TOKEN for it, as others than this machine can reach the services"
    if places.redis:
        login = " --askpass" if places.redis.password else ""
        found["Redis"] = f"redis-cli -p {places.redis.port}{login} GET {places.settings.redis_prefix}:auth:state"
    shown = [f"  {name:<13}{text}" for name, text in found.items()]
    return ["", *shown, "", "One line for each transition of the circuit; Ctrl-C ends it all.", ""]
