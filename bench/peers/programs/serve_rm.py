"""A reward server like OpenRLHF's serve_rm: it tokenises, pads and runs the forward inside the async handler,
the texts of a request in chunks."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from bench.peers.programs.plain_model import PlainModel, model_options


def create_app(model: PlainModel) -> FastAPI:
    app = FastAPI()

    @app.post("/get_reward")
    async def get_reward(request: Request) -> dict[str, Any]:
        body = await request.json()
        return {"rewards": model.scores([tuple(pair) for pair in body["query"]])}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {}

    return app


def main() -> None:
    parser = model_options()
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    model = PlainModel(given.model, given.max_tokens, given.batch_size, given.threads)
    uvicorn.run(create_app(model), host="127.0.0.1", port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
