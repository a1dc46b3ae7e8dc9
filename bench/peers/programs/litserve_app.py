"""A reward server on LitServe: LitServe's batching of requests, and a plain transformers forward.

No `from __future__ import annotations`: LitServe reads the annotations of decode_request.
"""

import argparse
from typing import Any

import litserve

from bench.peers.programs.plain_model import Pair, PlainModel, model_options


class RewardApi(litserve.LitAPI):  # type: ignore[misc]  # litserve has no types
    """A request is {"pairs": [[prompt, response], …]}, its answer {"scores": […]}."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(max_batch_size=arguments.requests_per_batch, batch_timeout=arguments.batch_timeout_s)
        self._arguments = arguments

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        given = self._arguments
        self._model = PlainModel(given.model, given.max_tokens, given.batch_size, given.threads)

    def decode_request(self, request: dict[str, Any]) -> list[Pair]:
        return [(prompt, response) for prompt, response in request["pairs"]]

    def batch(self, inputs: list[list[Pair]]) -> list[list[Pair]]:
        return inputs

    def predict(self, batch: Any) -> Any:
        """`batch` is the pairs of one request where requests are not batched, else a list of these."""
        if self.max_batch_size == 1:
            return self._model.scores(batch)
        remaining = iter(self._model.scores([pair for pairs in batch for pair in pairs]))
        return [[next(remaining) for _ in pairs] for pairs in batch]

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        return {"scores": output}


def main() -> None:
    parser = model_options()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests-per-batch", type=int, required=True)
    parser.add_argument("--batch-timeout-s", type=float, required=True)
    given = parser.parse_args()
    server = litserve.LitServer(RewardApi(given), accelerator="cpu", timeout=600)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
