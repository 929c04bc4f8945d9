"""What the services log of a breaker: a line for each transition, and a troubled store once a period."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from commontrip.opentelemetry import span_ids
from tests.support.servers import Server
from tests.telemetry.fleet import Auth, Fleet
from tests.telemetry.sink import Sink


@pytest.mark.parametrize("exports", [False, True])
async def test_each_replica_logs_each_transition_once(
    server: Server, prefix: str, auth: Auth, tmp_path: Path, sink: Sink, *, exports: bool
) -> None:
    """One line by whoever made it and one by each who learned of it, with breaker, epoch, reason and its trace's id."""
    otel = {"otel_exporter_otlp_endpoint": sink.url} if exports else {}
    async with Fleet(server, prefix, auth, tmp_path, 3, **otel) as fleet:
        for n in range(3):
            await fleet.trip(fleet.all[n])
            await fleet.recover(fleet.all[n - 1])
        made = await fleet.history()
        lines = {one.name: [line for line in one.logged() if "epoch" in line] for one in fleet.all}
    expected = [
        ("auth", str(t.epoch), t.reason, *("{:032x} {:016x}".format(*span_ids("auth", str(t.epoch))).split()))
        for t in made
    ]
    for told in lines.values():
        keys = ("breaker", "epoch", "reason", "trace_id", "span_id")
        assert [tuple(line[key] for key in keys) for line in told] == expected
    makers = Counter(line["epoch"] for told in lines.values() for line in told if ", made;" in line["message"])
    assert makers == dict.fromkeys((str(t.epoch) for t in made), 1)


async def test_a_flapping_store_is_logged_once_a_period(
    fresh_server: Callable[..., Server], prefix: str, auth: Auth, tmp_path: Path
) -> None:
    """Redis away five times within seconds, under traffic: each kind of trouble is one line, however many calls."""
    server = fresh_server()
    async with Fleet(server, prefix, auth, tmp_path, 1, profile_fallback="stale") as fleet:
        (one,) = fleet.all
        for kind in ("local_mode", "shared_mode"):
            away = kind == "local_mode"
            server.freeze() if away else server.thaw()
            async with asyncio.timeout(10):
                while not any(line.get("kind") == kind for line in one.logged()):
                    await fleet.ask(one)
        for _ in range(4):
            server.freeze()
            until = asyncio.get_running_loop().time() + 0.8
            while asyncio.get_running_loop().time() < until:
                await fleet.ask(one)
            server.thaw()
            for _ in range(50):
                await fleet.ask(one)
        lines = [line for line in one.logged() if line["logger"] != "apps.requests"]
    troubles = Counter((line["logger"], line.get("kind") or line["message"]) for line in lines)
    print(dict(troubles))
    assert {("commontrip", "local_mode"), ("commontrip", "shared_mode")} <= set(troubles)
    assert max(troubles.values()) == 1
