"""Base classes of every command line and of every process's settings. Imports no torch.

A setting comes from the command line (`--batch-tokens 512`), else the environment (`METARM_BATCH_TOKENS`), else
a `.env` file, else its default. Its description is its help text. Lists are written `one,two`, or as JSON.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, cast, get_args
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    get_subcommand,
)

from metarm.errors import EXIT_CONFIGURATION, ConfigurationError
from metarm.runtime.setting_types import RedisUrl, log_level_named
from metarm.runtime.unknown_settings import print_unknown_settings
from metarm.store.versions import VersionStore

NO_LIST = ("[", "{", '"', "'")  # how no item of a list that commas separate begins


def separated(name: str, text: str) -> list[Any]:
    """The list that a variable holds: `one,two`, or a JSON list. An empty part is an empty item. Raises
    ConfigurationError, which shows no part of the text: it may hold keys."""
    items = [part.strip() for part in text.split(",")]
    if not any(item.startswith(NO_LIST) for item in items):
        return items
    try:
        listed = json.loads(text)
    except ValueError:
        listed = None
    if not isinstance(listed, list):
        raise ConfigurationError(f'{name} is no list: write one,two without quotes, or JSON, ["one", "two"]')
    return listed


class _Lists:
    """A source of settings whose lists are `separated`."""

    def decode_complex_value(self, field_name: str, _field: FieldInfo, value: Any) -> Any:
        return separated(f"METARM_{field_name.upper()}", value)


class _Environment(_Lists, EnvSettingsSource):
    pass


class _DotEnv(_Lists, DotEnvSettingsSource):
    pass


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
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        from_file = _DotEnv(settings_cls, env_file=None)
        from_file.env_vars = cast("DotEnvSettingsSource", dotenv_settings).env_vars  # read already
        return init_settings, _Environment(settings_cls), from_file

    @classmethod
    def command_line(cls, command: str) -> CliSettingsSource[Any]:
        """The parser of the arguments."""
        return CliSettingsSource(cls, cli_prog_name=command)

    @classmethod
    def parse(cls, command: str, arguments: Sequence[str]) -> Self:
        """Read the settings of `command`. Raises ConfigurationError for an invalid value or a .env that cannot
        be read; exits after `--help` and, with status 2, for an unknown or a missing argument."""
        try:
            source = cls.command_line(command)
            return cls(_cli_settings_source=source(args=list(arguments)))
        except ValidationError as error:
            raise ConfigurationError(_message_of(error)) from error
        except SettingsError as error:
            raise ConfigurationError(str(error)) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f".env is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except OSError as error:
            raise ConfigurationError(f".env cannot be read: {error.strerror}") from error

    @classmethod
    def from_command_line(cls, command: str, arguments: Sequence[str]) -> Self:
        """`parse` for a program: an invalid value ends it with a message on stderr and EXIT_CONFIGURATION.
        Unknown names, which may be the cause, come first; otherwise the program reports them, in its log."""
        try:
            return cls.parse(command, arguments)
        except ConfigurationError as error:
            print_unknown_settings(command)
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
        unknown = cls._unknown(arguments)
        if unknown is not None:
            print(f"{command}: {unknown}", file=sys.stderr)
            return 2
        chosen: object = cls.from_command_line(command, arguments)
        print_unknown_settings(command)
        try:
            while isinstance(chosen, CommandGroup):
                chosen = get_subcommand(chosen, cli_exit_on_error=False)
        except SettingsError as error:
            print(f"{command}: {error}", file=sys.stderr)
            return 2
        return cast("Runnable", chosen).run()

    @classmethod
    def _unknown(cls, arguments: Sequence[str]) -> str | None:
        """What is wrong with the name of a subcommand in `arguments`, if anything."""
        models = {name: get_args(field.annotation) for name, field in cls.model_fields.items()}
        commands = {name: of[0] for name, of in models.items() if of}  # an option's type has no arguments
        if not arguments or arguments[0].startswith("-"):
            return None
        word = arguments[0]
        if word in commands:
            below = commands[word]
            return below._unknown(arguments[1:]) if issubclass(below, CommandGroup) else None
        near = difflib.get_close_matches(word, commands, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(commands)}"
        return f"unknown command {word!r}: {hint}"


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
    log_level: Annotated[str, AfterValidator(log_level_named)] = Field(
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
    messages = [
        ": ".join(
            [
                *(_setting(part) for part in e["loc"] if isinstance(part, str)),
                e["msg"].removeprefix("Value error, "),
            ]
        )
        for e in error.errors()
    ]
    return "; ".join(dict.fromkeys(messages))


def _setting(field: str) -> str:
    """A field of an error by all its names."""
    return f"{field} (METARM_{field.upper()})" if field.islower() and field.isidentifier() else field
