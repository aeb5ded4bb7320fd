"""What is agreed: the consensus of one group, as a function of messages.

Pure: no I/O, no clock, no source of randomness, no logging (a test reads the imports). Time and
chance are handed in. Only :mod:`raft.store` touches a disk.

===================  ============================================================================
:mod:`messages`      the vocabulary: peer and local messages, runs, what comes out
:mod:`core`          one replica: one door in, one door out, tables of who handles what
:mod:`state`         what a replica knows, and how its role changes
:mod:`leader`        what only a leader has: progress of the others, rounds, reads
:mod:`election`      when to stand for election, whom to refuse, how a ballot goes
:mod:`outbox`        what may leave at once and what waits for the disk; what is durable
:mod:`log`           the runs of entries, in memory
:mod:`progress`      one peer in the eyes of the leader
:mod:`configuration` who takes part
:mod:`quorum`        counting
:mod:`errors`        what another replica may say that this one cannot go on from
:mod:`roles`         the numbers of roles and parts
:mod:`invariants`    what must hold after every step, and between two of them
:mod:`status`        what a replica says about itself
:mod:`settings`      timing and limits
===================  ============================================================================
"""
