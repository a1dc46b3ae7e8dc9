"""MetaRM Server: a reward model that stays right while the policy moves.

This package holds what the service and the trainer share, and the client for RL workers (the names below).
"""

from metarm.client import Lease, RewardClient
from metarm.errors import ClientError, MetaRMError
from metarm.records import Message, PolicyStamp, ScoredGroup, ScoreResult

__version__ = "0.1.0"

__all__ = [
    "ClientError",
    "Lease",
    "Message",
    "MetaRMError",
    "PolicyStamp",
    "RewardClient",
    "ScoreResult",
    "ScoredGroup",
    "__version__",
]
