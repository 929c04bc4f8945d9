"""The servers that other tests trust really start, freeze, die, come back and fail over."""

import time
from collections.abc import Callable

import pytest

from tests.support.binary import VARIABLE, NoServerError, find
from tests.support.cluster import Cluster
from tests.support.resp import ReplyError
from tests.support.sentinel import SentinelPair
from tests.support.servers import Server
from tests.support.waiting import wait_until

Start = Callable[..., Server]


def test_missing_server_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing server is one line that says what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(VARIABLE, "redis")
    with pytest.raises(NoServerError, match=r"install the package redis-server$"):
        find()


def test_version_is_the_running_one(server: Server) -> None:
    """The version that the header prints is what the server says of itself."""
    name, version = server.version.split()
    assert server.info("server")[f"{name.lower()}_version"] == version


def test_settings_and_options_arrive(fresh_server: Start) -> None:
    """Options hold from the start, and `config` changes a setting later."""
    server = fresh_server("--maxmemory", "3mb")
    assert server.cli("CONFIG", "GET", "maxmemory") == ["maxmemory", "3145728"]
    server.config("maxmemory", "4mb")
    assert server.cli("CONFIG", "GET", "maxmemory") == ["maxmemory", "4194304"]


def test_refusal_is_raised(server: Server, prefix: str) -> None:
    """An error of the server reaches the test."""
    server.cli("SET", prefix, "word")
    with pytest.raises(ReplyError, match="not an integer"):
        server.cli("INCR", prefix)


def test_wrong_option_shows_the_log(fresh_server: Start) -> None:
    """A server that cannot start says why."""
    with pytest.raises(RuntimeError, match="no-such-option"):
        fresh_server("--no-such-option", "1")


def test_restart_is_empty_and_on_the_same_port(fresh_server: Start) -> None:
    """A server comes back where it was, without its keys."""
    server = fresh_server()
    port = server.port
    server.cli("SET", "key", "1")
    server.restart()
    assert (server.port, server.cli("GET", "key")) == (port, None)


def test_running_server_is_not_started_again(fresh_server: Start) -> None:
    """A second start would leave the first process to run for ever."""
    server = fresh_server()
    with pytest.raises(RuntimeError, match=f"runs on port {server.port} already"):
        server.start()


def test_killed_server_refuses(fresh_server: Start) -> None:
    """Nothing listens after a kill."""
    server = fresh_server()
    server.kill()
    assert not server.running
    with pytest.raises(ConnectionRefusedError):
        server.cli("PING")


def test_frozen_server_answers_after_the_thaw(fresh_server: Start) -> None:
    """A frozen server accepts connections and answers nothing until it is thawed."""
    server = fresh_server()
    server.freeze()
    with pytest.raises(TimeoutError):
        server.cli("PING", timeout=0.1)
    server.thaw()
    assert server.cli("PING") == "PONG"


def test_frozen_server_can_be_stopped(fresh_server: Start) -> None:
    """Closing leaves no frozen process behind."""
    server = fresh_server()
    server.freeze()
    server.stop()
    assert not server.running


def test_flush_empties(fresh_server: Start) -> None:
    """A flush removes every key."""
    server = fresh_server()
    server.cli("SET", "key", "1")
    server.flush()
    assert server.cli("DBSIZE") == 0


def test_cluster_spreads_keys_over_three_nodes(cluster: Cluster) -> None:
    """Every node owns a part of the slots and answers for it."""
    cluster.flush()
    for number in range(30):
        key = f"cb:{{{number}}}:state"
        cluster.owner(key).cli("SET", key, "CLOSED")
    sizes = [int(str(node.cli("DBSIZE"))) for node in cluster.nodes]
    assert all(sizes)
    assert sum(sizes) == 30


def test_cluster_node_redirects(cluster: Cluster) -> None:
    """A node that does not own a key says who does."""
    owner = cluster.owner("key")
    other = next(node for node in cluster.nodes if node is not owner)
    with pytest.raises(ReplyError, match=f"MOVED \\d+ 127.0.0.1:{owner.port}"):
        other.cli("GET", "key")


def test_ordered_failover_keeps_what_was_replicated(sentinel: SentinelPair, prefix: str) -> None:
    """A failover swaps the roles, and the new master has the keys of the old one."""
    old, new = sentinel.master, sentinel.replica
    old.cli("SET", prefix, "1")
    wait_until(lambda: new.cli("GET", prefix) == "1", "the replica to have the key")
    assert sentinel.fail_over() is new
    assert sentinel.master is new
    assert new.cli("GET", prefix) == "1"


def test_failover_after_a_kill_loses_what_was_not_replicated(sentinel: SentinelPair, prefix: str) -> None:
    """Writes that the replica never saw are gone when its master dies."""
    old, new = sentinel.master, sentinel.replica
    sentinel.stop_replication()
    old.cli("SET", prefix, "1")
    old.kill()
    new.thaw()
    assert sentinel.replaced(old) is new
    assert new.cli("GET", prefix) is None


def test_three_sentinels_agree() -> None:
    """A pair under three sentinels starts, and all of them name the same new master."""
    with SentinelPair(sentinels=3) as pair:
        new = pair.fail_over()
        assert {sentinel.master_port for sentinel in pair.sentinels} == {new.port}


def test_waiting_ends_with_what_it_waited_for() -> None:
    """A condition that never holds is a `TimeoutError` with a name."""
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="for the moon"):
        wait_until(lambda: False, "the moon", within=0.05)
    assert time.monotonic() - started < 5
