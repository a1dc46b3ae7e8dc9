"""infinity_emb: /rerank with the prompt as query and the responses as documents, raw scores.

Both engines run without the model warm-up at start, because the benchmark warms all arms up, and without the
disk cache. Whether idle threads spin or sleep is left at the default.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

from bench.arms import ServerPlan, Setting
from bench.models import Kind
from bench.peers.environment import INFINITY
from bench.places import MODELS
from bench.processes import clean_environment
from bench.workload import Request

Engine = Literal["torch", "optimum"]
# Batches of 1 are the fastest on CPU: with mixed lengths, padding costs more than batching gains
# (8 connections, texts/s of the torch engine: 36 with 1, 22 with 8, 20 with the default of 32).
# The texts of a group have one length: there, batches of 4.
BEST_BATCH: dict[Kind, int] = {"encoder": 1, "causal": 4}
USUAL_BATCH = 32
QUIET = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


def plan(engine: Engine, setting: Setting) -> ServerPlan:
    """The optimum engine uses the checkpoint that optimum-cli exports. The server starts inside the model's
    folder: it loads local folders only as `--model-id .`."""
    INFINITY.install()
    folder = setting.folder / f"infinity-{engine}"
    model = setting.checkpoint.path
    if engine == "optimum":
        model = exported(model)
    flags = ["--no-bettertransformer", "--no-compile", "--no-model-warmup", "--no-vector-disk-cache"]

    def command(port: int) -> list[str]:
        options = {
            "--model-id": ".",
            "--served-model-name": "rm",
            "--engine": engine,
            "--device": "cpu",
            "--batch-size": str(setting.batch_size(BEST_BATCH, USUAL_BATCH)),
            "--host": "127.0.0.1",
            "--port": str(port),
            "--log-level": "warning",
        }
        named = [part for option in options.items() for part in option]
        return [str(INFINITY.program("infinity_emb")), "v2", *named, *flags]

    return ServerPlan(
        command=command,
        folder=folder,
        settings=lambda _: {**QUIET, "HF_HOME": str(folder / "hub")},
        ready_path="/health",
        score_path="/rerank",
        speak=_speak,
        understand=_understand,
        working_folder=model,
    )


def exported(checkpoint: Path) -> Path:
    """The checkpoint as ONNX, exported once and kept."""
    folder = MODELS / f"{checkpoint.name}-onnx"
    if folder.is_dir():
        return folder
    INFINITY.install()
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    exporter = [str(INFINITY.python), "-m", "optimum.commands.optimum_cli", "export", "onnx"]
    command = [*exporter, "--task", "text-classification", "--model", str(checkpoint), str(unfinished)]
    print(f"exporting {checkpoint.name} to ONNX, once", flush=True)
    done = subprocess.run(  # noqa: S603 (our own command line)
        command, env=clean_environment(QUIET), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"optimum-cli could not export {checkpoint.name}: {done.stderr.strip()[-2000:]}")
    unfinished.rename(folder)
    return folder


def _speak(request: Request) -> dict[str, Any]:
    return {"model": "rm", "query": request.prompt, "documents": list(request.responses), "raw_scores": True}


def _understand(answer: dict[str, Any]) -> list[float]:
    """Results are sorted by score; `index` is the place among the documents."""
    by_place = {result["index"]: float(result["relevance_score"]) for result in answer["results"]}
    return [by_place[place] for place in range(len(by_place))]
