"""Clusters for tests: a fixture makes and ends them, and their logs are shown on failure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Cluster

CLUSTERS = pytest.StashKey[list[Cluster]]()


@pytest.fixture
def make_cluster(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Cluster]]:
    """Makes a :class:`Cluster` from its arguments, started unless ``started=False``."""
    clusters: list[Cluster] = []
    request.node.stash[CLUSTERS] = clusters

    def make(*, started: bool = True, **arguments: Any) -> Cluster:
        directory = tmp_path / f"cluster{len(clusters)}"
        directory.mkdir()
        cluster = Cluster(directory, **arguments)
        clusters.append(cluster)
        if started:
            cluster.start()
        return cluster

    try:
        yield make
        for cluster in clusters:
            cluster.close()
    finally:
        for cluster in clusters:
            cluster.end_all()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes with one group, ``kv``."""
    return make_cluster()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for cluster in item.stash.get(CLUSTERS, []):
            for node in cluster.nodes:
                report.sections.append((f"log of {node.name}", node.log_tail()))
    return report
