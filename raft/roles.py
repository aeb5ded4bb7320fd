"""The roles that a replica plays in one term, and the parts it may have in a configuration.

Numbers and not enum members: a role is looked up for every message that is stepped. New numbers go
at the end; a number that was used once is never given another meaning, for the parts are stored in
logs.
"""

from __future__ import annotations

from typing import Final

# What a replica is doing at present.
FOLLOWER: Final = 0
PRE_CANDIDATE: Final = 1
CANDIDATE: Final = 2
LEADER: Final = 3

ROLES: Final = (FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER)
ROLE_NAMES: Final = ("follower", "pre_candidate", "candidate", "leader")

# What a configuration makes of a replica. 3 is kept for witnesses.
VOTER: Final = 1
LEARNER: Final = 2
INCOMING: Final = 4  # joint: voter in the new half alone
OUTGOING: Final = 5  # joint: voter in the old half alone, gone afterwards
DEMOTED: Final = 6  # joint: voter in the old half alone, learner afterwards

PARTS: Final = frozenset((VOTER, LEARNER, INCOMING, OUTGOING, DEMOTED))
