"""`metarm serve`, or `python -m service`: settings → uvicorn."""

from __future__ import annotations

import os
import sys

from metarm.runtime import logs, process_environment
from service.settings import ServiceSettings


def main() -> None:
    process_environment.ensure()
    os.environ["HF_HUB_OFFLINE"] = "1"  # versions come from the store, never from a hub
    settings = ServiceSettings.from_command_line("metarm serve", sys.argv[1:])
    logs.configure("service", settings)

    with process_environment.uncollected():
        import uvicorn  # after the environment is in force: it pulls in the app, and that torch

        from metarm.model.reward_model import quiet_transformers
        from service.http.app import create_app

    quiet_transformers()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,  # through the handlers above
        access_log=False,
        timeout_graceful_shutdown=30,
        http="httptools",
    )


if __name__ == "__main__":
    main()
