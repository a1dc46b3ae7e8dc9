"""Base classes of every command line and of every process's settings. Imports no torch.

A setting comes from the command line (`--batch-tokens 512`), else the environment (`METARM_BATCH_TOKENS`), else
a `.env` file, else its default. Its description is its help text.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, Self, cast
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    get_subcommand,
)

from metarm import api_keys
from metarm.errors import EXIT_CONFIGURATION, ConfigurationError
from metarm.runtime.addresses import without_brackets
from metarm.store.versions import VersionStore


def _usable_key(key: SecretStr, info: ValidationInfo) -> SecretStr:
    fault = api_keys.fault_of(key.get_secret_value())
    if fault is not None:
        raise ValueError(f"a key of METARM_{str(info.field_name).upper()} {fault}: no client could send it")
    return key


def _usable_url(url: str | None) -> str | None:
    """Of the value no part is in an error: it may hold a password."""
    if url is None:
        return None
    if not url.isprintable():
        raise ValueError("the URL has control characters")
    secret = url.rpartition("@")[0] if url.startswith("unix://") else url  # a path may have any name
    if api_keys.UNEXPANDED.search(secret):
        raise ValueError("the URL has an unexpanded ${…}")
    try:
        parts = urlsplit(url)
        known, _ = parts.scheme in REDIS_SCHEMES, parts.port
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            "this is no URL such as redis://:password@host:6379/0; write special characters of the password as "
            "%40 and the like"
        )
    return url


def _usable_host(host: str) -> str:
    host = without_brackets(host)
    if not host or not host.isprintable() or any(character.isspace() for character in host):
        raise ValueError("this is no address: it is empty, or has white space or control characters")
    return host


def _log_level(name: str) -> str:
    if name.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"{name!r} is none of DEBUG, INFO, WARNING and ERROR")
    return name.upper()


ApiKey = Annotated[SecretStr, AfterValidator(_usable_key)]  # of a server
Host = Annotated[str, AfterValidator(_usable_host)]  # an address or a name, IPv6 with or without brackets
REDIS_SCHEMES = ("redis", "rediss", "unix")
NOT_JSON = re.compile(r'error parsing value for field "(\w+)"')  # of pydantic-settings

RedisUrl = Annotated[
    str | None,
    AfterValidator(_usable_url),
    Field(
        validation_alias=AliasChoices("METARM_REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey server, 6.2 or later. Unset: `metarm up` starts an embedded one.",
    ),
]


class CommandLine(BaseSettings):
    """A command whose arguments are its fields, in kebab case."""

    model_config = SettingsConfigDict(
        env_prefix="METARM_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        allow_inf_nan=False,
        populate_by_name=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    @classmethod
    def parse(cls, command: str, arguments: Sequence[str]) -> Self:
        """Read the settings of `command`. Raises ConfigurationError for an invalid value or a .env that cannot
        be read; exits after `--help` and, with status 2, for an unknown or a missing argument."""
        try:
            return cls(_cli_parse_args=list(arguments), _cli_prog_name=command)
        except ValidationError as error:
            raise ConfigurationError(_message_of(error)) from error
        except SettingsError as error:
            field = NOT_JSON.search(str(error))
            why = f'METARM_{field[1].upper()} is not JSON, such as ["one", "two"]' if field else str(error)
            raise ConfigurationError(why) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f".env is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except OSError as error:
            raise ConfigurationError(f".env cannot be read: {error.strerror}") from error

    @classmethod
    def from_command_line(cls, command: str, arguments: Sequence[str]) -> Self:
        """`parse` for a program: an invalid value ends it with a message on stderr and EXIT_CONFIGURATION."""
        try:
            return cls.parse(command, arguments)
        except ConfigurationError as error:
            print(f"{command}: {error.message}", file=sys.stderr)
            sys.exit(EXIT_CONFIGURATION)


class Arguments(CommandLine):
    """A command whose fields are set on the command line only, except those of ENVIRONMENT."""

    ENVIRONMENT: ClassVar[type[BaseSettings] | None] = None  # the fields that the environment may set too

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        from_environment = cls.ENVIRONMENT().model_dump(exclude_unset=True) if cls.ENVIRONMENT else {}
        return init_settings, InitSettingsSource(settings_cls, from_environment)


class Runnable(Protocol):
    def run(self) -> int:
        """Run the command; the exit status."""


class CommandGroup(Arguments):
    """A command that consists of subcommands."""

    @classmethod
    def run_from(cls, command: str, arguments: Sequence[str]) -> int:
        """Run the subcommand that `arguments` name. Returns its exit status, 2 for wrong arguments, or
        EXIT_CONFIGURATION for an invalid value."""
        chosen: object = cls.from_command_line(command, arguments)
        try:
            while isinstance(chosen, CommandGroup):
                chosen = get_subcommand(chosen, cli_exit_on_error=False)
        except SettingsError as error:
            print(f"{command}: {error}", file=sys.stderr)
            return 2
        return cast("Runnable", chosen).run()


class StoreSettings(CommandLine):
    """Where the versions are."""

    data_dir: Path = Field(Path("data"), description="Folder of all persistent data: versions/, redis/.")

    @field_validator("data_dir")
    @classmethod
    def _no_file(cls, folder: Path) -> Path:
        for part in (folder, *folder.absolute().parents):
            if part.exists() and not part.is_dir():
                raise ValueError(f"{part} is a file, not a folder")
        return folder

    @property
    def store(self) -> VersionStore:
        return VersionStore(self.data_dir.absolute() / "versions")


class ProcessSettings(StoreSettings):
    """Settings that the service, the trainer and the launcher share."""

    redis_url: RedisUrl = None
    log_level: Annotated[str, AfterValidator(_log_level)] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="console: readable lines. json: one JSON object a line, for log collectors."
    )
    max_tokens: int | None = Field(
        None,
        ge=8,
        description="Longest sequence of a first version in tokens, including special tokens; a model's own "
        "limit applies too. Recorded in its manifest, and later versions keep it; a lower one is refused then. "
        "Unset: 512.",
    )

    @property
    def required_redis_url(self) -> str:
        """The URL of the Redis to connect to. Raises ConfigurationError if none is set."""
        if self.redis_url is None:
            raise ConfigurationError("no Redis is set: set REDIS_URL, or start everything with `metarm up`")
        return self.redis_url

    @property
    def secrets(self) -> list[str]:
        """Values to mask in logs: every SecretStr, and the password in `redis_url`, as written and decoded."""
        values = [value for name in type(self).model_fields for value in _each(getattr(self, name))]
        secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        parts = urlsplit(self.redis_url or "")
        passwords = [*([parts.password] if parts.password else []), *parse_qs(parts.query).get("password", [])]
        return [*secrets, *passwords, *map(unquote, passwords)]


class RetentionSettings(StoreSettings):
    """How many versions a store keeps: for the trainer and for `metarm versions prune`."""

    keep_versions: int = Field(
        10,
        ge=1,
        description="Newest versions to keep on disk. The current version, its parent, labelled and leased "
        "versions and the best one stay in addition; of all others only the manifest stays.",
    )
    retention_grace_s: float = Field(
        3600, ge=0, description="A version younger than this stays on disk, whatever its number."
    )


def _each(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _message_of(error: ValidationError) -> str:
    return "; ".join(
        ": ".join(
            [*(part for part in e["loc"] if isinstance(part, str)), e["msg"].removeprefix("Value error, ")]
        )
        for e in error.errors()
    )
