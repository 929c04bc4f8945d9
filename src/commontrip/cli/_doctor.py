"""`doctor`: examine Redis and what is kept in it. Each check says what it found and, if need be, what to do."""

import asyncio
import dataclasses
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

from commontrip._errors import StoreUnavailableError
from commontrip.cli import _words
from commontrip.cli._door import Door

PATIENCE = 3.0
"""Seconds that one check may take; the longest that the doctor waits for a Redis that gives no answer."""
_MOST_KEYS = 10_000  # that are looked at
_PINGS = 10
_OLDEST = (6, 2)
_SLOW = 0.01  # seconds; a fifth of the store budget
_APART = 5.0  # seconds between two clocks
_NEARLY_FULL = 0.9
_MOST_SEEN = 1000  # breakers that are looked at
_SHOWN = 3  # names in one line
_UNTOLD = "not told"
"""What a managed server keeps to itself."""

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was found."""

    name: str
    status: Status
    says: str
    advice: str = ""


async def examine(door: Door) -> list[Check]:
    """Make all checks; after one that Redis does not answer, no more."""
    checks: list[Check] = []
    for name, check in _CHECKS.items():
        try:
            async with asyncio.timeout(PATIENCE):
                checks += [Check(name, *found) async for found in check(door)]
        except StoreUnavailableError as error:
            status: Status = "warn" if error.misconfigured and name not in _VITAL else "fail"
            advice = (
                "give this user the right, or examine as another"
                if error.misconfigured
                else "start Redis, or give another address"
            )
            checks.append(Check(name, status, error.cause, advice))
        except TimeoutError:
            words = f"no answer for {PATIENCE:g} s"
            checks.append(Check(name, "fail", words, "see whether the server hangs, or is overloaded"))
            break
        if name == "reachable" and checks[-1].status == "fail":
            break
    return checks


def verdict(checks: list[Check]) -> int:
    """Return 0 if all is well, 1 after a warning, 2 after a fault."""
    return max(("ok", "warn", "fail").index(check.status) for check in checks)


def plain(door: Door, checks: list[Check]) -> dict[str, Any]:
    """Return what `--json` prints."""
    worst = ("ok", "warn", "fail")[verdict(checks)]
    return {
        "redis": door.place,
        "prefix": door.prefix,
        "worst": worst,
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def lines(door: Door, checks: list[Check]) -> list[str]:
    """Return what people read."""
    said = [_words.clean(f"Redis at {door.place}, prefix {door.prefix}")]
    for check in checks:
        said.append(f"{check.status:<4} {check.name:<12} {_words.clean(check.says)}")
        said += [f"     {'':<12} -> {check.advice}"] if check.advice else []
    return said


# -- the checks

Found = AsyncIterator[tuple[Any, ...]]


async def _reachable(door: Door) -> Found:
    answers = await door.command("PING")
    yield "ok", f"it answers; {len(answers)} masters" if len(answers) > 1 else "it answers"


async def _server(door: Door) -> Found:
    for at, info in (await door.command("INFO", "server")).items():
        name = str(info.get("server_name") or "redis")
        version = str(info.get("valkey_version") or info.get("redis_version") or _UNTOLD)
        known = re.match(r"(\d+)\.(\d+)", version)
        old = known is not None and (int(known[1]), int(known[2])) < _OLDEST
        status, advice = ("fail" if old else "ok" if known else "warn"), "commontrip needs 6.2 or newer"
        yield status, _of(at, f"{name} {version}"), "" if status == "ok" else advice


async def _role(door: Door) -> Found:
    for at, info in (await door.command("INFO", "replication")).items():
        role = info.get("role")
        says = {"master": "it is a master", None: _UNTOLD}.get(role, "it is a replica, which takes no writes")
        yield (
            {"master": "ok", None: "warn"}.get(role, "fail"),
            _of(at, says),
            "" if role == "master" else "give the master's address, or that of a Sentinel",
        )


async def _memory(door: Door) -> Found:
    for at, info in (await door.command("INFO", "memory")).items():
        policy, most = info.get("maxmemory_policy", _UNTOLD), int(info.get("maxmemory", 0))
        used = int(info.get("used_memory", 0))
        limit = f"{most / 2**20:.0f} MiB" if most else "no limit" if "maxmemory" in info else _UNTOLD
        right = policy == "noeviction"
        yield (
            "ok" if right else "warn",
            _of(at, f"maxmemory-policy {policy}, maxmemory {limit}, {used / 2**20:.1f} MiB used"),
            "" if right else "evicting a breaker's keys closes its circuit: CONFIG SET maxmemory-policy noeviction",
        )
        if most and used > most * _NEARLY_FULL:
            full = used >= most and right
            says = "it is full and refuses writes" if full else f"{used / most:.0%} of maxmemory are used"
            yield "fail" if full else "warn", _of(at, says), "raise maxmemory, or see what fills it"


async def _latency(door: Door) -> Found:
    took = []
    for _ in range(_PINGS):
        begun = time.perf_counter()
        await door.command("PING")
        took.append(time.perf_counter() - begun)
    median, slow = statistics.median(took), statistics.median(took) > _SLOW
    advice = "more than a fifth of the store budget (50 ms): move Redis nearer, or raise the budget" if slow else ""
    yield (
        "warn" if slow else "ok",
        f"{median * 1000:.1f} ms median, {max(took) * 1000:.1f} ms at most, of {_PINGS}",
        advice,
    )


async def _clock(door: Door) -> Found:
    for at, (whole, micros) in (await door.command("TIME")).items():
        ahead = whole + micros / 1e6 - time.time()
        apart = abs(ahead) > _APART
        yield (
            "warn" if apart else "ok",
            _of(at, f"it is {abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"),
            "breakers use Redis's clock alone, but recorded times differ from your logs: run NTP" if apart else "",
        )


async def _keys(door: Door) -> Found:
    count, lasting = await door.lasting(_MOST_KEYS)
    looked = f"of {count} keys{', the first that were found,' if count == _MOST_KEYS else ''}"
    if not lasting:
        yield "ok", f"{looked} each has a TTL"
        return
    names = ", ".join(lasting[:_SHOWN]) + (", …" if len(lasting) > _SHOWN else "")
    yield (
        "warn",
        f"{looked} {len(lasting)} have no TTL: {names}",
        "somebody has written them by hand: a breaker in use mends its own, DEL what nobody uses",
    )


async def _cache(door: Door) -> Found:
    held, count = await door.cached()
    yield "ok", f"{held} of our {count} scripts are in the server's cache; the others are loaded when needed"


async def _scripts(door: Door) -> Found:
    subscribed = asyncio.Event()
    await door.start(lambda *_: None, subscribed.set)
    yield "ok", "our scripts can be loaded"
    try:
        async with asyncio.timeout(PATIENCE / 2):
            await subscribed.wait()
        yield "ok", f"the channel {door.channel} can be subscribed to"
    except TimeoutError:
        late = f"nobody can subscribe to the channel {door.channel}: transitions are learned late, by polling"
        yield "fail", late, f"ACL SETUSER … &{door.channel} +subscribe"


async def _rights(door: Door) -> Found:
    lacking = await door.lacking()
    words = " ".join(lacking)
    if lacking:
        rules = " ".join(f"+{command.lower()}" for command in lacking)
        yield (
            "fail",
            f"this user may not run {words} on our keys",
            f"ACL SETUSER … ~{door.prefix}:* &{door.prefix}:* {rules}",
        )
    else:
        yield "ok", "this user may run all that a replica runs"


async def _persistence(door: Door) -> Found:
    for at, info in (await door.command("INFO", "persistence")).items():
        broken = "err" in (info.get("rdb_last_bgsave_status"), info.get("aof_last_write_status"))
        if broken:
            yield (
                "warn",
                _of(at, "the last save failed"),
                "Redis may refuse writes until one works: see its log and disk",
            )
        aof = info.get("aof_enabled")
        kept = {None: f"AOF: {_UNTOLD}", 0: "AOF is off: after a restart replicas tell what they remember"}
        yield "warn" if aof is None else "ok", _of(at, kept.get(aof, "AOF is on"))


async def _breakers(door: Door) -> Found:
    names = await door.names()
    found = await door.peek(names[:_MOST_SEEN])
    spoilt = [facts.name for facts in found if facts.view.mended]
    states = [str(facts.order or facts.transition.state) for facts in found if facts.transition]
    tally = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    yield "ok", f"{len(names)} found{': ' if tally else ''}{tally}"
    if spoilt:
        yield "warn", f"garbage in the epoch of {', '.join(spoilt[:_SHOWN])}", "a replica that uses it writes it anew"
    yield "ok", f"{len(await door.members())} replicas alive"


def _of(at: str, words: str) -> str:
    return f"{at}: {words}" if at else words


_VITAL = {"reachable", "scripts", "rights"}
_CHECKS: dict[str, Callable[[Door], Found]] = {
    "reachable": _reachable,
    "server": _server,
    "role": _role,
    "memory": _memory,
    "latency": _latency,
    "clock": _clock,
    "persistence": _persistence,
    "rights": _rights,
    "cache": _cache,
    "scripts": _scripts,
    "keys": _keys,
    "breakers": _breakers,
}
