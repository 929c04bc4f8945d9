"""A real Redis Cluster of three masters."""

from pathlib import Path
from typing import Self

from tests.support.servers import Server, Started
from tests.support.waiting import wait_until

_SLOTS = 16_384
_SIZE = 3


class Cluster(Started):
    """Three masters on loopback that share the slots evenly; up in about three seconds."""

    def __init__(self, *options: str, binary: Path | None = None) -> None:
        """Prepare the nodes; `options` are passed on to each."""
        clustered = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *options)
        self.nodes = [Server(*clustered, binary=binary) for _ in range(_SIZE)]

    @property
    def url(self) -> str:
        """The address for a `RedisStore`; one node is enough to find the others."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def start(self) -> Self:
        """Start the nodes, join them, and return when every node sees a whole cluster."""
        for index, node in enumerate(self.nodes):
            node.start()
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            node.cli("CLUSTER", "ADDSLOTS", *_share(index))
        for node in self.nodes[1:]:
            node.cli("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        wait_until(self._whole, "the cluster to be whole", within=20)
        return self

    def close(self) -> None:
        """Kill the nodes and remove their directories."""
        for node in self.nodes:
            node.close()

    def flush(self) -> None:
        """Remove all keys of all nodes."""
        for node in self.nodes:
            node.flush()

    def owner(self, key: str) -> Server:
        """Return the node that holds this key."""
        slot = self.nodes[0].cli("CLUSTER", "KEYSLOT", key)
        return next(node for index, node in enumerate(self.nodes) if slot in _share(index))

    def _whole(self) -> bool:
        return all(
            f"cluster_state:ok\r\ncluster_slots_assigned:{_SLOTS}" in state and f"cluster_known_nodes:{_SIZE}" in state
            for state in (str(node.cli("CLUSTER", "INFO")) for node in self.nodes)
        )


def _share(index: int) -> range:
    return range(_SLOTS * index // _SIZE, _SLOTS * (index + 1) // _SIZE)
