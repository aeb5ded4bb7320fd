"""A leadership by itself: who is asked again and when, what counts, and whom no log can help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raft.configuration import Configuration
from raft.leader import DEPARTING_PEERS_MAX, DEPARTING_TIMEOUTS, Leadership
from raft.log import Log
from raft.messages import (
    COMMAND,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    ReadRuns,
    Replica,
    Run,
    RunsRead,
    SendChunk,
    SnapshotMeta,
    SnapshotReply,
)
from raft.outbox import Outbox
from raft.progress import PROBE, REPLICATE, SNAPSHOT, CatchUp
from raft.settings import RaftSettings
from tests.raft.network import make_run, replica

N1, N2, N3, N4, N5 = (replica(f"n{number}") for number in range(1, 6))
SETTINGS = RaftSettings()


class Lead:
    """n1 leads term 5 from time 0 on; ``log`` is what it starts with."""

    def __init__(
        self,
        log: Log,
        voters: tuple[Replica, ...],
        learners: tuple[Replica, ...],
        settings: RaftSettings = SETTINGS,
    ) -> None:
        self.log = log
        self.outbox = Outbox(log.last_index)
        self.commit = log.base_index
        self.leadership = Leadership(
            me=N1,
            term=5,
            configuration=Configuration.of(*voters, learners=learners),
            log=log,
            outbox=self.outbox,
            settings=settings,
            snapshot=None,
            now=0,
        )
        self.append()

    def append(self) -> None:
        self.log.append([make_run(COMMAND, 5, self.log.last_index + 1)])

    def flush(self, now: int) -> list[PeerMessage]:
        self.leadership.flush(self.commit, now)
        return self.take()

    def take(self) -> list[PeerMessage]:
        messages, self.outbox.messages = self.outbox.messages, []
        return messages

    def acknowledge(self, sender: Replica, match: int, now: int) -> None:
        self.leadership.on_append_reply(AppendReply(sender, N1, 5, match), now)

    def beat(self, sender: Replica, now: int, round_: int = 1) -> list[PeerMessage]:
        self.leadership.on_heartbeat_reply(HeartbeatReply(sender, N1, 5, round_), self.commit, now)
        return self.take()


def lead(
    log: Log | None = None,
    *,
    voters: tuple[Replica, ...] = (N1, N2, N3),
    learners: tuple[Replica, ...] = (),
) -> Lead:
    return Lead(log or Log(), voters, learners)


def test_the_first_flush_announces_the_leader_and_sends_its_first_entry() -> None:
    messages = lead().flush(0)
    assert [type(message) for message in messages] == [Heartbeat, Heartbeat, Append, Append]


def test_an_idle_peer_is_not_asked_the_moment_something_new_is_sent() -> None:
    """It was quiet for long because there was nothing to say."""
    each = lead()
    each.flush(0)
    each.acknowledge(N2, 1, 5)
    each.append()
    each.flush(60_000)
    assert each.beat(N2, 60_001) == []
    assert each.beat(N2, 60_099) == []
    (probe,) = each.beat(N2, 60_100)
    assert probe == Append(N1, N2, 5, 2, 5, 0, [])
    assert each.beat(N2, 60_150) == [], "asked once for each interval"


def test_a_peer_that_acknowledges_steadily_is_not_asked_however_far_behind() -> None:
    each = lead()
    each.flush(0)
    each.acknowledge(N2, 1, 0)
    for now in range(0, 1_000, 50):
        each.append()
        each.append()
        each.flush(now)
        each.acknowledge(N2, now // 50 + 2, now)
        assert each.beat(N2, now + 10) == []


def test_a_probe_that_is_answered_starts_the_stream() -> None:
    each = lead(Log([make_run(COMMAND, 1, 1, count=10)]))
    each.flush(0)
    (probe,) = each.beat(N2, 100)
    assert probe == Append(N1, N2, 5, 10, 1, 0, [])
    each.acknowledge(N2, 10, 101)
    assert each.leadership.progress[N2].state == REPLICATE
    (append,) = each.flush(102)
    assert isinstance(append, Append)
    assert [run.first for run in append.runs] == [11]


def test_learners_count_neither_for_reads_nor_for_commits_nor_for_check_quorum() -> None:
    each = lead(learners=(N4, N5))
    each.flush(0)
    each.commit = 1
    assert each.leadership.maybe_add_read(7, 1)
    each.flush(10)
    for learner in (N4, N5):
        each.acknowledge(learner, 1, 5_000)
        each.beat(learner, 5_000, round_=2)
    assert each.leadership.take_safe_reads(1) == []
    assert each.leadership.quorum_match(1) == 0
    assert each.leadership.quorum_heard_ms(5_000) == 0
    each.acknowledge(N2, 1, 5_000)
    each.beat(N2, 5_000, round_=2)
    assert [read.token for read in each.leadership.take_safe_reads(1)] == [7]
    assert each.leadership.quorum_match(1) == 1
    assert each.leadership.quorum_heard_ms(5_000) == 5_000


def test_a_round_is_counted_also_where_nobody_is_asked() -> None:
    """Who leads alone has each read confirmed by its own round, and so is never told an older one
    when there are others again."""
    each = lead(voters=(N1,))
    each.flush(0)
    rounds = []
    for token in (1, 2):
        assert each.leadership.maybe_add_read(token, 1)
        each.commit = 1
        each.flush(token)
        (read,) = each.leadership.take_safe_reads(1)
        rounds.append(read.round)
    assert rounds == [2, 3]


def test_rounds_that_no_voter_will_ever_confirm_are_not_kept_for_a_lease() -> None:
    each = Lead(Log(), (N1,), (N2,), RaftSettings(lease_reads=True))
    beats = 0
    for now in range(0, 20_000, 100):
        each.leadership.on_time(1, now)
        beats += sum(isinstance(message, Heartbeat) for message in each.flush(now))
        each.beat(N2, now, round_=beats)
    assert beats == 200
    assert len(each.leadership.lease._started) == 0


def test_a_round_that_was_never_started_confirms_nothing() -> None:
    each = lead()
    each.flush(0)
    each.beat(N2, 1, round_=99)
    assert each.leadership.progress[N2].round == 0


def test_the_last_heartbeat_before_the_next_is_due_tells_only_who_has_not_heard() -> None:
    each = lead()
    each.flush(0)
    each.acknowledge(N2, 1, 1)
    each.commit = 1
    each.leadership.note_commit(1)
    assert each.leadership.next_deadline_ms == 11
    each.leadership.on_time(1, 11)
    assert each.take() == [Heartbeat(N1, N2, 5, 1, 1)]
    assert each.leadership.next_deadline_ms == 100


def test_news_moves_the_notice_on_but_never_past_the_heartbeat() -> None:
    each = lead()
    each.flush(0)
    for now in (1, 5, 9):
        each.leadership.note_commit(now)
    assert each.leadership.next_deadline_ms == 19
    each.leadership.note_commit(99)
    assert each.leadership.next_deadline_ms == 100


def written_every(gap_ms: int, *, until_ms: int) -> Lead:
    """Both peers acknowledge each write at once; the last one is just committed."""
    each = lead()
    each.flush(0)
    for now in range(0, until_ms + 1, gap_ms):
        each.append()
        each.flush(now)
        for sender in (N2, N3):
            each.acknowledge(sender, each.log.last_index, now)
        each.commit = each.log.last_index
        each.leadership.note_commit(now)
    each.take()
    return each


def test_where_writes_come_now_and_then_the_next_one_is_given_time_to_tell_of_the_commit() -> None:
    each = written_every(30, until_ms=90)
    each.leadership.on_time(each.commit, 149)
    assert each.take() == []
    each.leadership.on_time(each.commit, 150)
    assert [type(message) for message in each.take()] == [Heartbeat, Heartbeat]


def test_a_write_after_a_pause_is_told_of_soon() -> None:
    each = written_every(30, until_ms=90)
    each.append()
    each.flush(1_000)
    each.acknowledge(N2, each.log.last_index, 1_001)
    each.leadership.note_commit(1_001)
    each.take()
    each.leadership.on_time(each.log.last_index, 1_011)
    assert N2 in [message.to for message in each.take()]


def test_who_answers_appends_needs_no_heartbeats() -> None:
    each = written_every(10, until_ms=500)
    assert not [message for message in each.flush(501) if type(message) is Heartbeat]
    each.leadership.on_time(each.commit, 550)
    each.append()
    each.flush(551)
    each.acknowledge(N2, each.log.last_index, 555)
    assert each.leadership.next_deadline_ms <= 650
    each.leadership.on_time(each.commit, 650)
    assert [(type(each_), each_.to) for each_ in each.take()] == [(Heartbeat, N3)], "N2 has heard"
    each.leadership.on_time(each.commit, 750)
    assert [message.to for message in each.flush(750)] == [N2, N3], "a round again"


def test_answers_that_waited_for_a_disk_keep_no_heartbeat_back() -> None:
    """They say what was heard long ago; what the peer hears next has to be sent now."""
    each = written_every(10, until_ms=500)
    each.leadership.on_time(each.commit, 600)
    each.flush(600)
    for sender in (N2, N3):
        each.acknowledge(sender, each.log.last_index, 699)
    each.leadership.on_time(each.commit, 700)
    beats = each.flush(700)
    assert [message.to for message in beats if type(message) is Heartbeat] == [N2, N3]


@pytest.mark.parametrize("election_timeout_ms", [300, 350, 1_000])
def test_between_two_words_to_a_peer_there_is_at_most_half_an_election_timeout(
    election_timeout_ms: int,
) -> None:
    """However its answers come, whenever the last append has left."""
    settings = replace(SETTINGS, election_timeout_ms=election_timeout_ms)
    for last_ms in range(100, 200):
        each = Lead(Log(), (N1, N2, N3), (), settings)
        heard_ms = 0
        each.flush(0)
        each.take()
        for now in range(1, 1_000):
            if now == last_ms:
                each.append()
            if now >= each.leadership.next_deadline_ms:
                each.leadership.on_time(1, now)
            if any(message.to == N2 for message in each.flush(now)):
                assert now - heard_ms <= max(100, election_timeout_ms // 2), last_ms
                heard_ms = now
            for sender in (N2, N3):
                each.acknowledge(sender, each.log.last_index, now)
        assert heard_ms > 800


def test_who_was_sent_something_on_a_line_that_closed_gets_the_next_heartbeat() -> None:
    each = written_every(10, until_ms=90)
    each.leadership.on_link_closed(N2.node)
    each.append()
    each.flush(91)
    each.leadership.on_time(each.commit, 100)
    assert [message.to for message in each.take()] == [N2]


def test_reads_that_wait_get_their_rounds_also_from_who_answers_appends() -> None:
    each = written_every(10, until_ms=500)
    each.leadership.maybe_add_read(1, each.commit)
    beats = each.flush(500)
    assert [type(message) for message in beats] == [Heartbeat, Heartbeat]
    each.acknowledge(N2, each.log.last_index, 599)
    each.acknowledge(N3, each.log.last_index, 599)
    each.leadership.on_time(each.commit, 600)
    again = each.flush(600)
    assert [type(message) for message in again] == [Heartbeat, Heartbeat], "one may be lost"


def test_a_lease_needs_its_rounds_however_much_is_written() -> None:
    each = Lead(Log(), (N1, N2, N3), (), replace(SETTINGS, lease_reads=True))
    each.flush(0)
    for sender in (N2, N3):
        each.acknowledge(sender, 1, 99)
    each.leadership.on_time(1, 100)
    assert [type(message) for message in each.flush(100)] == [Heartbeat, Heartbeat]


def behind_a_snapshot() -> Lead:
    each = lead(Log([make_run(COMMAND, 4, 51)], base_index=50, base_term=3))
    each.flush(0)
    return each


def test_a_peer_that_lacks_what_no_log_has_waits_for_a_snapshot() -> None:
    each = behind_a_snapshot()
    peer = each.leadership.progress[N2]
    each.leadership.on_append_reply(AppendReply(N2, N1, 5, 51, True, 20, 2), 1)
    assert peer.next == 51
    (append,) = each.flush(2)
    assert isinstance(append, Append)
    assert (append.prev_index, append.prev_term) == (50, 3)
    each.leadership.on_append_reply(AppendReply(N2, N1, 5, 50, True, 20, 2), 3)
    assert peer.state == SNAPSHOT
    assert peer.is_paused
    assert each.flush(4) == []
    assert each.beat(N2, 5_000) == []
    each.acknowledge(N2, 51, 5_001)
    assert peer.state == REPLICATE, "it has got there by other means"


def test_a_refusal_of_what_was_acknowledged_since_is_old_news() -> None:
    each = lead()
    each.flush(0)
    each.acknowledge(N2, 1, 1)
    for refused in (0, 1):
        each.leadership.on_append_reply(AppendReply(N2, N1, 5, refused, True, 0, 0), 2)
    peer = each.leadership.progress[N2]
    assert (peer.state, peer.match, peer.next) == (REPLICATE, 1, 2)


def test_a_link_that_closes_sends_nobody_back_behind_the_log() -> None:
    each = behind_a_snapshot()
    peer = each.leadership.progress[N2]
    each.acknowledge(N2, 52, 1)
    peer.match = 7  # it fell behind long ago
    each.leadership.on_link_closed("n2")
    assert peer.next == 8
    assert each.beat(N2, 500) == []
    assert peer.state == SNAPSHOT
    each = behind_a_snapshot()
    peer = each.leadership.progress[N2]
    peer.probe_sent = False
    peer.next = 8
    assert each.flush(1) == []
    assert peer.state == SNAPSHOT


# --------------------------------------------------------------------------- snapshots

THREE = Configuration.of(N1, N2, N3)


def meta(index: int) -> SnapshotMeta:
    return SnapshotMeta(index, 3, THREE, index, 1, 100, 7)


def sending() -> Lead:
    """n2 is getting the snapshot of 50, and its first chunk is on its way."""
    each = behind_a_snapshot()
    each.leadership.snapshot = meta(50)
    each.leadership.on_append_reply(AppendReply(N2, N1, 5, 51, True, 20, 2), 1)
    each.flush(2)
    each.leadership.on_append_reply(AppendReply(N2, N1, 5, 50, True, 20, 2), 3)
    each.flush(4)
    assert each.leadership.take_chunks() == [SendChunk(N2, 5, meta(50), 0, asks=True)]
    each.leadership.on_snapshot_reply(SnapshotReply(N2, N1, 5, 50, 3, 0), 4)
    each.flush(4)
    assert each.leadership.take_chunks() == [SendChunk(N2, 5, meta(50), 0)]
    return each


def test_what_a_peer_had_before_its_snapshot_does_not_end_the_transfer() -> None:
    each = sending()
    peer = each.leadership.progress[N2]
    each.acknowledge(N2, 20, 5)
    assert (peer.state, peer.match, peer.snapshot) == (SNAPSHOT, 20, meta(50))
    each.acknowledge(N2, 50, 6)
    assert (peer.state, peer.next, peer.snapshot) == (REPLICATE, 51, None)


def test_another_snapshot_that_is_lost_stops_nothing() -> None:
    each = sending()
    each.leadership.on_snapshot_lost(meta(40))
    assert each.leadership.snapshots_in_use() == [meta(50)]
    each.leadership.on_snapshot_lost(meta(50))
    assert each.leadership.snapshot is None
    assert each.leadership.snapshots_in_use() == []


def test_a_newcomer_that_gets_bytes_of_a_snapshot_comes_nearer() -> None:
    each = sending()
    peer = each.leadership.progress[N2]
    peer.catch_up = CatchUp(52, now=3)
    each.leadership.on_snapshot_reply(SnapshotReply(N2, N1, 5, 50, 3, 40), 500)
    assert peer.catch_up.moved_ms == 500
    each.flush(501)
    each.leadership.on_snapshot_reply(SnapshotReply(N2, N1, 5, 50, 3, 40), 900)
    assert peer.catch_up.moved_ms == 500


def test_an_answer_that_says_nothing_new_brings_no_chunk() -> None:
    each = sending()
    peer = each.leadership.progress[N2]
    for now, offset, chunks in ((500, 40, 1), (600, 40, 0), (700, 80, 1), (800, 80, 0)):
        each.leadership.on_snapshot_reply(SnapshotReply(N2, N1, 5, 50, 3, offset), now)
        each.flush(now)
        assert len(each.leadership.take_chunks()) == chunks
        assert peer.active_ms == now, "it is a sign of life all the same"
    assert (peer.moved_ms, peer.chunk_ms) == (700, 700)


def test_a_receiver_that_has_less_than_before_gets_it_from_there() -> None:
    """It was restarted, and what it had kept is gone."""
    each = sending()
    each.leadership.on_snapshot_reply(SnapshotReply(N2, N1, 5, 50, 3, 40), 500)
    each.flush(500)
    each.leadership.on_snapshot_reply(SnapshotReply(N2, N1, 5, 50, 3, 0), 600)
    each.leadership.take_chunks()
    each.flush(600)
    assert each.leadership.take_chunks() == [SendChunk(N2, 5, meta(50), 0)]


def test_an_offset_beyond_the_end_is_the_end() -> None:
    each = sending()
    each.leadership.on_snapshot_reply(SnapshotReply(N2, N1, 5, 50, 3, 9_999), 500)
    assert each.leadership.progress[N2].offset == 100


# --------------------------------------------------------------------------- who has left


def test_who_has_left_is_told_for_a_while_and_counts_for_nothing() -> None:
    each = lead()
    each.flush(0)
    each.leadership.reconfigure(Configuration.of(N1, N2), 2, 10)
    assert each.leadership.quorum_match(1) == 0
    each.acknowledge(N3, 1, 11)
    assert each.leadership.quorum_match(1) == 0, "n1 and n2 are all that count"
    assert N3 in [message.to for message in each.flush(11) if isinstance(message, Heartbeat)]
    until = 10 + DEPARTING_TIMEOUTS * SETTINGS.election_timeout_ms
    each.leadership.on_time(0, until - 1)
    assert N3 in each.leadership.progress
    each.leadership.on_time(0, until + SETTINGS.heartbeat_ms)
    assert N3 not in each.leadership.progress


def test_strangers_are_told_and_no_more_than_so_many() -> None:
    each = lead()
    each.flush(0)
    for number in range(DEPARTING_PEERS_MAX + 1):
        each.leadership.tell(replica(f"m{number}"), 1, 10)
    each.leadership.tell(replica("m0"), 1, 10)
    each.leadership.tell(N2, 1, 10)
    assert len(each.leadership.progress) == 2 + DEPARTING_PEERS_MAX
    assert each.leadership.progress[N2].departs_ms is None
    told = each.leadership.progress[replica("m0")]
    assert (told.votes, told.match, told.state) == (False, 0, PROBE)


def test_a_leader_that_is_alone_again_sends_nothing() -> None:
    each = lead()
    each.flush(0)
    each.leadership.reconfigure(Configuration.of(N1), 2, 10)
    each.leadership.on_time(0, 20_000)
    assert each.leadership.progress == {}
    assert each.flush(20_000) == []
    assert each.leadership.next_deadline_ms > 1 << 60


# --------------------------------------------------------------------------- on the disk alone


def lags(*, append_bytes_max: int = 1 << 20) -> tuple[Lead, list[Run]]:
    """n2 has acknowledged entry 1 of 5, and the bodies of 1 to 4 are in memory no more."""
    runs = [make_run(COMMAND, 1, index) for index in range(1, 5)]
    each = Lead(Log(runs), (N1, N2), (), RaftSettings(append_bytes_max=append_bytes_max))
    each.log.release(5, 0)
    each.flush(0)
    each.leadership.on_append_reply(
        AppendReply(N2, N1, 5, 4, rejected=True, hint_index=1, hint_term=1), 1
    )
    return each, runs


def test_where_a_peer_stands_is_asked_before_anything_is_read() -> None:
    each, runs = lags()
    assert each.flush(2) == [Append(N1, N2, 5, 1, 1, 0, [])]
    assert each.leadership.take_read_runs() == []
    assert each.flush(3) == []
    each.acknowledge(N2, 1, 4)
    assert each.flush(5) == []
    assert each.leadership.take_read_runs() == [ReadRuns(N2, 2, 4)]
    each.leadership.on_runs_read(RunsRead(N2, runs[1:]), 0, 6)
    read, held = each.flush(7)
    assert read == Append(N1, N2, 5, 1, 1, 0, runs[1:])
    assert isinstance(held, Append)
    assert [run.first for run in held.runs] == [5]


def reading() -> tuple[Lead, list[Run]]:
    """2 and 3 are being read, one append's worth."""
    each, runs = lags(append_bytes_max=2 * len(make_run(COMMAND, 1, 2).body))
    each.flush(2)
    each.acknowledge(N2, 1, 4)
    each.flush(5)
    assert each.leadership.take_read_runs() == [ReadRuns(N2, 2, 3)]
    return each, runs


def test_one_append_is_read_at_a_time() -> None:
    each, runs = reading()
    assert each.flush(6) == []
    assert each.leadership.take_read_runs() == []
    each.leadership.on_runs_read(RunsRead(N2, runs[1:3]), 0, 7)
    assert each.take() == [Append(N1, N2, 5, 1, 1, 0, runs[1:3])]
    each.flush(8)
    assert each.leadership.take_read_runs() == [ReadRuns(N2, 4, 4)]


def test_what_was_read_and_is_not_what_the_peer_gets_next_is_not_sent() -> None:
    each, runs = reading()
    each.acknowledge(N2, 2, 6)  # it had more than it could say
    each.leadership.on_runs_read(RunsRead(N2, runs[1:3]), 0, 7)
    assert each.flush(8) == []
    assert each.leadership.take_read_runs() == [ReadRuns(N2, 3, 4)]


def test_a_closed_link_ends_no_reading_but_what_is_sent_next() -> None:
    each, runs = reading()
    each.leadership.on_link_closed("n2")
    assert each.flush(6) == [Append(N1, N2, 5, 1, 1, 0, [])]
    each.leadership.on_runs_read(RunsRead(N2, runs[1:3]), 0, 7)
    assert each.take() == []
    each.acknowledge(N2, 1, 8)
    each.flush(9)
    assert each.leadership.take_read_runs() == [ReadRuns(N2, 2, 3)]


def test_what_the_disk_has_let_go_of_is_replaced_by_a_snapshot() -> None:
    each, _ = reading()
    each.leadership.on_runs_read(RunsRead(N2, []), 0, 6)
    assert each.leadership.progress[N2].state == SNAPSHOT
    each.leadership.on_runs_read(RunsRead(N2, []), 0, 7)  # nobody waits for it


def test_what_was_compacted_while_it_was_read_is_not_sent() -> None:
    each, runs = reading()
    each.log.compact_to(3)
    each.leadership.on_runs_read(RunsRead(N2, runs[1:3]), 0, 6)
    assert each.flush(7) == []
    assert each.leadership.progress[N2].state == SNAPSHOT


def test_runs_that_are_not_those_of_the_log_are_an_error_of_ours() -> None:
    each, _ = reading()
    other = [make_run(COMMAND, 4, 2), make_run(COMMAND, 4, 3)]
    with pytest.raises(AssertionError, match="2 is not what was saved"):
        each.leadership.on_runs_read(RunsRead(N2, other), 0, 6)
