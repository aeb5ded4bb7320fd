"""Tests of the client: the engine alone in virtual time, the rest against faked nodes."""
