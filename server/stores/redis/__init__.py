"""Logs in Redis, which instances on any machine share."""

from server.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
