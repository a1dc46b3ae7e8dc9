"""MetaRM Server: a reward model that stays right while the policy moves."""

from metarm.client import Lease, RewardClient
from metarm.errors import ClientError, MetaRMError
from metarm.records import Message, PolicyStamp, Preference, SampleGroup, ScoredGroup, ScoreResult

__version__ = "0.1.0"

__all__ = [
    "ClientError",
    "Lease",
    "Message",
    "MetaRMError",
    "PolicyStamp",
    "Preference",
    "RewardClient",
    "SampleGroup",
    "ScoreResult",
    "ScoredGroup",
    "__version__",
]
