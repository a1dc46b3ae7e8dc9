"""Why no version answers, from facts that others have read: it asks neither Redis nor the disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from metarm.errors import NotReadyError
from metarm.shared.presence import TrainerPresence
from service.versions.live import LiveVersions
from service.versions.refusals import Refusals
from service.versions.swapper import POINTER, Swapper

State = Literal[
    "being_made",  # a trainer makes the first version
    "being_loaded",
    "refused",  # the version at the pointer; tried again after `retry_in_s`, or when its files change
    "pointer_broken",
    "no_pointer",  # versions are on disk, and none is current
    "store_unreadable",
    "store_empty",  # a trainer runs and has no version to make: it may write to another folder
    "no_trainer",  # the store is empty, and no trainer runs
    "trainer_unknown",  # the store is empty, and Redis does not answer
]
Found = tuple[State, str, Mapping[str, Any]]  # the state, its description, and figures of it


def not_ready(
    live: LiveVersions, swapper: Swapper, refusals: Refusals, presence: TrainerPresence
) -> NotReadyError:
    """The error of a request that came before a version is loaded. `details.state` is a State."""
    state, why, details = _of_store(live, swapper, refusals) or _of_first_version(swapper, presence)
    return NotReadyError(f"no reward model is loaded: {why}", state=state, **details)


def _of_store(live: LiveVersions, swapper: Swapper, refusals: Refusals) -> Found | None:
    """None if the store has no pointer."""
    target, refused = swapper.target, swapper.refused
    if target is not None and live.is_loading(target):
        return "being_loaded", f"{target} is being loaded", {"version": target}
    if refused is not None and refused.name == POINTER:
        state: State = "store_unreadable" if swapper.store_unreadable else "pointer_broken"
        return state, refused.reason, {"reason": refused.reason}
    if refused is not None:
        left_s = round(refusals.retry_in_s(refused.name), 1)
        why = f"{refused.name} was refused: {refused.reason}; it is tried again when its files change, and in "
        details = {"version": refused.name, "reason": refused.reason, "retry_in_s": left_s}
        return "refused", f"{why}{left_s:g} s", details
    if target is not None:
        return "being_loaded", f"{target} is about to be loaded", {"version": target}
    return None


def _of_first_version(swapper: Swapper, presence: TrainerPresence) -> Found:
    trainer, error = presence.last_status, presence.last_error
    if error is None and trainer is not None and trainer.get("state") != "ready":
        return "being_made", "the first version is being made by the trainer", {}
    if swapper.on_disk:
        names = ", ".join(swapper.on_disk)
        why = f"no version is current: activate one of {names} (`metarm versions activate`)"
        return "no_pointer", why, {"on_disk": list(swapper.on_disk)}
    if error is not None:
        why = "there is no version yet, and whether a trainer makes one is unknown: Redis does not answer"
        return "trainer_unknown", why, {}
    if trainer is None:
        starts = "`metarm up` and `metarm trainer` start one, which takes some seconds"
        why = f"there is no version yet, and no trainer runs that makes one: {starts}"
        return "no_trainer", why, {}
    why = (
        "the store is empty, and the running trainer makes no first version: check that METARM_DATA_DIR names "
        "the same folder for both"
    )
    fault = trainer.get("preferences_error")
    return "store_empty", f"{why}; it cannot use its preferences: {fault}" if fault else why, {}
