"""Every setting of the scoring service. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, model_validator

from metarm.runtime.settings import ProcessSettings

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class ServiceSettings(ProcessSettings):
    """The scoring server: HTTP in, scores out, samples to the log."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    published_on: str | None = Field(
        None,
        description="Address others reach it at where that is not `host`, as a container's: decides whether it "
        "may serve without keys.",
    )
    score_keys: list[SecretStr] = Field(
        default=[], description="API keys (JSON list) that may score and read. None set: no key is asked for."
    )
    admin_keys: list[SecretStr] = Field(
        default=[], description="API keys (JSON list) that may also retrain and activate versions."
    )
    allow_open: bool = Field(
        False, description="Serve without keys on an address other machines can reach (a closed network)."
    )
    score_workers: int | None = Field(
        None, ge=1, description="Threads that run forwards side by side, on one model. Unset: as measured."
    )
    score_threads: int | None = Field(None, ge=1, description="Cores of each. Unset: as measured.")
    batch_tokens: int | None = Field(
        None, ge=1, description="Tokens of one forward. Unset: as measured (512 to 2048)."
    )
    tune: bool = Field(
        True, description="Measure what is unset at the first start (seconds), and keep it in tuning.json."
    )
    slice_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens a worker takes from the queue at once, from all waiting requests. Unset: one "
        "batch; four where the model's route pads, to sort them by length.",
    )
    score_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of the forward. bfloat16 is faster on processors that have it; `metarm tune` "
        "shows how much, and how far its scores are off.",
    )
    prefix_sharing: bool = Field(
        True, description="Compute a prompt once for all its responses, where the model allows."
    )
    prefix_cache_mb: int = Field(
        256, ge=0, description="Keys and values of prompts kept for later requests. 0: none."
    )
    score_cache_entries: int = Field(
        65_536, ge=0, description="Scores kept by version and tokens, so that none is computed twice. 0: none."
    )
    queue_tokens: int = Field(
        262_144, ge=1, description="Tokens that may wait; beyond that a request gets 503 with Retry-After."
    )
    keep_loaded: int = Field(
        3,
        ge=2,
        description="Versions kept in memory: current, previous, pinned ones. Labels, leases and requests in "
        "flight may hold more, until they end.",
    )
    calibration: bool = Field(
        True, description="Serve calibrated scores, continuous over a swap; false: the model's own rewards."
    )
    max_leases: int = Field(100, ge=0, description="Leases that may be held at once, on one Redis.")
    max_leased_versions: int = Field(
        4, ge=0, description="Different versions that leases may keep in memory at once."
    )
    max_lease_s: float = Field(86_400, ge=1, description="Longest time a lease lasts without being renewed.")
    poll_ms: int = Field(500, ge=10, description="How often to look for a newly published version.")
    cut_over_prepare_s: float = Field(
        60.0, gt=0, description="How long servers may take to load a version they are to cut over to together."
    )
    max_body_bytes: int = Field(32 * 2**20, ge=1, description="Largest request body.")
    max_responses: int = Field(4096, ge=1, description="Most responses in one request, over all its groups.")
    max_text_chars: int = Field(200_000, ge=1, description="Longest prompt or response, in characters.")
    log_buffer_groups: int = Field(
        50_000, ge=1, description="Scored groups that may wait for Redis; more are dropped and counted."
    )
    log_max_groups: int = Field(200_000, ge=1, description="Groups kept on the sample log; older are trimmed.")
    log_max_age_s: float = Field(7 * 86400, gt=0, description="Age at which logged groups are trimmed.")
    request_id_memory_s: int = Field(
        3600, ge=1, description="How long a request_id is remembered, so that a retry is logged once."
    )

    watch_groups: int = Field(
        200, ge=0, description="Groups a promoted version answers while it is watched. 0: it is not."
    )
    watch_min_groups: int = Field(
        20, ge=1, description="Groups of two or more responses its parent must have scored before it is judged."
    )
    watch_share: float = Field(
        0.1, gt=0, le=1, description="Share of prompts whose groups the parent scores as well meanwhile."
    )
    watch_forced_share: float = Field(
        1.0, gt=0, le=1, description="The same share for a version that the gate refused and force published."
    )
    watch_min_spread_ratio: float = Field(
        0.5, ge=0, description="Roll back where its spread ratio is below this part of the parent's."
    )
    watch_max_disagreement: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Roll back where it orders a larger share of pairs otherwise than its parent.",
    )
    watch_max_clear_disagreement: float = Field(
        0.2,
        ge=0,
        le=1,
        description="The same where its parent still tells responses apart, beyond two standard errors. "
        "1: never.",
    )
    watch_clear_spread_ratio: float = Field(
        0.5,
        ge=0,
        description="Spread ratio of the parent's scores on these groups from which on it tells them apart.",
    )
    retrain: Literal["manual", "auto"] = Field(
        "manual", description="auto: a run starts by itself when the spread ratio stays low."
    )
    retrain_below: float = Field(0.5, gt=0, description="The spread ratio under which it does.")
    retrain_over_groups: int = Field(
        500, ge=2, description="Newest groups of a version that this and GET /drift's windows are over."
    )
    retrain_cooldown_s: int = Field(3600, ge=1, description="Least time between two such runs.")

    @model_validator(mode="after")
    def _not_open_to_the_world(self) -> ServiceSettings:
        address = self.published_on or self.host
        if address not in LOOPBACK and not (self.score_keys or self.admin_keys or self.allow_open):
            raise ValueError(
                f"{address} can be reached from other machines: set METARM_SCORE_KEYS and METARM_ADMIN_KEYS, "
                "or METARM_ALLOW_OPEN=true on a closed network"
            )
        return self
