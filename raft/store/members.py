"""Which files are the log of a slot, in which order, and where one is missing.

Every segment says in its first record, or in the copy of that (:mod:`raft.store.openings`), what it
is: number, random id, the id of the segment that it follows, how much of that one is in use.  So
the log is read off **backwards**: the newest segment names the one before it, and so on.  A file's
name only counts where both are lost.  A segment under another name is found; one of another slot,
and a copy of one that is there, are not part of the log, and what their names stood for is lost.
One of another disk stops everything: somebody put it there, perhaps all of them, and nobody may
vote with the votes of another node.

What no later segment follows on is skipped: it was lost already when that one was opened, and was
judged then.  So damage is judged once, and what it left is set aside (:mod:`raft.store.settling`).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from raft.store.errors import ForeignWal, WalDamaged
from raft.store.files import Files
from raft.store.openings import read_opening
from raft.store.records import SegmentInfo
from raft.store.salvage import Loss, Sealed
from raft.store.segments import segment_name, segment_number

# No slot ever gets there; a file with a higher number in its name is no segment of ours.
SEGMENT_NUMBER_MAX = (1 << 48) - 1


@dataclass(slots=True)
class Member:
    """One segment.  ``info``: what opens it, if that can be read; ``lost``: why it is not read."""

    number: int
    path: str
    info: SegmentInfo | None
    lost: str | None = None
    segment_id: int = 0
    sealed: Sealed | None = None  # what the one that follows says of it
    follows: bool = False  # itself says that it follows the one before it here
    missing: Loss | None = None  # of a segment that must have been before it
    is_late: bool = False  # it is the first, and there were others before it
    is_next: bool = False  # its number is one higher than that of a file that is there
    copy: bytes = b""  # what stands for its first record, which is damaged

    def loss(self, reason: str) -> Loss:
        return Loss(self.path, 0, reason)


@dataclass(slots=True)
class Members:
    """``segments``: oldest first.  ``number``: the highest in use, or 0."""

    segments: list[Member] = field(default_factory=list)
    discard: list[str] = field(default_factory=list)  # names of files in which nothing was written
    aside: list[str] = field(default_factory=list)  # names of files that are no part of the log
    misnamed: list[str] = field(default_factory=list)  # of segments that have another number
    number: int = 0


def find_members(
    files: Files,
    directory: str,
    slot: int,
    incarnation: int | None,
    without: str | None = None,
    over: Collection[str] = (),
) -> Members:
    """``without``: the name of a file in which nothing is durable; ``over``: of files that the log
    needs no more.  Changes nothing.

    Raises ForeignWal, WalDamaged (the log of another slot), UnknownFormat, and
    OSError when the disk does not give the bytes."""
    result = Members()
    found = _look_at_all(files, directory, result, without)
    ours: dict[int, Member] = {}
    misplaced: list[Member] = []
    foreign: list[Member] = []
    for member in found:
        info = member.info
        if os.path.basename(member.path) in over:
            continue
        if info is not None and incarnation not in (None, info.incarnation):
            # No disk does this: somebody put it here, and can take it away.
            raise ForeignWal(member.path, info.incarnation, incarnation or 0)
        if info is not None and info.slot != slot:
            foreign.append(member)
        elif info is not None and info.number != member.number:
            misplaced.append(member)
        else:
            ours[member.number] = member
    if foreign and not any(each.info for each in (*ours.values(), *misplaced)):
        raise WalDamaged(foreign[-1].path, 0, (), f"it is of another slot, this is slot {slot}")
    for member in misplaced:
        info = member.info
        assert info is not None
        there = ours.get(info.number)
        if there is None or there.info is None:
            ours[info.number] = Member(info.number, member.path, info, copy=member.copy)
        elif member.number not in ours:
            ours[member.number] = _without_content(member, f"it is a copy of segment {info.number}")
    for member in foreign:
        ours.setdefault(member.number, _without_content(member, "it is of another slot"))
    result.segments = _linked([ours[number] for number in sorted(ours)])
    names = {os.path.basename(each.path): each for each in found}
    for member in result.segments:
        name = os.path.basename(member.path)
        if member.number <= SEGMENT_NUMBER_MAX:
            del names[name]
        if name != segment_name(member.number):
            result.misnamed.append(name)
    # What has no place in the log, or a name that none of ours can have.
    result.aside = list(names)
    return result


def _look_at_all(
    files: Files, directory: str, result: Members, without: str | None
) -> list[Member]:
    """Every file with a segment's name, oldest first, but for those at the end without a byte."""
    numbered = ((segment_number(name), name) for name in files.listdir(directory))
    names = sorted((number, name) for number, name in numbered if number is not None)
    found: list[Member] = []
    for number, name in reversed(names):
        path = os.path.join(directory, name)
        opening = read_opening(files, path, number)
        info = opening.info
        if name == without or (opening.is_empty and not found):
            # Made ahead, or made and never written to.
            result.discard.append(name)
            continue
        if number <= SEGMENT_NUMBER_MAX:
            result.number = max(result.number, number)
        if info is not None and info.number <= SEGMENT_NUMBER_MAX:
            result.number = max(result.number, info.number)
        found.append(Member(number, path, info, opening.lost, copy=opening.copy))
    found.reverse()
    numbers = {each.number for each in found}
    for member in found:
        member.is_next = member.number == 1 or member.number - 1 in numbers
    return found


def _without_content(member: Member, reason: str) -> Member:
    return Member(member.number, member.path, None, reason)


def _linked(candidates: list[Member]) -> list[Member]:
    """Those that make up the log, each with what its neighbours say of it; oldest first."""
    chain: list[Member] = []
    while candidates:
        if not chain or chain[-1].info is None:
            chain.append(candidates.pop())
            if len(chain) > 1:
                _note_number_gap(chain[-1], chain[-2])
            continue
        after = chain[-1]
        before = _before(after, candidates)
        if before is None:
            break
        chain.append(before)
    _note_beginning(chain[-1] if chain else None)
    for member in chain:
        if member.info is not None:
            member.segment_id = member.info.segment_id
    chain.reverse()
    return chain


def _before(after: Member, candidates: list[Member]) -> Member | None:
    """Take from ``candidates`` the segment that ``after`` follows, or the best there is."""
    info = after.info
    assert info is not None
    if info.previous_id == 0:
        return None
    sealed = Sealed(info.sealed_bytes, info.batch)
    for position in range(len(candidates) - 1, -1, -1):
        member = candidates[position]
        if member.info is not None and member.info.segment_id == info.previous_id:
            del candidates[position:]
            member.sealed, after.follows = sealed, True
            return member
    while candidates:
        member = candidates.pop()
        is_next = member.number == info.number - 1
        if is_next and member.info is None:
            # Its name alone speaks for it; its id is known.
            member.segment_id, member.sealed, after.follows = info.previous_id, sealed, True
            return member
        if not is_next:
            _note_number_gap(member, after)
            return member
        after.missing = Loss(member.path, 0, member.lost or "it is no part of this log")
    return None


def _note_number_gap(member: Member, after: Member) -> None:
    if after.missing is None and member.number + 1 < after.number:
        after.missing = _missing(after, after.number - 1)


def _note_beginning(first: Member | None) -> None:
    if first is None or first.missing is not None:
        return
    if first.info is None:
        if first.number > 1:
            first.missing = _missing(first, first.number - 1)
    else:
        first.is_late = first.info.previous_id != 0


def missing_before(first: Member) -> Loss:
    assert first.info is not None
    return _missing(first, max(1, first.info.number - 1))


def _missing(near: Member, number: int) -> Loss:
    path = os.path.join(os.path.dirname(near.path), segment_name(number))
    return Loss(path, 0, "the segment is missing")
