"""Choose the forward plan: from the settings, else as measured on this machine. Measured once."""

from __future__ import annotations

from dataclasses import replace

from metarm.model.reward_model import DEFAULT_BATCH_TOKENS, RewardModel
from metarm.runtime.cores import usable_cores
from service.scoring import tuning_file
from service.scoring.measuring import FIRST_START, Timing, best_plan, measure_plans
from service.scoring.plan import ForwardPlan
from service.settings import ServiceSettings

BATCHES_TO_SORT = 4  # batches in a slice if the route pads: sorting them by length saves padding


def choose_plan(
    model: RewardModel,
    settings: ServiceSettings,
    cores: int | None = None,
    timing: Timing = FIRST_START,
) -> ForwardPlan:
    """The plan for `cores` (default: all that this process may use). Unset settings come from
    the tuning file, if it is valid for this machine and model, or are measured now and written there. A tuning
    file that cannot be read or written is not an error."""
    cores = cores or usable_cores()
    workers = settings.score_workers
    threads = settings.score_threads or max(1, cores // (workers or cores))
    plan = ForwardPlan.of_single_batches(
        workers or max(1, cores // threads), threads, settings.batch_tokens or DEFAULT_BATCH_TOKENS
    )
    if settings.tune and not any((workers, settings.score_threads, settings.batch_tokens)):
        plan = _tuned_plan(model, settings, plan, cores, timing)
    batches = BATCHES_TO_SORT if model.route.pads else 1
    return replace(plan, slice_tokens=settings.slice_tokens or batches * plan.batch_tokens)


def _tuned_plan(
    model: RewardModel, settings: ServiceSettings, default: ForwardPlan, cores: int, timing: Timing
) -> ForwardPlan:
    file = settings.data_dir.absolute() / tuning_file.NAME
    fingerprint = tuning_file.fingerprint(model, cores)
    plan = tuning_file.read(file, fingerprint)
    if plan is None:
        plan = best_plan(list(measure_plans(model, cores, timing)), default)
        tuning_file.write(file, fingerprint, plan)
    return plan
