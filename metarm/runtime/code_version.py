"""The version of the running code: the package's and, in a git checkout, the commit. Starts no subprocess."""

from __future__ import annotations

import re
from pathlib import Path

import metarm

COMMIT = re.compile(r"[0-9a-f]{40,64}")
SHORT = 12  # digits of the commit


def code_version(checkout: Path | None = None) -> str:
    """Such as 0.1.0+g765f342a1b2c. Without the commit if the code is installed or git's files cannot be
    read. Uncommitted changes do not show."""
    folder = checkout or Path(metarm.__file__).resolve().parent.parent
    commit = _commit(folder / ".git")
    return f"{metarm.__version__}+g{commit[:SHORT]}" if commit else metarm.__version__


def _commit(git: Path) -> str | None:
    try:
        if git.is_file():  # in a worktree: "gitdir: PATH"
            git = (git.parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        found = _branch_commit(git, head.removeprefix("ref:").strip()) if head.startswith("ref:") else head
    except (OSError, UnicodeDecodeError):
        return None
    return found if found and COMMIT.fullmatch(found) else None


def _branch_commit(git: Path, branch: str) -> str | None:
    shared = git / "commondir"  # names the main checkout's folder, where a worktree's branches are
    common = (git / shared.read_text().strip()).resolve() if shared.is_file() else git
    for folder in (git, common):
        if (folder / branch).is_file():
            return (folder / branch).read_text().strip()
    packed = common / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {branch}")), None)
