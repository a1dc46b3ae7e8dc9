"""`metarm train` makes the first version of an empty store from preferences."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from metarm.errors import ConfigurationError, JobCancelledError
from metarm.model import probe
from metarm.model.reward_model import load_model, load_version
from metarm.records import Preference, Prompt
from metarm.runtime.code_version import code_version
from metarm.runtime.shell import metarm_command
from metarm.store.origin import check_origin
from metarm.store.versions import VersionStore
from tests.demo_groups import demo_groups
from tests.processes import Process, RedisProcess, service
from tests.store import publish
from tests.tiny import CHAT_TEMPLATE, Kind, dated_checkpoint, encode_one, make_checkpoint, with_template
from trainer import bootstrap
from trainer.bootstrap import ensure_first_version
from trainer.fine_tuning import fine_tune
from trainer.first_model import run
from trainer.preferences import PreferenceSet, load_preferences
from trainer.settings import FirstModelSettings, TrainerSettings

Checkpoint = Callable[[Kind], Path]


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """140 short pairs, in which the chosen response has a word that the rejected one lacks."""
    rows = [
        {"prompt": g["prompt"][:60], "chosen": f"forty two {i}", "rejected": f"pencils {i}"}
        for i, g in enumerate(demo_groups(140))
    ]
    file = tmp_path_factory.mktemp("preferences") / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def settings(preferences: Path, model: Path, data_dir: Path, **changes: Any) -> FirstModelSettings:
    small = {"learning_rate": 1e-3, "max_tokens": 64, "held_out_share": 0.3, "train_threads": 1}
    return FirstModelSettings(
        preferences=preferences, model=str(model), data_dir=data_dir, **{**small, **changes}
    )


def metarm_train(tmp_path: Path, *arguments: object) -> Process:
    command = [sys.executable, "-m", "metarm", "train", *map(str, arguments)]
    return Process(command, tmp_path / "output.txt", {"METARM_TRAIN_THREADS": "1"})


def in_process_settings(tmp_path: Path, model: Path, **changes: Any) -> TrainerSettings:
    return TrainerSettings(data_dir=tmp_path, model=str(model), max_tokens=128, **changes)


def first_version(settings: TrainerSettings) -> dict[str, Any]:
    settings.store.prepare()
    check_origin(settings.store, settings.model_dump())
    ensure_first_version(settings.store, settings, ConfigurationError("no pairs"), threading.Event())
    return settings.store.manifest("v000001")


def test_the_first_version_records_the_date_its_template_is_told_and_keeps_it(tmp_path: Path) -> None:
    model = dated_checkpoint(tmp_path / "dated")
    given = in_process_settings(tmp_path, model, template_date="2024-07-26", split_special_tokens=True)
    manifest = first_version(given)
    assert manifest["encoding"]["template_date"] == "2024-07-26"
    assert manifest["encoding"]["split_special_tokens"] is True
    served = load_version(given.store.path("v000001"), manifest, 512)
    probe.check(served, manifest)
    assert "Today is 26 Jul 2024." in served.encoder.tokenizer.decode(
        encode_one(served.encoder, "Who?", "I.").ids
    )
    assert first_version(in_process_settings(tmp_path, model)) == manifest, (
        "unset settings keep what is recorded"
    )


def test_the_first_version_is_pinned_to_the_day_on_which_it_is_made(tmp_path: Path) -> None:
    before = datetime.now(UTC).date().isoformat()
    manifest = first_version(in_process_settings(tmp_path, dated_checkpoint(tmp_path / "dated")))
    assert manifest["encoding"]["template_date"] in (before, datetime.now(UTC).date().isoformat())
    assert manifest["encoding"]["split_special_tokens"] is False


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("template_date", "2025-01-01"),
        ("split_special_tokens", True),
        ("model", "other"),
        ("max_tokens", 64),
    ],
)
def test_a_setting_that_differs_from_what_the_versions_began_with_is_refused(
    setting: str, value: object, tmp_path: Path
) -> None:
    model = dated_checkpoint(tmp_path / "dated")
    first_version(in_process_settings(tmp_path, model, template_date="2024-07-26"))
    changed = in_process_settings(tmp_path, model).model_copy(
        update={setting: date.fromisoformat(str(value)) if setting == "template_date" else value}
    )
    with pytest.raises(ConfigurationError, match=f"METARM_{setting.upper()}"):
        first_version(changed)


def test_a_store_without_a_pointer_gets_no_second_first_version(tmp_path: Path) -> None:
    model = dated_checkpoint(tmp_path / "dated")
    given = in_process_settings(tmp_path, model, template_date="2024-07-26")
    first_version(given)
    (given.store.root / "current").unlink()
    first_version(given)
    assert (given.store.names(), given.store.current()) == (["v000001"], None)
    with pytest.raises(ConfigurationError, match="began with the model"):
        first_version(in_process_settings(tmp_path, tmp_path / "another"))


def test_a_version_that_appears_during_the_fine_tuning_stays_alone(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = in_process_settings(tmp_path, checkpoint("bert-backbone"), init_head=True, bootstrap_pairs=64)
    settings.store.prepare()
    pairs = load_preferences(preferences, 0.3, 50)
    tuned = fine_tune

    def slow(*given: Any) -> Any:
        publish(tmp_path, checkpoint("bert"))
        return tuned(*given)

    monkeypatch.setattr(bootstrap, "fine_tune", slow)
    ensure_first_version(settings.store, settings, pairs, threading.Event())
    assert (settings.store.names(), settings.store.current()) == (["v000001"], "v000001")
    assert settings.store.manifest("v000001")["method"] == "import"


@pytest.mark.parametrize("given", ["20240726", "26.07.2024", "1721952000", "2024-13-01"])
def test_a_date_in_another_form_is_refused_by_name(given: str) -> None:
    with pytest.raises(ConfigurationError, match="template_date"):
        TrainerSettings.parse("metarm trainer", ["--template-date", given])


@pytest.mark.parametrize(
    "expression",
    [
        "range(100000) | random",
        "['one', 'two'] | random",
        "strftime_now",  # prints a function with its address, which is another one in each process
        "messages | map('upper')",
        "messages[0].items",
        "lipsum",
    ],
)
def test_a_template_that_gives_a_text_other_tokens_each_time_is_refused(
    expression: str, tmp_path: Path
) -> None:
    template = "{{ " + expression + " }}" + CHAT_TEMPLATE
    model = with_template(make_checkpoint(tmp_path / "random", "llama-chat"), template)
    with pytest.raises(ConfigurationError, match="different tokens each time"):
        first_version(in_process_settings(tmp_path, model))
    assert VersionStore(tmp_path / "versions").names() == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if messages %}", "its chat template fails for every message: Unexpected end"),
        ("{{ raise_exception('tell me who you are') }}", "tell me who you are"),
    ],
)
def test_a_template_that_fails_for_the_probe_is_refused(template: str, message: str, tmp_path: Path) -> None:
    model = with_template(make_checkpoint(tmp_path / "failing", "llama-chat"), template)
    with pytest.raises(ConfigurationError, match=f"failing: .*{message}"):
        first_version(in_process_settings(tmp_path, model))
    assert VersionStore(tmp_path / "versions").names() == []


@pytest.mark.slow
def test_the_command_trains_and_publishes_a_version_that_a_server_then_serves(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path, redis_process: RedisProcess
) -> None:
    picture = tmp_path / "curve.png"
    with metarm_train(
        tmp_path,
        *("--preferences", preferences, "--model", checkpoint("bert-backbone"), "--init-head"),
        *("--data-dir", tmp_path / "data", "--epochs", 2, "--evaluate-every", 4, "--learning-rate", 2e-3),
        *("--held-out-share", 0.3, "--max-tokens", 64, "--curve", picture),
    ) as process:
        assert process.wait() == 0, process.output
    store = VersionStore(tmp_path / "data" / "versions")
    assert (store.names(), store.current()) == (["v000001"], "v000001")
    manifest, curve = store.verify("v000001"), store.curve("v000001")
    assert curve is not None
    steps = manifest["settings"]["steps"]
    assert steps == -(-2 * manifest["preferences"]["pairs"] // 16)
    assert (manifest["method"], manifest["settings"]["ascent"]) == ("train", "none")
    assert len(curve["loss"]) == manifest["metrics"]["steps"] == steps
    measured = [point["step"] for point in curve["held_out_accuracy"]]
    assert measured == [*range(0, steps, 4), steps]
    last = curve["held_out_accuracy"][-1]["accuracy"]
    assert last == manifest["metrics"]["held_out_accuracy"] > 0.9  # the model learns the word
    table = process.output.split("held-out accuracy\n")[1].splitlines()
    assert [int(row.split()[0]) for row in table[: len(measured)]] == measured
    assert f"{last:.3f}" in table[len(measured) - 1]
    assert "\r" not in process.output  # no progress bar without a terminal
    assert process.output.endswith(f"Serve it:\n  {metarm_command('up', '--data-dir', f'{tmp_path}/data')}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with service(tmp_path / "data", redis_process.url) as server:
        server.wait_ready()
        answer = server.http.post("/score", json={"groups": [{"prompt": "x", "responses": ["forty two"]}]})
    assert answer.json()["version"] == "v000001"


@pytest.mark.slow
def test_ctrl_c_publishes_nothing_and_exits_with_status_130(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    arguments = ("--preferences", preferences, "--model", checkpoint("bert"), "--data-dir", tmp_path / "data")
    with metarm_train(tmp_path, *arguments, "--steps", 100_000) as process:
        process.wait_until(lambda: "fine-tuning on" in process.output)
        process.kill(signal.SIGINT)
        assert process.wait() == 130
    assert "nothing was published" in process.output
    store = VersionStore(tmp_path / "data" / "versions")
    assert (store.names(), store.current(), list((store.root / ".staging").iterdir())) == ([], None, [])


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_a_checkpoint_with_a_head_is_trained_further(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path, kind: Kind
) -> None:
    run(settings(preferences, checkpoint(kind), tmp_path, steps=3), threading.Event())
    store = VersionStore(tmp_path / "versions")
    before = load_model(checkpoint(kind), 64).network.state_dict()
    after = load_model(store.path("v000001"), 64).network.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_trainer_that_finds_a_first_version_makes_no_other(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    run(settings(preferences, checkpoint("bert"), tmp_path, steps=1), threading.Event())
    store = VersionStore(tmp_path / "versions")
    serving = TrainerSettings(data_dir=tmp_path, model=str(checkpoint("bert")))
    ensure_first_version(store, serving, ConfigurationError("not needed"), threading.Event())
    assert store.names() == ["v000001"]


def test_the_manifest_describes_the_scores_on_held_out_pairs(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    run(settings(preferences, checkpoint("bert"), tmp_path, steps=3), threading.Event())
    store = VersionStore(tmp_path / "versions")
    manifest = store.verify("v000001")
    probe.check(load_model(store.path("v000001"), 64), manifest)
    assert manifest["calibration"] == {"scale": 1.0, "shift": 0.0}
    record = manifest["preferences"]
    assert record["pairs"] + record["held_out_pairs"] == 140
    assert manifest["reference"]["texts"] == 2 * record["held_out_pairs"]
    assert manifest["reference"]["spread"] > 0
    assert manifest["code_version"] == code_version()


@pytest.mark.parametrize("measured", [True, False])
def test_an_imported_checkpoint_is_evaluated_if_there_are_preferences_and_published_either_way(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path, measured: bool
) -> None:
    found = load_preferences(preferences, 0.3, 10) if measured else ConfigurationError("there are none")
    serving = TrainerSettings(data_dir=tmp_path, model=str(checkpoint("bert")), max_tokens=64)
    serving.store.prepare()
    ensure_first_version(serving.store, serving, found, threading.Event())
    manifest = serving.store.verify("v000001")
    probe.check(load_model(serving.store.path("v000001"), 64), manifest)
    assert (manifest["reference"] is not None) == ("held_out_accuracy" in manifest["metrics"]) == measured


def test_a_model_is_published_despite_preferences_that_it_cannot_encode(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    odd: Prompt = [{"role": "oracle", "content": "What?"}]  # the chat template rejects the role
    pair = Preference(odd, "This.", "That.")
    serving = TrainerSettings(data_dir=tmp_path, model=str(checkpoint("llama-chat")), max_tokens=64)
    serving.store.prepare()
    found = PreferenceSet("pairs", "0" * 64, [pair], [pair], 0.15, 400)
    ensure_first_version(serving.store, serving, found, threading.Event())
    assert serving.store.verify("v000001")["reference"] is None


def test_a_checkpoint_with_non_finite_scores_is_rejected_and_nothing_is_published(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    broken = load_model(checkpoint("bert"), 64)
    with torch.no_grad():
        next(broken.network.classifier.parameters()).fill_(math.nan)
    broken.save(tmp_path / "broken")
    serving = TrainerSettings(data_dir=tmp_path, model=str(tmp_path / "broken"), max_tokens=64)
    serving.store.prepare()
    with pytest.raises(ConfigurationError, match="not finite"):
        ensure_first_version(serving.store, serving, ConfigurationError("none"), threading.Event())
    assert serving.store.names() == []
    assert list((serving.store.root / ".staging").iterdir()) == []


def test_adapters_train_a_first_model_and_are_recorded_in_the_manifest(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    chosen = settings(preferences, checkpoint("llama"), tmp_path, steps=2, trainable="lora", lora_rank=4)
    run(chosen, threading.Event())
    recorded = VersionStore(tmp_path / "versions").verify("v000001")["settings"]
    assert (recorded["trainable"], recorded["lora_rank"], recorded["steps"]) == ("lora", 4, 2)


def test_a_store_with_versions_is_rejected_and_left_unchanged(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with pytest.raises(ConfigurationError, match="holds v000001 already"):
        run(settings(preferences, checkpoint("bert"), tmp_path, steps=1), threading.Event())
    assert VersionStore(tmp_path / "versions").names() == ["v000001"]


def test_a_backbone_without_a_head_is_rejected_unless_a_new_head_is_requested(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="--init-head"):
        run(settings(preferences, checkpoint("bert-backbone"), tmp_path, steps=1), threading.Event())


@pytest.mark.parametrize("trainable", ["head", "lora"])
def test_missing_trunk_weights_that_would_stay_random_are_rejected(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path, trainable: str
) -> None:
    without_pooler = tmp_path / "model"
    backbone = load_model(checkpoint("bert"), 64)
    state = {n: w for n, w in backbone.network.base_model.state_dict().items() if "pooler" not in n}
    backbone.network.base_model.save_pretrained(without_pooler, state_dict=state)
    backbone.encoder.tokenizer.save_pretrained(without_pooler)
    chosen = settings(preferences, without_pooler, tmp_path, steps=1, init_head=True, trainable=trainable)
    with pytest.raises(ConfigurationError, match=r"lacks bert\.pooler.*trainable=full"):
        run(chosen, threading.Event())


def test_too_few_preferences_are_rejected_with_the_number_needed(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(preferences.read_text().splitlines()[:5]))
    with pytest.raises(ConfigurationError, match="training pairs; 64 are needed"):
        run(settings(few, checkpoint("bert"), tmp_path, held_out_share=0.01), threading.Event())


def test_nothing_is_published_after_a_stop_request(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(JobCancelledError):
        run(settings(preferences, checkpoint("bert"), tmp_path, steps=1), stop)
    assert VersionStore(tmp_path / "versions").names() == []


def test_epochs_and_steps_together_are_rejected() -> None:
    with pytest.raises(ConfigurationError, match="METARM_STEPS"):
        FirstModelSettings.parse("metarm train", ["--epochs", "2", "--steps", "3"])


def test_a_curve_path_that_cannot_be_written_is_rejected_before_training(
    checkpoint: Checkpoint, preferences: Path, tmp_path: Path
) -> None:
    chosen = settings(preferences, checkpoint("bert"), tmp_path, curve=tmp_path / "none" / "curve.png")
    with pytest.raises(ConfigurationError, match="no folder"):
        run(chosen, threading.Event())
    assert VersionStore(tmp_path / "versions").names() == []
