"""`metarm versions`: inspect and maintain the versions on disk, without a server. Imports no torch."""

from __future__ import annotations

import abc
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count, product
from string import ascii_lowercase
from typing import Any, ClassVar

import orjson
import redis
from pydantic import Field
from pydantic_settings import CliPositionalArg, CliSubCommand, CliToggleFlag

from metarm.commands import version_records
from metarm.errors import ConfigurationError, InvalidVersionError, MetaRMError, UnknownVersionError
from metarm.runtime.closed_pipe import ends_quietly
from metarm.runtime.embedded_redis import running_socket
from metarm.runtime.progress import progress_bar
from metarm.runtime.setting_types import RedisUrl
from metarm.runtime.settings import Arguments, CommandGroup, RetentionSettings, StoreSettings
from metarm.runtime.tables import on_terminal, print_table
from metarm.shared.leases import leased_versions
from metarm.store.retention import Retention
from metarm.store.versions import VersionStore

NO_LEASES = (
    "leases are kept in Redis, and {why}: nothing was deleted. Set --redis-url, start Redis, or pass "
    "--without-leases"
)


class PruneSettings(RetentionSettings):
    """The settings of all subcommands, as the environment names them."""

    redis_url: RedisUrl = None


class VersionsCommand(Arguments, StoreSettings, abc.ABC):
    """A subcommand. A version's name may also be `current` or a label."""

    ENVIRONMENT = PruneSettings
    as_json: CliToggleFlag[bool] = Field(
        False, validation_alias="json", description="Print JSON, for programs."
    )

    def run(self) -> int:
        """Exit status: 0 done, 1 if a check failed or an error was printed."""
        try:
            if not self.store.root.is_dir():
                raise ConfigurationError(f"there are no versions in {self.store.root}: set --data-dir")
            return self.run_on(self.store)
        except BrokenPipeError:
            raise
        except redis.RedisError as error:
            message = NO_LEASES.format(why=f"it does not answer ({error})")
            print(f"metarm versions: {message}", file=sys.stderr)
        except (MetaRMError, OSError) as error:
            print(f"metarm versions: {error}", file=sys.stderr)
        return 1

    @abc.abstractmethod
    def run_on(self, store: VersionStore) -> int:
        """Exit status: 0 done, 1 if a check failed. May raise MetaRMError, OSError and RedisError."""


class ListVersions(VersionsCommand):
    """List all versions that ever existed, with their status."""

    HEAD: ClassVar = ("version", "status", "parent", "method", "accuracy", "made (UTC)", "labels")

    def run_on(self, store: VersionStore) -> int:
        rows = list(version_records.rows(store))
        if self.as_json:
            return _print_json(rows)
        marks, legend = _pairs_of(rows)
        print_table(self.HEAD, [_cells(row, mark) for row, mark in zip(rows, marks, strict=True)])
        _print_wrapped(legend)
        return 0


class ShowVersion(VersionsCommand):
    """Show the manifest of a version."""

    name: CliPositionalArg[str]

    def run_on(self, store: VersionStore) -> int:
        manifest = store.manifest(store.resolve(self.name))
        if self.as_json:
            return _print_json(manifest)
        flat = version_records.flattened(version_records.with_numbered_reasons(manifest))
        fields = {name: _text(value) for name, value in flat.items()}
        if on_terminal():
            print_table(("field", "value"), fields.items())
        else:
            _print_wrapped(fields)
        return 0


class ActivateVersion(VersionsCommand):
    """Verify a version and make it the current one; running services follow."""

    name: CliPositionalArg[str]

    def run_on(self, store: VersionStore) -> int:
        name, before = store.resolve(self.name), store.current()
        store.verify(name)
        store.activate(name)
        if self.as_json:
            return _print_json({"before": before, "current": name})
        print(f"current: {name} (before: {before}); services follow")
        return 0


class DiffVersions(VersionsCommand):
    """Compare two versions: the fields of their manifests, and their files."""

    a: CliPositionalArg[str]
    b: CliPositionalArg[str]

    def run_on(self, store: VersionStore) -> int:
        a, b = store.resolve(self.a), store.resolve(self.b)
        found = version_records.difference(store.manifest(a), store.manifest(b))
        if self.as_json:
            return _print_json(found)
        rows = [(field, _text(left), _text(right)) for field, (left, right) in found["fields"].items()]
        files = {f"files {which}": " ".join(names) for which, names in found["files"].items() if names}
        if not rows and not files:
            print("nothing differs")
            return 0
        print_table(("field", a, b), rows)
        _print_wrapped(files)
        return 0


class VerifyVersions(VersionsCommand):
    """Compute all digests again; exit status 1 if one differs from its manifest."""

    names: CliPositionalArg[list[str]] = Field([], description="Default: all published versions.")

    def run_on(self, store: VersionStore) -> int:
        results: dict[str, str | None] = {}
        names = [store.resolve(word) for word in self.names] or store.names()
        for name in progress_bar(names, "verifying", "versions"):
            try:
                store.verify(name)
                results[name] = None
            except (InvalidVersionError, UnknownVersionError) as error:
                results[name] = error.message
        if self.as_json:
            _print_json(results)
        else:
            rows = [(name, "ok" if wrong is None else f"FAILED: {wrong}") for name, wrong in results.items()]
            print_table(("version", "digests"), rows, show_head=False)
        return int(any(results.values()))


class PruneVersions(VersionsCommand, PruneSettings):
    """Delete the files of versions that no rule keeps; their manifests stay."""

    dry_run: CliToggleFlag[bool] = Field(False, description="Report what would be deleted; delete nothing.")
    without_leases: CliToggleFlag[bool] = Field(False, description="No version is leased: do not query Redis.")

    def run_on(self, store: VersionStore) -> int:
        leased = dict if self.without_leases else partial(leased_versions, self._redis())
        retention = Retention(store, leased, self.keep_versions, self.retention_grace_s)
        reasons = retention.reasons()
        gone = [name for name, why in reasons.items() if why is None] if self.dry_run else retention.prune()
        kept = {name: why for name, why in reasons.items() if name not in gone}
        if self.as_json:
            return _print_json({"dry_run": self.dry_run, "pruned": gone, "kept": kept})
        done = "would be pruned" if self.dry_run else "pruned"
        rows = [(name, done if name in gone else f"stays: {why}") for name, why in reasons.items()]
        print_table(("version", "files"), rows, show_head=False)
        return 0

    def _redis(self) -> redis.Redis:
        """The Redis that holds the leases on this store: the configured one, or the one of `metarm up`."""
        socket = running_socket(self.data_dir / "redis")
        if self.redis_url is None and socket is None:
            raise ConfigurationError(NO_LEASES.format(why="no Redis is set or runs here"))
        return redis.Redis.from_url(self.redis_url or f"unix://{socket}", socket_timeout=5.0)


class Versions(CommandGroup):
    """Inspect and maintain the versions on disk. A version's name may also be `current` or a label."""

    list: CliSubCommand[ListVersions] = Field(description="all versions that ever existed, with their status")
    show: CliSubCommand[ShowVersion] = Field(description="the manifest of a version")
    activate: CliSubCommand[ActivateVersion] = Field(description="verify a version and make it current")
    diff: CliSubCommand[DiffVersions] = Field(description="compare the manifests and files of two versions")
    verify: CliSubCommand[VerifyVersions] = Field(description="compute digests again")
    prune: CliSubCommand[PruneVersions] = Field(description="delete the files of versions that need not stay")


@ends_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 if a check failed or an error was printed, 2 for wrong arguments."""
    return Versions.run_from("metarm versions", sys.argv[1:] if arguments is None else arguments)


def _pairs_of(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """A letter for the pairs of each row's accuracy, and what the letters mean; none if all are the same."""
    pairs = [row.get("held_out") for row in rows if row.get("held_out_accuracy") is not None]
    distinct = {_without_place(found): found for found in pairs}
    if len(distinct) < 2:
        return [""] * len(rows), {}
    letters = dict(zip(distinct, _letters(), strict=False))
    marks = [
        "" if row.get("held_out_accuracy") is None else letters[_without_place(row.get("held_out"))]
        for row in rows
    ]
    legend = {f"accuracy {letter}": _described(distinct[found]) for found, letter in letters.items()}
    return marks, {**legend, "accuracies": "compare only under the same letter"}


def _letters() -> Iterator[str]:
    """a, b, …, z, aa, ab, …"""
    for length in count(1):
        yield from map("".join, product(ascii_lowercase, repeat=length))


def _without_place(held_out: Mapping[str, Any] | None) -> tuple[Any, ...]:
    return tuple(value for name, value in (held_out or {}).items() if name != "source")


def _described(held_out: Mapping[str, Any] | None) -> str:
    if not held_out:
        return "on held-out pairs that the manifest does not name"
    pairs = "held-out" if held_out["pairs"] is None else f"{held_out['pairs']} held-out"
    return f"on {pairs} pairs of {held_out['source']} (SHA-256 {held_out['sha256'][:12]}…)"


def _cells(row: Mapping[str, Any], mark: str) -> tuple[str, ...]:
    accuracy = row.get("held_out_accuracy")
    status = row["status"]
    if status == "published":
        status = "rolled back" if row["rolled_back"] else "forced" if row.get("forced") else status
    return (
        row["name"],
        status,
        row.get("parent") or "-",
        row.get("method") or "-",
        "-" if accuracy is None else f"{accuracy:.3f} {mark}".strip(),
        (row.get("created") or "-")[:16].replace("T", " "),
        " ".join([*(["current"] if row["current"] else []), *row["labels"]]),
    )


def _print_json(record: object) -> int:
    print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
    return 0


def _print_wrapped(fields: Mapping[str, str]) -> None:
    """Print `field: value` lines, wrapped and indented at the terminal's width, else at 80 columns."""
    width = shutil.get_terminal_size((80, 24)).columns
    for field, value in fields.items():
        print(textwrap.fill(f"{field}: {value}", width, subsequent_indent="  ", break_on_hyphens=False))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


if __name__ == "__main__":
    sys.exit(main())
