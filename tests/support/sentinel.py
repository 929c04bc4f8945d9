"""A real master and replica watched by sentinels, and failovers between the two."""

from pathlib import Path
from typing import Self

from tests.support.resp import Reply, ReplyError
from tests.support.servers import Server, Started
from tests.support.waiting import wait_until

SERVICE = "commontrip"


class Sentinel(Server):
    """One sentinel: the same program in another mode."""

    def __init__(self, master: Server, quorum: int) -> None:
        """Prepare a sentinel that watches `master`."""
        super().__init__(binary=master.binary)
        self._settings = self.directory / "sentinel.conf"
        self._settings.write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f'dir "{self.directory}"\n'
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\n"
            f"sentinel failover-timeout {SERVICE} 4000\n"
        )

    def ask(self, *words: str) -> Reply:
        """Run `SENTINEL …` for the watched service."""
        return self.cli("SENTINEL", words[0], SERVICE, *words[1:])

    @property
    def master_port(self) -> int:
        """Where this sentinel sends clients; already the new master while a failover ends."""
        address = self.ask("get-master-addr-by-name")
        return int(str(address[1])) if isinstance(address, list) else 0

    def knows(self, *, sentinels: int) -> bool:
        """Whether it has found that many other sentinels, and one replica fit to be promoted."""
        replicas = [_record(row) for row in _rows(self.ask("replicas"))]
        return (
            len(_rows(self.ask("sentinels"))) == sentinels
            and len(replicas) == 1
            and replicas[0]["flags"] == "slave"
            and replicas[0]["master-link-status"] == "ok"
        )

    def _command(self) -> list[str]:
        return [str(self.binary), str(self._settings), "--sentinel"]


class SentinelPair(Started):
    """A master, its replica and the sentinels that fail over from one to the other."""

    def __init__(self, *options: str, sentinels: int = 1, binary: Path | None = None) -> None:
        """Prepare the servers; `options` are passed on to master and replica."""
        prompt = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", *options)
        first = Server(*prompt, binary=binary)
        self.servers = [first, Server(*prompt, binary=binary)]
        self.sentinels = [Sentinel(first, sentinels // 2 + 1) for _ in range(sentinels)]

    @property
    def url(self) -> str:
        """The address for a `RedisStore`."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    @property
    def master(self) -> Server:
        """The server that the sentinels call the master now."""
        port = self.sentinels[0].master_port
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> Server:
        """The other server."""
        master = self.master
        return next(server for server in self.servers if server is not master)

    def start(self) -> Self:
        """Start everything and return when a failover would succeed."""
        master, replica = self.servers
        master.start()
        replica.start()
        replica.cli("REPLICAOF", "127.0.0.1", master.port)
        for sentinel in self.sentinels:
            sentinel.start()
        wait_until(self._ready, "the sentinels to know each other and the replica", within=20)
        return self

    def close(self) -> None:
        """Kill everything."""
        for server in (*self.sentinels, *self.servers):
            server.close()

    def fail_over(self) -> Server:
        """Order a failover and return the new master when the sentinels name it.

        The old master still believes in itself until a sentinel demotes it, some ten seconds later.
        """
        old = self.master
        wait_until(self._ordered, "a sentinel to accept the failover")
        return self.replaced(old)

    def replaced(self, old: Server) -> Server:
        """Wait until the sentinels name another master than `old`, and return it.

        For a master that the test has killed or frozen.
        """

        def moved() -> bool:
            return all(sentinel.master_port != old.port for sentinel in self.sentinels)

        wait_until(moved, "the sentinels to name a new master", within=30)
        new = self.master
        wait_until(lambda: new.info("replication")["role"] == "master", "it to accept writes")
        return new

    def stop_replication(self) -> None:
        """Freeze the replica and drop its link: writes from now on are lost with the master.

        Thaw the replica once the master is dead.
        """
        master, replica = self.master, self.replica
        replica.freeze()
        master.cli("CLIENT", "KILL", "TYPE", "replica")

    def _ordered(self) -> bool:
        try:
            return self.sentinels[0].ask("failover") == "OK"
        except ReplyError as error:
            if str(error).startswith(("NOGOODSLAVE", "INPROG")):
                return False
            raise

    def _ready(self) -> bool:
        linked = self.replica.info("replication").get("master_link_status") == "up"
        others = len(self.sentinels) - 1
        return linked and all(sentinel.knows(sentinels=others) for sentinel in self.sentinels)


def _rows(answer: Reply) -> list[Reply]:
    return answer if isinstance(answer, list) else []


def _record(row: Reply) -> dict[str, str]:
    words = [str(word) for word in _rows(row)]
    return dict(zip(words[::2], words[1::2], strict=True))
