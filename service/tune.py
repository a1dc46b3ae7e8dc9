"""`metarm tune`, or `python -m service.tune`: measure forward plans, show them, and record the best."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from metarm.errors import MetaRMError
from metarm.runtime import process_environment
from metarm.runtime.closed_pipe import ends_quietly
from metarm.runtime.cores import usable_cores
from metarm.runtime.tables import print_table
from metarm.runtime.unknown_settings import print_unknown_settings
from service.settings import ServiceSettings

if TYPE_CHECKING:
    from metarm.model.reward_model import RewardModel
    from service.scoring.measuring import Measured
    from service.scoring.plan import ForwardPlan


class TuneSettings(ServiceSettings):
    """Measure on the current version how the forward uses this machine best (workers, cores, batch size), show
    the plans, and record the best for `metarm serve`. The settings are the server's."""


@ends_quietly()
def main() -> None:
    process_environment.ensure_set()
    settings = TuneSettings.from_command_line("metarm tune", sys.argv[1:])
    print_unknown_settings("metarm tune")
    try:
        current = settings.store.current()
    except MetaRMError as error:
        sys.exit(f"metarm tune: {error.message}")
    if current is None:
        sys.exit(f"metarm tune: {settings.store.root} has no version yet; start the server once")
    with process_environment.gc_paused():
        import torch  # not before the environment is set

        from metarm.model.reward_model import load_version, quiet_transformers
        from service.scoring.measuring import THOROUGH, best_plan, measure_plans
        from service.scoring.plan_choice import TUNING_FILE, fingerprint, write_plan

    quiet_transformers()
    folder, manifest = settings.store.path(current), settings.store.manifest(current)
    model, cores = load_version(folder, manifest, settings.max_tokens), usable_cores()
    print(f"{current}, {model.route.name} route, {cores} cores, torch {torch.__version__}", flush=True)
    results = list(measure_plans(model, cores, THOROUGH))
    if not results:
        sys.exit("metarm tune: one batch takes over a second: the default, one worker per core, stays")
    _show(results)
    best = best_plan(results, results[0].plan)
    file = settings.data_dir.absolute() / TUNING_FILE
    write_plan(file, fingerprint(model, cores), best)
    print(f"chosen: {best.workers} workers, {best.threads} cores each, {best.batch_tokens} tokens → {file}")
    _show_reduced_precision(model, best)


def _show(results: list[Measured]) -> None:
    rows = [(r.plan.workers, r.plan.threads, r.plan.batch_tokens, round(r.tokens_per_s)) for r in results]
    head = ("workers", "cores each", "batch tokens", "tokens/s")
    print_table(head, [[str(number) for number in row] for row in rows], numbers=True)


def _show_reduced_precision(model: RewardModel, plan: ForwardPlan) -> None:
    """Show what METARM_SCORE_DTYPE=bfloat16 would gain and cost. Converts the model."""
    import torch

    from metarm.model.parallel import score_parallel
    from service.scoring.measuring import FIRST_START, compare, sample_sequences

    samples = sample_sequences(model)
    (before,) = compare(model, samples, [plan], FIRST_START)
    exact = score_parallel(model, samples, workers=plan.workers, threads=plan.threads)
    model.reduce_precision()
    (after,) = compare(model, samples, [plan], FIRST_START)
    reduced = score_parallel(model, samples, workers=plan.workers, threads=plan.threads)
    first, second = torch.triu_indices(len(samples), len(samples), 1)
    same_order = (exact[first] - exact[second]).sign() == (reduced[first] - reduced[second]).sign()
    print(
        f"bfloat16: {after.tokens_per_s / before.tokens_per_s:.2f} times as fast; scores differ by at most "
        f"{(exact - reduced).abs().max():.1e} (their standard deviation is {exact.std():.1e}), "
        f"{same_order.float().mean():.1%} of pairs keep their order. Enable with METARM_SCORE_DTYPE=bfloat16"
    )


if __name__ == "__main__":
    main()
