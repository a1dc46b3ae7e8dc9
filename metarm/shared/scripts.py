"""Loads the Lua scripts in this folder. Redis runs each as one atomic step."""

from __future__ import annotations

from pathlib import Path

import redis
from redis.commands.core import Script

HERE = Path(__file__).parent


def load_script(client: redis.Redis, *names: str) -> Script:
    """The script `{name}.lua` of the last name, preceded by those it builds on.

    Sends nothing to Redis yet. A call sends the script's digest (EVALSHA), and its text only if Redis does not
    know it: after a restart, a failover or SCRIPT FLUSH. A pipeline checks that (SCRIPT EXISTS) before it
    sends its commands.
    """
    return client.register_script("\n".join((HERE / f"{name}.lua").read_text() for name in names))
