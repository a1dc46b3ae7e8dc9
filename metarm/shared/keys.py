"""Every Redis key of this project, under one prefix. Commands stay within Redis 6.2.

| key                      | type   | holds                                                       |
| ------------------------ | ------ | ----------------------------------------------------------- |
| metarm:samples           | stream | sample groups; group `trainer`: the last one used           |
| metarm:samples:trimmed   | hash   | entries trimmed so far, by reason: count, age               |
| metarm:request:{id}      | string | this request id has been logged (expires)                   |
| metarm:job:{id}          | string | a retrain job as JSON (expires 30 days after its end)       |
| metarm:jobs              | zset   | ids of the newest 1000 jobs by creation time                |
| metarm:jobs:active       | string | id of the job that is queued or running                     |
| metarm:jobs:ended        | hash   | number of jobs that have ended, by status                   |
| metarm:trackers:failed   | hash   | number of runs that lost a tracker, by tracker              |
| metarm:job:{id}:cancel   | string | a request to cancel this job (expires)                      |
| metarm:trainer           | string | the live trainer's status as JSON (expires without renewal) |
| metarm:leases            | hash   | leases by id: expiry and version (expires with the last)    |
| metarm:watches           | hash   | the newest 200 watches over promoted versions, as JSON      |
| metarm:retrain:cooldown  | string | the version whose drift started a retrain last (expires)    |
| metarm:retrain:unhelpful | hash   | runs of drift in a row that did not help, and the last one  |
| metarm:retrain:first:{v}:{spread} | string | a version's spread ratio over its first groups    |
| metarm:service:{id}      | string | a live service's registration as JSON (expires)             |
| metarm:services          | set    | ids of services that are or were live                       |
| metarm:cut_over          | hash   | the last cut-over: version, phase, each server's state      |
| metarm:cut_over:notices  | channel | the cut-over has changed                                   |
| metarm:commands          | list   | ids of commands to the trainer about the version store      |
| metarm:command:{id}      | string | one such command as JSON (expires)                          |
| metarm:command:{id}:answer | list | its answer as JSON (expires)                                |
"""

SAMPLES = "metarm:samples"
SAMPLES_GROUP = "trainer"
SAMPLES_CONSUMER = "trainer"
SAMPLES_TRIMMED = "metarm:samples:trimmed"
JOBS = "metarm:jobs"
ACTIVE_JOB = "metarm:jobs:active"
ENDED_JOBS = "metarm:jobs:ended"
TRACKERS_FAILED = "metarm:trackers:failed"
TRAINER = "metarm:trainer"
LEASES = "metarm:leases"
WATCHES = "metarm:watches"
RETRAIN_COOLDOWN = "metarm:retrain:cooldown"
RETRAIN_UNHELPFUL = "metarm:retrain:unhelpful"
SERVICES = "metarm:services"
SERVICE_PREFIX = "metarm:service:"
CUT_OVER = "metarm:cut_over"
CUT_OVER_NOTICES = "metarm:cut_over:notices"
COMMANDS = "metarm:commands"


def request_key(request_id: str, content: str) -> str:
    """`content` is a digest of what was scored: other content under the same id is another request."""
    return f"metarm:request:{request_id}:{content}"


def job_key(job_id: str) -> str:
    return f"metarm:job:{job_id}"


def cancel_key(job_id: str) -> str:
    return f"metarm:job:{job_id}:cancel"


def first_window_key(version: str, reference_spread: float) -> str:
    return f"metarm:retrain:first:{version}:{reference_spread!r}"


def service_key(service_id: str) -> str:
    return f"{SERVICE_PREFIX}{service_id}"


def command_key(command_id: str) -> str:
    return f"metarm:command:{command_id}"


def answer_key(command_id: str) -> str:
    return f"metarm:command:{command_id}:answer"
