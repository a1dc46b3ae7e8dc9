"""`metarm serve`, or `python -m service`: settings → uvicorn."""

from __future__ import annotations

import os
import sys

from metarm.errors import EXIT_CONFIGURATION, ConfigurationError
from metarm.runtime import logs, process_environment
from metarm.shared.connection import connect
from service.settings import ServiceSettings


def main() -> None:
    process_environment.ensure_set()
    os.environ["HF_HUB_OFFLINE"] = "1"  # all versions come from the store
    settings = ServiceSettings.from_command_line("metarm serve", sys.argv[1:])
    logs.configure("service", settings)
    try:
        connect(settings.required_redis_url).close()  # it does not ask Redis
    except ConfigurationError as error:
        logs.refuse("metarm serve", error.message)
        sys.exit(EXIT_CONFIGURATION)

    with process_environment.gc_paused():
        import uvicorn  # not before the environment is set: the app imports torch

        from metarm.model.reward_model import quiet_transformers
        from service.http.app import create_app

    quiet_transformers()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,  # uvicorn logs through the handlers of logs.configure
        access_log=False,
        timeout_graceful_shutdown=30,
        http="httptools",
    )


if __name__ == "__main__":
    main()
