"""Every setting of the scoring service. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from metarm.runtime.addresses import is_loopback
from metarm.runtime.setting_types import ApiKey, Host
from metarm.runtime.settings import ProcessSettings


class ServiceSettings(ProcessSettings):
    """The scoring server: HTTP in, scores out, samples to the log."""

    host: Host = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    published_on: Host | None = Field(
        None,
        description="Address at which others reach the server, if it is not `host`, as in a container. It "
        "decides whether the server may run without keys.",
    )
    score_keys: list[ApiKey] = Field(
        default=[],
        description="API keys, separated by commas, that may score and read. Unset: no key is required, unless "
        "admin keys are set.",
    )
    admin_keys: list[ApiKey] = Field(
        default=[],
        description="API keys, separated by commas, that may also retrain and activate versions.",
    )
    allow_open: bool = Field(
        False, description="Serve without keys on an address that other machines can reach (a closed network)."
    )
    keep_alive_s: float = Field(
        75.0,
        gt=0,
        le=86_400,
        description="Time for which an idle connection stays open: longer than clients keep theirs.",
    )
    header_timeout_s: float = Field(
        20.0,
        gt=0,
        le=86_400,
        description="Time in which a connection must send the request line and headers of a request it begins, "
        "and a new connection its first ones.",
    )
    score_workers: int | None = Field(
        None, ge=1, description="Threads that run forwards in parallel on one model. Unset: as measured."
    )
    score_threads: int | None = Field(None, ge=1, description="Cores of each worker. Unset: as measured.")
    batch_tokens: int | None = Field(
        None, ge=1, description="Tokens in one forward, at most. Unset: as measured (512 to 2048)."
    )
    tune: bool = Field(
        True,
        description="Measure the three settings above at the first start (seconds), if all are unset, and "
        "record them in tuning.json.",
    )
    slice_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens that a worker takes from the queue at once, over all waiting requests. Unset: one "
        "batch; four if the model's route pads, to sort them by length.",
    )
    score_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of the forward. bfloat16 is faster on processors that support it; `metarm tune` "
        "shows by how much, and how far scores differ.",
    )
    prefix_sharing: bool = Field(
        True, description="Compute a prompt once for all its responses, if the model allows it."
    )
    prefix_cache_mb: int = Field(
        256,
        ge=0,
        description="Memory for the attention keys and values of prompts, for later requests. 0: none.",
    )
    score_cache_entries: int = Field(
        65_536, ge=0, description="Scores cached by version and tokens. 0: no cache."
    )
    queue_tokens: int = Field(
        262_144,
        ge=1,
        description="Tokens that may wait in the queue, at most a quarter of them of one request; further "
        "requests get 503 with Retry-After.",
    )
    keep_loaded: int = Field(
        3,
        ge=2,
        description="Versions kept in memory: the current, previous and pinned ones. Labels, leases and "
        "requests in flight may hold more until they end.",
    )
    calibration: bool = Field(
        True, description="Serve calibrated scores, continuous across swaps. false: the model's raw rewards."
    )
    max_leases: int = Field(100, ge=0, description="Leases that may exist at once in one Redis.")
    max_leased_versions: int = Field(
        4, ge=0, description="Distinct versions that leases may keep in memory at once."
    )
    max_labels: int = Field(100, ge=1, description="Labels that may exist at once.")
    max_labelled_versions: int = Field(
        8,
        ge=1,
        description="Distinct versions that labels may name, and keep in memory on every server and on disk.",
    )
    max_lease_s: float = Field(86_400, ge=1, description="Longest duration of a lease without renewal.")
    poll_ms: int = Field(500, ge=10, description="Interval at which the service checks for a new version.")
    cut_over_prepare_s: float = Field(
        60.0, gt=0, description="Time servers have to load a version before a joint cutover is aborted."
    )
    max_body_bytes: int = Field(
        32 * 2**20, ge=1, description="Largest request body in bytes, also after decompression."
    )
    body_timeout_s: float = Field(60.0, gt=0, description="Time a client has to send the whole body.")
    max_json_values: int = Field(
        100_000, ge=1, description="Most JSON values in one body: objects, lists, strings, numbers, literals."
    )
    max_responses: int = Field(4096, ge=1, description="Most responses in one request, over all groups.")
    max_text_chars: int = Field(
        200_000,
        ge=1,
        description="Longest prompt or response in characters. A conversation counts the roles and contents of "
        "all its messages.",
    )
    max_request_chars: int = Field(
        2**24,
        ge=1,
        description="Characters in one request: all its prompts and responses, each prompt once. The default "
        "has room for max_responses responses of 512 tokens with as many prompts. The tokenizer reads at most "
        "4 times as many, prompts anew for each response.",
    )
    log_buffer_groups: int = Field(
        50_000, ge=1, description="Scored groups that may wait for Redis; further ones are dropped and counted."
    )
    log_max_groups: int = Field(
        200_000, ge=1, description="Groups kept in the sample log; older ones are trimmed."
    )
    log_max_age_s: float = Field(7 * 86400, gt=0, description="Age at which logged groups are trimmed.")
    request_id_memory_s: int = Field(
        3600, ge=1, description="Time a request_id is remembered: a retry within it is not logged twice."
    )

    watch_groups: int = Field(
        200, ge=0, description="Groups that a promoted version answers under watch. 0: no watch."
    )
    watch_min_groups: int = Field(
        20, ge=1, description="Groups of two or more responses that its parent must score before a verdict."
    )
    watch_share: float = Field(
        0.1, gt=0, le=1, description="Share of prompts whose groups the parent scores too during a watch."
    )
    watch_forced_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The same share for a version that `force` published against the gate's verdict.",
    )
    watch_min_spread_ratio: float = Field(
        0.5, ge=0, description="Roll back if its spread ratio is below this fraction of the parent's."
    )
    watch_max_disagreement: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Roll back if it orders a larger share of pairs differently from its parent.",
    )
    watch_max_clear_disagreement: float = Field(
        0.2,
        ge=0,
        le=1,
        description="The same limit while its parent still separates responses, by more than two standard "
        "errors. 1: never.",
    )
    watch_clear_spread_ratio: float = Field(
        0.5,
        ge=0,
        description="Least spread ratio of the parent's scores at which it counts as separating responses.",
    )
    retrain: Literal["manual", "auto"] = Field(
        "manual", description="auto: a run starts automatically when the spread ratio has fallen."
    )
    retrain_below: float = Field(
        0.5,
        gt=0,
        le=1,
        description="An automatic run starts when the current version's spread ratio has fallen below this "
        "share of the ratio over its own first METARM_RETRAIN_OVER_GROUPS groups.",
    )
    retrain_over_groups: int = Field(
        500, ge=2, description="Groups in a version's first and newest window, of this rule and of GET /drift."
    )
    retrain_cooldown_s: int = Field(
        3600,
        ge=1,
        description="Least time between two automatic runs. Each run in a row that did not help doubles it, up "
        "to 16 times this.",
    )

    @model_validator(mode="after")
    def _not_open_to_the_world(self) -> ServiceSettings:
        address = self.published_on or self.host
        if not is_loopback(address) and not (self.score_keys or self.admin_keys or self.allow_open):
            raise ValueError(
                f"{address} can be reached from other machines: set METARM_SCORE_KEYS and METARM_ADMIN_KEYS, "
                "or METARM_ALLOW_OPEN=true on a closed network"
            )
        return self
