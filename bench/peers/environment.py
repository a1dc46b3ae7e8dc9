"""Virtual environments of the peers: exact packages, which pip installs from its configured index."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.places import ENVIRONMENTS

# Installed first and pinned: a resolver that chooses torch itself would install the CUDA build.
TORCH = "torch==2.13.0"


@dataclass(frozen=True, slots=True)
class Environment:
    """A named virtual environment and its requirements, except torch."""

    name: str
    requirements: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        return self.program("python")

    @property
    def installed(self) -> bool:
        return self._marker.is_file() and self._marker.read_text() == self._digest()

    def program(self, name: str) -> Path:
        """The path of a command of its packages."""
        return self.folder / "bin" / name

    def install(self) -> None:
        """Make the environment from scratch, unless it exists with these requirements."""
        if self.installed:
            return
        print(f"installing {self.name} ({', '.join(self.requirements)}): a few minutes, once", flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(self.folder)])
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, TORCH])
        _run([*pip, TORCH, *self.requirements])
        self._marker.write_text(self._digest())

    @property
    def _marker(self) -> Path:
        return self.folder / ".installed"

    def _digest(self) -> str:
        return hashlib.sha256("\n".join((TORCH, *self.requirements)).encode()).hexdigest()


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)  # noqa: S603 (our own command lines)


# infinity_emb needs click < 8.2 and typer < 0.13; it does not require the transformers that it works with.
INFINITY = Environment(
    "infinity",
    (
        "infinity_emb[server]==0.0.78",
        "transformers==4.57.6",
        "sentence-transformers==3.4.1",
        "numpy==1.26.4",
        "typer==0.12.5",
        "click==8.1.8",
        "uvicorn==0.32.1",
        "optimum==2.1.0",
        "optimum-onnx[onnxruntime]==0.1.0",
    ),
)
# For servers on plain transformers: the same version of transformers as this project's.
PLAIN = Environment(
    "plain",
    (
        "transformers==5.23.0",
        "litserve==0.2.19",
        "sentence-transformers==6.2.0",
        "fastapi==0.165.0",
        "uvicorn==0.54.0",
        "uvloop==0.23.0",
        "httptools==0.9.0",
    ),
)
