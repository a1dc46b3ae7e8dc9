"""`metarm train`, or `python -m trainer.first_model`: preferences → version 1 of an empty store."""

from __future__ import annotations

import math
import signal
import sys
import threading
from types import FrameType

from metarm.errors import ConfigurationError, JobCancelledError
from metarm.runtime import logs, process_environment
from metarm.runtime.closed_pipe import ends_quietly
from metarm.runtime.shell import metarm_command
from metarm.store.versions import VersionStore
from trainer.settings import FirstModelSettings

EVALUATIONS = 5  # in a run, unless the settings say otherwise


@ends_quietly()
def main() -> None:
    process_environment.ensure_set()
    settings = FirstModelSettings.from_command_line("metarm train", sys.argv[1:])
    logs.configure("train", settings)
    stop = threading.Event()
    received: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        received.append(number)
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # a second signal does not wait for the step

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with logs.refusals("metarm train"):
        try:
            run(settings, stop)
        except JobCancelledError:
            logs.refuse("metarm train", "stopped; nothing was published")
            sys.exit(128 + received[0])


def run(settings: FirstModelSettings, stop: threading.Event) -> None:
    """Train a model, publish it and print its learning curve.

    Raises ConfigurationError, for a store that holds versions too, and JobCancelledError once `stop` is set;
    nothing is published then.
    """
    store = settings.store
    _refuse_versions(store)
    with process_environment.gc_paused():
        import torch  # only once the process environment is set

        from metarm.model.reward_model import quiet_transformers
        from metarm.runtime.cores import usable_cores
        from trainer.bootstrap import first_checkpoint, first_manifest, publish_first
        from trainer.fine_tuning import TrainingSchedule, fine_tune
        from trainer.learning_curve import check_drawable
        from trainer.preferences import Preferences

    quiet_transformers()
    torch.set_num_threads(settings.train_threads or usable_cores())
    if settings.curve is not None:
        check_drawable(settings.curve)
    store.prepare()
    preferences = Preferences(settings).of_first()
    model, missing_weights = first_checkpoint(settings)
    epochs, pairs = settings.epochs or 1.0, preferences.train
    steps = settings.steps or math.ceil(epochs * len(pairs) / settings.batch_size)
    every = settings.evaluate_every or max(1, steps // EVALUATIONS)
    schedule = TrainingSchedule(pairs, settings.learning_rate, steps, every)
    tuned = fine_tune(model, missing_weights, preferences, schedule, settings, stop)
    if stop.is_set():
        raise JobCancelledError("stopped before the first version was published")
    _refuse_versions(store)  # another process may have been faster
    manifest = first_manifest(model, settings, "train", preferences) | tuned.manifest
    name = publish_first(store, model, manifest, tuned.curve, preferences)
    if settings.curve is not None:
        tuned.curve.draw(settings.curve)
    print(tuned.curve.table())
    print(tuned.summary)
    print(
        f"{name} is in {store.root}. Serve it:\n  {metarm_command('up', '--data-dir', str(settings.data_dir))}"
    )


def _refuse_versions(store: VersionStore) -> None:
    held = store.names()
    if held:
        raise ConfigurationError(
            f"{store.root} holds {held[-1]} already, and `metarm train` makes a first version: use another "
            "--data-dir"
        )


if __name__ == "__main__":
    main()
