"""Changes of membership, transfer of leadership, and what to do when a majority is lost.

**A change, step by step.** :class:`~raft.messages.Reconfigure` names where to go. The next step
follows from the configuration in force alone, and is taken only when that one is committed and an
entry of this leader's own term is too (pitfall 22, the single-server bug)::

    who is to vote and is no member     ->  add as learner          (simple: voters stay)
    who is to vote is behind            ->  wait for its rounds     (thesis 4.2.1)
    the voters differ                   ->  enter the joint configuration
    it is joint                         ->  leave it
    the learners differ                 ->  change them             (simple)
    nothing differs                     ->  done

So there is at most one uncommitted configuration in a log, neighbours always share a quorum, and a
leader that inherits a joint configuration leaves it without knowing who asked for it, once it is
committed and not before (pitfall 24).

A newcomer that does not keep up ends the change: it is taken back by the same steps.

**A leader that is removed** counts others' disks, not its own, until the configuration without it
is committed; then it announces that, asks the voter that is furthest to stand, and steps down
(pitfall 26). It cannot stand again: only who votes does.

**Transfer** (thesis 3.10). Proposals stop; when the target has the whole log it is told to stand at
once, which goes past pre-vote and past everybody's promise to the living leader (pitfall 6).
If nobody leads after an election timeout, it is off and proposals go on; the lease does not come
back in this term (:mod:`raft.reads`).

**Majority lost.** :class:`~raft.messages.ResetPeers` replaces the configuration by hand, for one
election. It is won the usual way, by a majority of the named voters; its winner puts the
configuration into the log behind its no-op. Whatever the lost majority alone had committed is gone.
The term takes a leap first: what the old leaders left behind is of older terms, and should some of
them be alive after all, they cannot lead the same one.
"""

from __future__ import annotations

from raft.configuration import Configuration
from raft.leader import Leadership
from raft.messages import Reconfigure, Replica, ResetPeers, TimeoutNow, Transfer
from raft.progress import REPLICATE, SNAPSHOT, CatchUp, Progress
from raft.roles import LEADER
from raft.state import Change, Handover, State

RESET_TERM_LEAP = 1_000  # far above what elections without a majority can reach meanwhile
# And as much further as the incarnation of who is reset says: two sides of a group that are both
# reset by force must not come to lead the same terms.
RESET_TERM_SPREAD = 1 << 20
NEWCOMER_SILENT_TIMEOUTS = 10  # election timeouts after which a silent newcomer is given up
# And one that is heard, and waits for its turn to get a snapshot: other groups of its process, or
# of this one, may all have the same way to go.
NEWCOMER_WAITING_TIMEOUTS = 300


class MembershipRules(State):
    """Handlers of Reconfigure, Transfer, TimeoutNow and ResetPeers, and what follows from them."""

    __slots__ = ()

    # ------------------------------------------------------------------ changes

    def _on_reconfigure(self, message: Reconfigure) -> None:
        error = self._reconfigure_error(message)
        if error is not None:
            self._decide(message.token, error)
            return
        self._change = Change(
            message.token, message.voters, message.learners, origin=self.configuration
        )
        for peer in self._peers_of(self.configuration.learners):
            peer.catch_up = None  # how it did in an earlier change does not matter
        self._advance_change()

    def _reconfigure_error(self, message: Reconfigure) -> str | None:
        if not message.voters:
            return "a group needs at least one voter"
        both = message.voters & message.learners
        if both:
            return f"voter and learner at once: {', '.join(map(str, sorted(both)))}"
        if not self.can_serve:
            return "no entry of this leader's term is committed yet"
        if self._change is not None or self.configuration.is_joint:
            return "another change of membership is under way"
        if self._history.latest_index > self.commit_index:
            return "the last change of membership is not committed yet"
        if self._handover is not None:
            return "leadership is being transferred"
        return None

    def _refuse_reconfigure(self, message: Reconfigure) -> None:
        self._decide(message.token, "not the leader")

    def _advance_change(self) -> None:
        """Take the next step, if there is one to take and the last one is committed."""
        if self.role != LEADER or self._handover is not None:
            return
        if self._history.latest_index > self.commit_index or not self.can_serve:
            return
        configuration = self.configuration
        if configuration.is_joint:
            self._append_configuration(configuration.leave())
            return
        change = self._change
        if change is not None:
            following = self._next_step(change, configuration)
            if following is not None:
                self._append_configuration(following)
            elif (configuration.voters, configuration.learners) == (change.voters, change.learners):
                self._change = None
                self._decide(change.token, change.error)
        if self.me not in configuration.voters and self._change is None:
            self._leave_leadership()

    def _next_step(self, change: Change, now_in_force: Configuration) -> Configuration | None:
        """The configuration to append, None: there is nothing to do, or something to wait for."""
        voters, learners = now_in_force.voters, now_in_force.learners
        strangers = change.voters - voters - learners
        if strangers:
            return Configuration(voters, learners | strangers)
        if change.voters != voters:
            if not self._have_caught_up(change.voters - voters):
                return None
            return now_in_force.enter(change.voters, change.learners)
        if change.learners != learners:
            return Configuration(voters, change.learners)
        return None

    def _have_caught_up(self, newcomers: frozenset[Replica]) -> bool:
        caught_up = True
        for peer in self._peers_of(newcomers):
            if peer.catch_up is None:
                peer.catch_up = CatchUp(self.log.last_index, self._now)
                peer.active_ms = self._now
                peer.catch_up.on_match(
                    peer.match, self.log.last_index, self._now, self._settings.election_timeout_ms
                )
            caught_up = caught_up and peer.catch_up.is_done
        return caught_up

    def _peers_of(self, replicas: frozenset[Replica]) -> list[Progress]:
        leadership = self._leadership
        assert leadership is not None
        return [leadership.progress[replica] for replica in sorted(replicas)]

    def _watch_newcomers(self) -> None:
        """Take a change back whose newcomers do not keep up."""
        change = self._change
        if change is None or change.error is not None or self.configuration.is_joint:
            return
        newcomers = change.voters - self.configuration.voters
        silence_ms = NEWCOMER_SILENT_TIMEOUTS * self._settings.election_timeout_ms
        for peer in self._peers_of(newcomers & self.configuration.learners):
            catch_up = peer.catch_up
            if self._now - peer.active_ms >= silence_ms:
                change.error = f"{peer.replica} is not heard of"
            elif catch_up is None or catch_up.is_done:
                continue
            elif self._now - catch_up.moved_ms >= self._patience_ms(peer):
                change.error = f"{peer.replica} does not come nearer"
            elif catch_up.round > self._settings.catch_up_rounds_max:
                change.error = f"{peer.replica} does not catch up"
        if change.error is not None:
            change.voters, change.learners = change.origin.voters, change.origin.learners
            self._advance_change()

    def _patience_ms(self, peer: Progress) -> int:
        """With a newcomer that is heard and does not come nearer."""
        waits = peer.state == SNAPSHOT and peer.reached == 0
        timeouts = NEWCOMER_WAITING_TIMEOUTS if waits else NEWCOMER_SILENT_TIMEOUTS
        return timeouts * self._settings.election_timeout_ms

    def _leave_leadership(self) -> None:
        """The configuration without this replica is committed (pitfall 26)."""
        leadership = self._leadership
        assert leadership is not None
        leadership.announce_commit(self.commit_index)
        successor = self._furthest_voter(leadership)
        if successor is not None:
            leadership.send_timeout_now(successor)
        self._become_follower(self.term)

    def _furthest_voter(self, leadership: Leadership) -> Replica | None:
        """The voter that needs least to lead, among those that are heard: best one that has a
        machine to serve with."""
        silence_ms = self._settings.election_timeout_ms
        candidates = [
            peer
            for peer in self._peers_of(self.configuration.voters - {self.me})
            if peer.state == REPLICATE
            and not leadership.is_silent(peer.replica, self._now, silence_ms)
        ]
        best = max(
            candidates,
            key=lambda peer: (peer.wants_index == 0, peer.match, peer.replica),
            default=None,
        )
        return None if best is None else best.replica

    # ------------------------------------------------------------------ transfer

    def _on_transfer(self, message: Transfer) -> None:
        leadership = self._leadership
        assert leadership is not None
        target = message.to
        if target == self.me:
            self._decide(message.token)
            return
        if target is None:
            target = self._furthest_voter(leadership)
            if target is None:
                self._decide(message.token, "no other voter is heard")
                return
        error = self._transfer_error(target, leadership)
        if error is not None:
            self._decide(message.token, error)
            return
        deadline_ms = self._now + self._settings.election_timeout_ms
        self._handover = Handover(message.token, target, deadline_ms)
        if self.me not in self.configuration.voters:
            # Its removal may be committed while it still leads, and then whoever votes alone need
            # not wait after a restart.
            leadership.lease.end()
        self._hand_over()

    def _transfer_error(self, target: Replica, leadership: Leadership) -> str | None:
        if self._handover is not None:
            return f"leadership is being transferred to {self._handover.target}"
        if target not in self.configuration.voters:
            return f"{target} does not vote in this group"
        if leadership.is_silent(target, self._now, self._settings.election_timeout_ms):
            return f"{target} is not heard"
        peer = leadership.progress[target]
        lag = self.log.last_index - peer.match
        if peer.state != REPLICATE or lag > self._settings.transfer_lag_entries_max:
            return f"{target} lags {lag} entries behind"
        return None

    def _refuse_transfer(self, message: Transfer) -> None:
        self._decide(message.token, "not the leader")

    def _hand_over(self) -> None:
        """Tell the target to stand as soon as it has the whole log, and again if that got lost."""
        handover, leadership = self._handover, self._leadership
        assert handover is not None
        assert leadership is not None
        peer = leadership.progress[handover.target]
        if peer.match < self.log.last_index:
            return
        if handover.sent_ms is None or self._now - handover.sent_ms >= self._settings.heartbeat_ms:
            handover.sent_ms = self._now
            leadership.send_timeout_now(handover.target)

    def _watch_handover(self) -> None:
        if self._handover is not None and self._now >= self._handover.deadline_ms:
            self._end_handover(self.leader if self.role == LEADER else None)
            self._advance_change()  # it has waited

    def _on_timeout_now(self, message: TimeoutNow) -> None:
        if self.leader is not None and self.leader != message.sender:
            self._ignore("asked to stand by somebody who does not lead")
        elif not self.configuration.votes(self.me):
            self._ignore("asked to stand without being a voter")
        elif self._disk_is_stalled():
            self._ignore("asked to stand while the disk is stalled")
        else:
            self._become_candidate(transfer=True)

    # ------------------------------------------------------------------ majority lost

    def _on_reset_peers(self, message: ResetPeers) -> None:
        error = self.reset_error(message, self._now)
        if error is not None:
            self._decide(message.token, error)
            return
        if self._override is not None:
            self._decide(self._override_token, "another reset has replaced this one")
        leap = RESET_TERM_LEAP + self.me.incarnation % RESET_TERM_SPREAD
        self._become_follower(self.term + leap)
        self._override = Configuration(message.voters)
        self._override_token = message.token  # decided when this replica leads, or follows
        self._configuration_changed()
        self._timer.forget_leader(self._now)
        self._timer.expire(self._now)

    def reset_error(self, message: ResetPeers, now: int) -> str | None:
        """Why it would be refused."""
        if self.me not in message.voters:
            return f"{self.me} has to be one of the voters"
        hears_leader = self.leader is not None and self._timer.leader_is_alive(now)
        if message.force:
            return None
        if hears_leader or self.role == LEADER:
            return f"the leader {self.leader} is heard: the majority is not lost"
        if now - self._started_ms < self._settings.election_timeout_ms:
            return "started a moment ago: a leader may yet be heard"
        return None
