"""GET /drift: the figures of each version's served scores, the watch, and automatic retrains.

GET /drift/{version}: the newest scores of one version, for charts.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from service.http.access import RunningServer, require_key
from service.http.route import Route
from service.http.schemas.drift import DriftReport, RecentReport
from service.http.schemas.fields import VersionName
from service.oversight.drift import VersionDrift
from service.oversight.recent_scores import RecentScores, histograms

router = APIRouter(route_class=Route, tags=["drift"], dependencies=[Depends(require_key)])


@router.get("/drift", response_model=DriftReport)
async def drift(server: RunningServer) -> dict[str, Any]:
    """Figures by version and policy step, the watch over a promoted version, and runs that drift started."""
    oversight = server.oversight
    versions = list(oversight.drift.versions().items())[::-1]
    return {
        "serving": server.versions.live.current_name,
        "versions": [_version(name, seen) for name, seen in versions],
        "watch": oversight.watch.view(),
        "auto_retrain": oversight.auto_retrain.view(),
    }


@router.get("/drift/{version}", response_model=RecentReport)
async def recent(
    version: VersionName, server: RunningServer, against: VersionName | None = None
) -> dict[str, Any]:
    """The newest scores of a version: scores by length, and a histogram of the differences between two
    responses to a prompt. `against` adds the histogram of another version in the same bins. Empty without
    scores on this server."""
    seen = server.oversight.drift.versions()
    names = [version, *([against] if against else [])]
    of_each = [seen[name].recent if name in seen else RecentScores() for name in names]
    own, *other = histograms([recent.differences for recent in of_each])
    return {
        "version": version,
        "differences": own,
        "against": {"version": against, "differences": other[0]} if against else None,
        "lengths": of_each[0].lengths(),
    }


def _version(name: str, seen: VersionDrift) -> dict[str, Any]:
    reference = seen.reference
    older = seen.older.view(reference) if seen.older_steps else None
    return {
        "version": name,
        "ratio_unavailable": reference.missing,
        "in_distribution": None
        if reference.spread is None
        else {"spread": reference.spread, "pairs": reference.pairs},
        "non_finite": seen.non_finite,
        "total": seen.total.view(reference),
        "window": seen.window().view(reference),
        "steps": [
            {
                "policy": policy.name if policy else None,
                "step": policy.step if policy else None,
                **figures.view(reference),
            }
            for policy, figures in reversed(seen.steps.items())
        ],
        "older_steps": older and {"steps": seen.older_steps, **older},
        "shadow": [
            {
                "other": other,
                "total": compared.total.view(reference, compared.other),
                "window": compared.window().view(reference, compared.other),
            }
            for other, compared in seen.compared.items()
        ],
    }
