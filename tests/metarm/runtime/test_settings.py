from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from metarm.commands.up import LaunchSettings
from metarm.errors import EXIT_CONFIGURATION, ConfigurationError
from metarm.runtime.settings import ProcessSettings
from service.settings import ServiceSettings
from service.tune import TuneSettings
from trainer.settings import TrainerSettings

CLASSES = [ServiceSettings, TrainerSettings, LaunchSettings]
WITHOUT_TORCH = [
    "metarm",
    "metarm.records",
    "metarm.runtime.settings",
    "metarm.client",
    "metarm.errors",
    "metarm.shared.sample_log",
    "metarm.store.versions",
    "metarm.shared.jobs",
    "metarm.commands.up",
    "metarm.runtime.process_environment",
    "metarm.runtime.embedded_redis",
    "service.settings",
    "trainer.settings",
    "trainer.gate",
    "metarm.figures",
    "metarm.store.retention",
    "metarm.runtime.code_version",
    "metarm.commands.versions",
    "metarm.commands.main",
]


def test_the_command_line_overrides_the_environment_which_overrides_dotenv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def port(*arguments: str) -> int:
        return ServiceSettings.from_command_line("metarm serve", arguments).port

    assert port() == 8080
    (tmp_path / ".env").write_text("METARM_PORT=1001\nMETARM_UNKNOWN=1\n")
    assert port() == 1001
    monkeypatch.setenv("METARM_PORT", "1002")
    assert port() == 1002
    assert port("--port", "1003") == 1003


@pytest.mark.parametrize("name", ["REDIS_URL", "METARM_REDIS_URL"])
def test_the_redis_url_is_read_from_either_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "redis://there:1")
    for settings in (ServiceSettings(), TrainerSettings(), LaunchSettings()):
        assert settings.redis_url == settings.required_redis_url == "redis://there:1"


def test_metarm_redis_url_takes_precedence_over_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://common")
    monkeypatch.setenv("METARM_REDIS_URL", "redis://ours")
    assert TrainerSettings().redis_url == "redis://ours"
    assert TrainerSettings.from_command_line("x", ["--redis-url", "redis://line"]).redis_url == "redis://line"


def test_a_missing_redis_url_names_the_variable_to_set() -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        _ = ServiceSettings().required_redis_url


@pytest.mark.parametrize("name", ["PREFERENCES", "METARM_PREFERENCES"])
def test_the_preferences_are_read_from_either_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "pairs.jsonl")
    assert TrainerSettings().preferences == LaunchSettings().preferences == Path("pairs.jsonl")
    line = TrainerSettings.from_command_line("x", ["--preferences", "other.jsonl"])
    assert line.preferences == Path("other.jsonl")


def test_options_use_dashes_and_flags_take_no_value() -> None:
    settings = TrainerSettings.from_command_line(
        "x", ["--init-head", "--max-grad-norm", "2.5", "--ascent", "none"]
    )
    assert (settings.init_head, settings.max_grad_norm, settings.ascent) == (True, 2.5, "none")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("abc", ["abc"]),
        ("abc,def", ["abc", "def"]),
        (" abc , def ", ["abc", "def"]),
        ("0123", ["0123"]),
        ("null", ["null"]),
        ('["a,b", "c"]', ["a,b", "c"]),
        (' ["a"] ', ["a"]),
        ("[]", []),
    ],
)
def test_a_list_is_separated_by_commas_or_json(
    text: str, keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"METARM_ADMIN_KEYS={text}\n")
    monkeypatch.setenv("METARM_SCORE_KEYS", text)
    settings = ServiceSettings()
    for found in (settings.score_keys, settings.admin_keys):
        assert [key.get_secret_value() for key in found] == keys


@pytest.mark.parametrize("text", ["tensorboard", "tensorboard,none", '["tensorboard"]', "tensorboard,"])
def test_trackers_are_listed_in_the_same_ways(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainerSettings.parse("x", ["--report-to", text]).report_to == ["tensorboard"]
    monkeypatch.setenv("METARM_REPORT_TO", text)
    assert TrainerSettings().report_to == ["tensorboard"]


@pytest.mark.parametrize("text", ["hush,", ",hush", "hush,,hush", ",", " "])
def test_an_empty_part_of_a_list_of_keys_is_a_fault(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARM_ADMIN_KEYS", text)
    with pytest.raises(ConfigurationError, match="a key of METARM_ADMIN_KEYS is empty") as refused:
        ServiceSettings.parse("x", [])
    assert "hush" not in str(refused.value)
    assert str(refused.value).count("is empty") == 1


@pytest.mark.parametrize("text", ['["hush"', '"hush"', "'hush','hush'", 'hush,"hush"', '{"hush": 1}', "[hush]"])
@pytest.mark.parametrize("settings", [ServiceSettings, TuneSettings, LaunchSettings])
def test_a_text_that_is_no_list_is_refused_with_a_hint_and_not_shown(
    text: str, settings: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARM_SCORE_KEYS", text)
    with pytest.raises(ConfigurationError, match="METARM_SCORE_KEYS is no list: write one,two") as refused:
        settings.parse("x", [])
    assert "hush" not in str(refused.value)


def test_api_keys_are_a_json_list_and_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARM_SCORE_KEYS", '["hush", "quiet"]')
    settings = ServiceSettings()
    assert [key.get_secret_value() for key in settings.score_keys] == ["hush", "quiet"]
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("name", ["METARM_SCORE_KEYS", "METARM_ADMIN_KEYS"])
@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("${SECRET}", "unexpanded"),
        ("secret-${SECRET", "unexpanded"),
        ("sécret", "ASCII"),
        ("secret\u200b", "ASCII"),
        ("se cret", "white space"),
        ("secret\n", "white space"),
        ("\tsecret", "white space"),
        ("secret\x7f", "control"),
        ("s" * 5000, "longer than 4096"),
    ],
)
def test_a_key_that_no_client_can_send_stops_the_start_and_is_not_shown(
    name: str, key: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, json.dumps(["usable", key]))
    for settings in (ServiceSettings, TuneSettings):
        with pytest.raises(SystemExit) as ended:
            settings.from_command_line("metarm serve", [])
        assert ended.value.code == EXIT_CONFIGURATION
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line
        assert why in line
        assert "cret" not in line.replace("secret-$", "")


def test_every_visible_ascii_character_may_be_in_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "".join(map(chr, range(0x21, 0x7F)))
    monkeypatch.setenv("METARM_SCORE_KEYS", json.dumps([key, "$KEY", "{x}"]))
    assert [found.get_secret_value() for found in ServiceSettings().score_keys] == [key, "$KEY", "{x}"]


@pytest.mark.parametrize(
    "url", ["redis://:${PASSWORD}@h", "redis://${HOST}:1", "unix://:${PASSWORD}@/s", "redis://:sec\tret@h"]
)
@pytest.mark.parametrize("settings", CLASSES)
def test_a_redis_url_that_cannot_work_stops_every_process_and_is_not_shown(
    url: str, settings: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(ConfigurationError, match="the URL has") as refused:
        settings.parse("x", [])
    assert "PASSWORD" not in str(refused.value)
    assert "ret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["redis://:sec[ret@h/0", "redis://:sec/ret@h/0", "redis://:sec#ret@h", "http://h", "/h", "redis://h:70000"],
)
def test_a_text_that_is_no_redis_url_is_refused_without_a_part_of_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(ConfigurationError, match="no URL such as") as refused:
        ServiceSettings.parse("x", [])
    assert "sec" not in str(refused.value)
    assert "ret@" not in str(refused.value)


def test_a_password_in_the_query_of_the_redis_url_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://h:1/0?password=se%40cret")
    assert "se@cret" in ServiceSettings().secrets


@pytest.mark.parametrize("url", ["unix:///a folder/${x}/redis.sock", "redis://u:p%40ss%20wörd@h:1/0"])
def test_a_redis_url_that_may_work_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert ServiceSettings().redis_url == url


@pytest.mark.parametrize("content", [b"METARM_PORT=1\xff\n", "METARM_PORT=1".encode("utf-16")])
@pytest.mark.parametrize("settings", CLASSES)
def test_a_dotenv_that_is_not_utf_8_is_a_configuration_error(
    content: bytes, settings: type[ProcessSettings], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"\.env is not UTF-8"):
        settings.parse("x", [])


def test_the_log_level_may_be_in_lower_case() -> None:
    assert ServiceSettings.parse("x", ["--log-level", "debug"]).log_level == "DEBUG"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port", "99999"], "port"),
        (["--batch-tokens", "0"], "batch_tokens"),
        (["--max-tokens", "many"], "max_tokens"),
        (["--host", "0.0.0.0"], "METARM_SCORE_KEYS"),
        (["--host", "a b"], "host"),
        (["--log-level", "loud"], "log_level"),
        (["--data-dir", sys.executable], sys.executable),
        (["--data-dir", f"{sys.executable}/below"], sys.executable),
        (["--keep-alive-s", "0"], "keep_alive_s"),
        (["--keep-alive-s", "inf"], "keep_alive_s"),
        (["--header-timeout-s", "nan"], "header_timeout_s"),
        (["--header-timeout-s", "-1"], "header_timeout_s"),
    ],
)
def test_an_invalid_setting_ends_the_command_and_names_the_setting(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ServiceSettings.from_command_line("metarm serve", arguments)
    assert ended.value.code == EXIT_CONFIGURATION
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("metarm serve: ")
    assert named in line


def test_an_unknown_option_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        TrainerSettings.from_command_line("metarm trainer", ["--stepz", "3"])
    assert ended.value.code != 0
    assert "stepz" in capsys.readouterr().err + str(ended.value.code)


def test_the_store_is_in_the_data_directory(tmp_path: Path) -> None:
    assert ServiceSettings(data_dir=Path("kept")).store.root == tmp_path / "kept" / "versions"


@pytest.mark.parametrize("settings", CLASSES)
def test_every_setting_has_a_description_and_the_help_shows_it(
    settings: type[ProcessSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        settings.from_command_line("metarm", ["--help"])
    assert ended.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    for name, field in settings.model_fields.items():
        assert field.description, name
        assert "".join(field.description.split()) in shown, name
        assert f"--{name.replace('_', '-')}" in shown, name


def test_the_launcher_passes_its_settings_to_its_children(tmp_path: Path) -> None:
    line = ["--data-dir", "kept", "--port", "1234", "--model", "m", "--init-head", "--preferences", "p.jsonl"]
    line += [
        "--retrain",
        "auto",
        "--score-keys",
        "a,b",
        "--learning-rate",
        "2e-5",
        "--template-date",
        "2026-01-31",
    ]
    line += ["--no-tune"]
    environment = LaunchSettings.from_command_line("metarm up", line).environment("redis://there")
    handed = {name: value for name, value in environment.items() if name.startswith("METARM_")}
    assert handed == {
        "METARM_DATA_DIR": str(tmp_path / "kept"),
        "METARM_REDIS_URL": "redis://there",
        "METARM_PORT": "1234",
        "METARM_MODEL": "m",
        "METARM_INIT_HEAD": "true",
        "METARM_PREFERENCES": str(tmp_path / "p.jsonl"),
        "METARM_RETRAIN": "auto",
        "METARM_SCORE_KEYS": '["a","b"]',
        "METARM_LEARNING_RATE": "2e-05",
        "METARM_TEMPLATE_DATE": "2026-01-31",
        "METARM_TUNE": "false",
        "METARM_NAMES_REPORTED": "true",
    }
    assert environment["OMP_WAIT_POLICY"] == "active"


@pytest.mark.parametrize("settings", [ServiceSettings, TrainerSettings])
def test_the_children_of_the_launcher_read_what_it_was_given(
    settings: type[ProcessSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("METARM_SEED=3\nMETARM_KEEP_LOADED=4\n")
    monkeypatch.setenv("METARM_ADMIN_KEYS", '["c,d", "\\"e"]')
    monkeypatch.setenv("METARM_RETRAIN", "auto")
    monkeypatch.setenv("METARM_GATE_TOLERANCE", "0.25")
    line = ["--seed", "5", "--retrain", "manual", "--watch-share", "0.75", "--report-to", "tensorboard"]
    given = LaunchSettings.from_command_line("metarm up", line)
    for name, value in given.environment("redis://there").items():
        monkeypatch.setenv(name, value)
    read = settings.parse("x", [])
    left_out = {"data_dir", "redis_url"}
    names = settings.model_fields.keys() - left_out
    assert {name: getattr(read, name) for name in names} == {name: getattr(given, name) for name in names}


def test_modules_shared_by_every_process_are_imported_without_torch() -> None:
    program = (
        f"import sys, json, {', '.join(WITHOUT_TORCH)}\n"
        "print(json.dumps([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("host", "published_on", "refused"),
    [
        ("127.0.0.1", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "127.0.0.1", False),
        ("0.0.0.0", "::1", False),
        ("0.0.0.0", "192.0.2.7", True),
        ("0.0.0.0", "[::1]", False),
        ("127.0.0.2", None, False),
        ("::1", None, False),
        ("[::1]", None, False),
        ("::", None, True),
        ("fe80::1%lo", None, True),
        ("example.org", None, True),
        ("127.0.0.1", "0.0.0.0", True),
    ],
)
def test_api_keys_are_required_on_an_address_that_other_machines_can_reach(
    host: str, published_on: str | None, refused: bool
) -> None:
    where: dict[str, Any] = {"host": host, "published_on": published_on}
    if refused:
        with pytest.raises(ValueError, match="can be reached from other machines"):
            ServiceSettings(**where)
    else:
        ServiceSettings(**where)
    ServiceSettings(**where, allow_open=True)
    ServiceSettings(**where, score_keys=[SecretStr("key")])


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e999"])
@pytest.mark.parametrize("name", ["METARM_LOG_MAX_AGE_S", "METARM_BODY_TIMEOUT_S", "METARM_KEEP_ALIVE_S"])
def test_a_number_that_is_not_finite_stops_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        ServiceSettings.from_command_line("metarm serve", [])
    assert ended.value.code == EXIT_CONFIGURATION
    assert "finite" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "http://127.0.0.1", "localhost:8080", "[::1]:80"])
def test_a_host_with_a_port_or_a_scheme_stops_the_start(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METARM_HOST", host)
    with pytest.raises(SystemExit) as ended:
        ServiceSettings.from_command_line("metarm serve", [])
    assert ended.value.code == EXIT_CONFIGURATION
    shown = capsys.readouterr().err
    assert "host (METARM_HOST)" in shown
    assert "leave out the scheme and the port" in shown


@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "fe80::1%eth0", "my-host.example", "10.0.0.1"])
def test_a_host_is_an_address_or_a_name(host: str) -> None:
    assert ServiceSettings(host=host, allow_open=True).host == host.strip("[]")
