"""Redis beside the breaker: a client with its manners (no retries of its own), and what can go wrong with it."""

from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from apps.shared.settings import RedisSettings
from commontrip.redis import RedisStore

AWAY = (RedisError, RedisClusterException, OSError)
"""What a command raises when Redis does not do it; a `TimeoutError` is an `OSError`."""


def connect(settings: RedisSettings) -> Any:
    """Make a client with connections of its own, for a load of ours must not make a breaker's command wait."""
    return RedisStore.from_url(settings.redis_address).client
