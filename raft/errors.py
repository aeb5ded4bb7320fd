"""What another replica may say that this one cannot go on from."""

from __future__ import annotations


class Contradiction(Exception):
    """A replica says what cannot be true together with what is certain here.

    Raised by :meth:`raft.core.Core.step`: another entry where one is committed, a second leader of
    a term, knowledge of entries that this log does not have.  No bug need be behind it: a disk that
    was brought back from a backup, or a reset of the members while the majority lived, makes two
    histories of one group.  Which of them is right only people can tell.  The core must not be
    asked for anything after it: nothing that it has not given out yet is ever to leave.
    """
