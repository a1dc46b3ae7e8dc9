"""Every setting of the scoring service. No torch."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from metarm.settings import ProcessSettings

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class ServiceSettings(ProcessSettings):
    """The scoring server: HTTP in, scores out, samples to the log."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    score_keys: list[SecretStr] = Field(
        default=[], description="API keys (JSON list) that may score and read. None set: no key is asked for."
    )
    admin_keys: list[SecretStr] = Field(
        default=[], description="API keys (JSON list) that may also retrain and activate versions."
    )
    allow_open: bool = Field(
        False, description="Serve without keys on an address other machines can reach (a closed network)."
    )
    score_threads: int | None = Field(None, ge=1, description="Torch threads of the forward. Unset: all cores.")
    batch_tokens: int = Field(1024, ge=1, description="Tokens of one padded forward.")
    slice_tokens: int = Field(
        4096, ge=1, description="Tokens taken from the queue at once, shared by all waiting requests."
    )
    queue_tokens: int = Field(
        262_144, ge=1, description="Tokens that may wait; beyond that a request gets 503 with Retry-After."
    )
    keep_loaded: int = Field(3, ge=2, description="Versions held in memory: current, previous, pinned ones.")
    poll_ms: int = Field(500, ge=10, description="How often to look for a newly published version.")
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

    @model_validator(mode="after")
    def _not_open_to_the_world(self) -> ServiceSettings:
        if self.host not in LOOPBACK and not (self.score_keys or self.admin_keys or self.allow_open):
            raise ValueError(
                f"{self.host} can be reached from other machines: set METARM_SCORE_KEYS and METARM_ADMIN_KEYS, "
                "or METARM_ALLOW_OPEN=true on a closed network"
            )
        return self
