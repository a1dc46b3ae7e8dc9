from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import metarm
from metarm.runtime.code_version import code_version


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_the_code_version_names_the_commit_that_is_checked_out(checkout: Path) -> None:
    def expected(folder: Path) -> str:
        return f"{metarm.__version__}+g{git(folder, 'rev-parse', 'HEAD')[:12]}"

    assert code_version(checkout) == expected(checkout)
    git(checkout, "pack-refs", "--all")
    assert code_version(checkout) == expected(checkout)
    git(checkout, "commit", "-q", "--allow-empty", "-m", "two")
    assert code_version(checkout) == expected(checkout)
    git(checkout, "worktree", "add", "-q", "../other", "-b", "feature/other")
    git(checkout.parent / "other", "commit", "-q", "--allow-empty", "-m", "three")
    assert code_version(checkout.parent / "other") == expected(checkout.parent / "other")
    assert code_version(checkout.parent / "other") != code_version(checkout)
    git(checkout, "checkout", "-q", "--detach", "HEAD~1")
    assert code_version(checkout) == expected(checkout)


def test_without_a_checkout_the_code_version_is_the_package_version(tmp_path: Path) -> None:
    assert code_version(tmp_path) == metarm.__version__


@pytest.mark.parametrize("head", ["", "ref: refs/heads/none", "nonsense", "\xff"])
def test_an_unreadable_checkout_counts_as_no_checkout(tmp_path: Path, head: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(head.encode("latin-1"))
    assert code_version(tmp_path) == metarm.__version__


def test_the_code_version_of_this_checkout_begins_with_the_package_version() -> None:
    assert code_version().startswith(metarm.__version__)
