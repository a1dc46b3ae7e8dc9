"""`python3 -m trainer.health`: exit status 0 while a trainer is alive, for the health check of its container.

It may be the trainer of another container: then this one correctly waits for its place.
"""

from __future__ import annotations

import sys

import redis

from metarm.errors import MetaRMError
from metarm.runtime.settings import ProcessSettings
from metarm.shared.connection import connect
from metarm.shared.presence import TrainerPresence


def main() -> None:
    try:
        settings = ProcessSettings.parse("python -m trainer.health", [])
        status = TrainerPresence(connect(settings.required_redis_url)).status()
    except (MetaRMError, redis.RedisError) as error:
        sys.exit(f"the trainer's state is unknown: {error}")
    if status is None:
        sys.exit("no trainer holds the place")


if __name__ == "__main__":
    main()
