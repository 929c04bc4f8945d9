"""The witness: what arrived, counted before any fault touches it."""

import re
import time
from collections import Counter
from datetime import UTC, datetime

_LEGAL = re.compile(r"[A-Za-z0-9._-]{1,200}")
_MOST_REPLICAS = 1_000
_MOST_MINUTES = 60


class Stats:
    """Requests for users since the start of this process, by the caller's replica and by minute."""

    def __init__(self) -> None:
        self._since = time.time()
        self._replicas: Counter[str] = Counter()
        self._minutes: Counter[int] = Counter()

    def arrived(self, replica: str) -> None:
        """Count one; a name that is not legal, or one too many, is `other`."""
        legal = _LEGAL.fullmatch(replica) and (replica in self._replicas or len(self._replicas) < _MOST_REPLICAS)
        self._replicas[replica if legal else "other"] += 1
        minute = int(time.time() // 60)
        self._minutes[minute] += 1
        while len(self._minutes) > _MOST_MINUTES:
            del self._minutes[min(self._minutes)]

    def report(self) -> dict[str, object]:
        """Return the counts; minutes are in UTC, the latest 60 in which anything arrived."""
        return {
            "since": _time(self._since),
            "received": self._replicas.total(),
            "by_replica": dict(sorted(self._replicas.items())),
            "by_minute": {_time(minute * 60): count for minute, count in sorted(self._minutes.items())},
        }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
