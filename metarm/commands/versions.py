"""`metarm versions`, or `python -m metarm.commands.versions`: look at a store and look after it. No torch."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import redis

from metarm.errors import ConfigurationError, InvalidVersionError, MetaRMError, UnknownVersionError
from metarm.runtime.embedded_redis import socket_path
from metarm.runtime.progress import bar
from metarm.runtime.settings import RetentionSettings
from metarm.shared.leases import leased_versions
from metarm.store.retention import Retention, held_out_accuracy
from metarm.store.versions import VersionStore

OF_ITSELF = ("name", "created", "seal", "digests", "probe")  # differs in every version, or is shown otherwise
LEASES_UNKNOWN = (
    "leases are kept in Redis, and {why}: nothing was deleted. Set --redis-url, start it, or say "
    "--without-leases"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 something failed its checks or could not be done, 2 wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        return int(COMMANDS[options.command](options))
    except redis.RedisError as error:
        print(f"metarm versions: {LEASES_UNKNOWN.format(why=f'it does not answer ({error})')}", file=sys.stderr)
    except (MetaRMError, OSError) as error:
        print(f"metarm versions: {error}", file=sys.stderr)
    return 1


def _list(options: argparse.Namespace) -> int:
    store = _settings(options).store
    rows = list(_rows(store))
    if options.json:
        return _print_json(rows)
    head = ("version", "status", "parent", "method", "accuracy", "made (UTC)", "labels")
    table = [head, *(_shown(row) for row in rows)]
    _print_table(table)
    return 0


def _show(options: argparse.Namespace) -> int:
    store = _settings(options).store
    manifest = store.manifest(_named(store, options.name))
    if options.json:
        return _print_json(manifest)
    for field, value in flattened(manifest).items():
        _print_wrapped(field, value)
    return 0


def _activate(options: argparse.Namespace) -> int:
    store = _settings(options).store
    name, before = _named(store, options.name), store.current()
    store.verify(name)
    store.activate(name)
    if options.json:
        return _print_json({"before": before, "current": name})
    print(f"current: {name} (before: {before}); services follow")
    return 0


def _diff(options: argparse.Namespace) -> int:
    store = _settings(options).store
    a, b = _named(store, options.a), _named(store, options.b)
    found = difference(store.manifest(a), store.manifest(b))
    if options.json:
        return _print_json(found)
    rows = [(field, _text(a), _text(b)) for field, (a, b) in found["fields"].items()]
    _print_table([("field", a, b), *rows])
    for what, files in found["files"].items():
        if files:
            _print_wrapped(f"files {what}", " ".join(files))
    if not rows and not any(found["files"].values()):
        print("nothing differs")
    return 0


def _verify(options: argparse.Namespace) -> int:
    store = _settings(options).store
    results: dict[str, str | None] = {}
    names = [_named(store, word) for word in options.names] or store.names()
    for name in bar(names, "verifying", "version"):
        try:
            store.verify(name)
            results[name] = None
        except (InvalidVersionError, UnknownVersionError) as error:
            results[name] = error.message
    if options.json:
        _print_json(results)
    else:
        for name, wrong in results.items():
            print(f"{name}  {'ok' if wrong is None else 'FAILED: ' + wrong}")
    return int(any(results.values()))


def _prune(options: argparse.Namespace) -> int:
    settings = _settings(options)
    leased = dict if options.without_leases else partial(leased_versions, _redis(settings))
    retention = Retention(settings.store, leased, settings.keep_versions, settings.retention_grace_s)
    reasons = retention.reasons()
    gone = [name for name, why in reasons.items() if why is None] if options.dry_run else retention.prune()
    kept = {name: why for name, why in reasons.items() if name not in gone}
    if options.json:
        return _print_json({"dry_run": options.dry_run, "pruned": gone, "kept": kept})
    for name, why in reasons.items():
        done = "would be pruned" if options.dry_run else "pruned"
        print(f"{name}  {done if name in gone else f'stays: {why}'}")
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "show": _show,
    "activate": _activate,
    "diff": _diff,
    "verify": _verify,
    "prune": _prune,
}


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """What two manifests say otherwise, field by field (None where one lacks it), and which files differ."""
    ones, others = (flattened({k: v for k, v in m.items() if k not in OF_ITSELF}) for m in (a, b))
    fields = {
        name: [ones.get(name), others.get(name)]
        for name in dict.fromkeys([*ones, *others])
        if ones.get(name) != others.get(name)
    }
    left, right = a.get("digests") or {}, b.get("digests") or {}
    files = {
        "that differ": sorted(f for f in left.keys() & right.keys() if left[f] != right[f]),
        f"of {a['name']} alone": sorted(left.keys() - right.keys()),
        f"of {b['name']} alone": sorted(right.keys() - left.keys()),
    }
    return {"fields": fields, "files": files}


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _rows(store: VersionStore) -> Iterator[dict[str, Any]]:
    """Every version there was, oldest first."""
    current, labels = store.current(), store.labels()
    for name, status in store.statuses().items():
        row: dict[str, Any] = {
            "name": name,
            "status": status,
            "current": name == current,
            "labels": sorted(word for word, label in labels.items() if label.version == name),
        }
        try:
            yield {**row, **_of_manifest(store.manifest(name))}
        except (InvalidVersionError, AttributeError, TypeError, ValueError) as error:
            yield {**row, "status": "unreadable", "reasons": [str(error)]}


def _of_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    verdict = manifest.get("verdict") or {}
    return {
        **{key: manifest.get(key) for key in ("parent", "job", "method", "created", "code_version")},
        "held_out_accuracy": held_out_accuracy(manifest),
        "forced": bool(verdict.get("forced")),
        "reasons": verdict.get("reasons", []),
    }


def _shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = row.get("held_out_accuracy")
    status = "forced" if row.get("forced") and row["status"] == "published" else row["status"]
    return (
        row["name"],
        status,
        row.get("parent") or "-",
        row.get("method") or "-",
        "-" if accuracy is None else f"{accuracy:.3f}",
        (row.get("created") or "-")[:16].replace("T", " "),
        " ".join([*(["current"] if row["current"] else []), *row["labels"]]),
    )


def _named(store: VersionStore, word: str) -> str:
    """The version that `current` or a label names; any other word is a version's name."""
    label = store.labels().get(word)
    if label is not None:
        return label.version
    return (store.current() or word) if word == "current" else word


def _settings(options: argparse.Namespace) -> RetentionSettings:
    given = {
        name: getattr(options, name, None)
        for name in ("data_dir", "redis_url", "keep_versions", "retention_grace_s")
    }
    settings = RetentionSettings(**{name: value for name, value in given.items() if value is not None})
    if not settings.store.root.is_dir():
        raise ConfigurationError(f"there are no versions in {settings.store.root}: set --data-dir")
    return settings


def _redis(settings: RetentionSettings) -> redis.Redis:
    """The Redis that services of this store keep leases in: the one set, or that of `metarm up`."""
    socket = socket_path(settings.data_dir / "redis")
    if settings.redis_url is None and not socket.exists():
        raise ConfigurationError(LEASES_UNKNOWN.format(why="none is set or runs here"))
    return redis.Redis.from_url(settings.redis_url or f"unix://{socket}", socket_timeout=5.0)


def _print_json(record: object) -> int:
    print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
    return 0


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Aligned; where that is wider than the terminal, the widest columns are cut."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    room = shutil.get_terminal_size((80, 24)).columns
    while sum(widths) + 2 * (len(widths) - 1) > room and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    for row in rows:
        cells = [c if len(c) <= w else c[: w - 1] + "…" for c, w in zip(row, widths, strict=True)]
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _print_wrapped(field: str, value: Any) -> None:
    """One field; a long value goes on in further lines."""
    room = max(20, shutil.get_terminal_size((80, 24)).columns - 2)
    line = f"{field}: {_text(value)}"
    for start in range(0, len(line), room):
        print(line[start : start + room] if start == 0 else f"  {line[start : start + room]}")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _parser() -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--data-dir", type=Path, help="folder of everything kept (METARM_DATA_DIR, else data)"
    )
    everywhere.add_argument("--json", action="store_true", help="for programs")
    parser = argparse.ArgumentParser(
        prog="metarm versions",
        description="Look at the versions on disk, and after them. For a name, `current` or a label will do.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_, parents=[everywhere])

    command("list", "every version there was, and what became of it")
    command("show", "the manifest of one version").add_argument("name")
    command("activate", "check a version and make it current; services follow").add_argument("name")
    diff = command("diff", "what differs between two versions: manifests field by field, and files")
    diff.add_argument("a")
    diff.add_argument("b")
    verify = command("verify", "compute every digest again; exit status 1 where one is not as it was written")
    verify.add_argument("names", nargs="*", metavar="name", help="default: every published version")
    prune = command("prune", "delete the files of versions that need not stay; their manifests stay")
    prune.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    prune.add_argument(
        "--keep-versions", type=int, help="newest ones that stay (METARM_KEEP_VERSIONS, else 10)"
    )
    prune.add_argument(
        "--retention-grace-s", type=float, help="age below which all stay (METARM_RETENTION_GRACE_S, else 3600)"
    )
    prune.add_argument("--redis-url", help="where leases are (REDIS_URL, else the Redis of `metarm up`)")
    prune.add_argument("--without-leases", action="store_true", help="nobody leases anything: ask no Redis")
    return parser


if __name__ == "__main__":
    sys.exit(main())
