"""`bench`: how many commands a cluster takes per second, and how long each waits.

    bench                                       three nodes of its own, one client
    bench --clients 5 --in-flight 16 --batch 50
    bench --connect tcp://127.0.0.1:7001,tcp://127.0.0.1:7002 --find leader --sequential
    bench --failover 20 --kill node             how long nothing is written after a kill

Without --connect it starts nodes of its own on this machine, in a new directory, and ends them. It
prints one line per run and the median over the runs. A rate counts commands answered OK within the
run; a latency is that of one message, whatever its batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transport.client.blocking import Client
from transport.client.errors import PolyraftError
from transport.client.failover import NODE, TARGETS, Failover
from transport.client.fleet import (
    CLIENTS_MAX,
    BenchError,
    choose_targets,
    find_leader_address,
    group_names,
    run_load,
    wait_for_group,
)
from transport.client.load import GET, PUT, LoadPlan, Window
from transport.client.own_cluster import NODES_MAX, ClusterError, OwnCluster
from transport.client.requests import parse_addresses
from transport.client.wire import BATCH_REQUESTS_MAX, TIMEOUT_MS_MAX

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
SECONDS_MAX = 86_400.0


@dataclass(slots=True)
class RunFigures:
    """What one run says."""

    commands_per_s: float
    messages_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    lost_messages: int
    overdue_messages: int
    refused: dict[str, int]
    client_cpu_us_per_command: float | None

    @classmethod
    def of(cls, window: Window, seconds: float) -> RunFigures:
        """The figures of one run over all clients."""
        count = window.completed_count
        return cls(
            commands_per_s=count / seconds,
            messages_per_s=window.message_count / seconds,
            p50_ms=_ms(window.histogram.percentile_us(50)),
            p99_ms=_ms(window.histogram.percentile_us(99)),
            p999_ms=_ms(window.histogram.percentile_us(99.9)),
            lost_messages=window.lost_count,
            overdue_messages=window.overdue_count,
            refused=dict(sorted(window.refused.items())),
            client_cpu_us_per_command=window.cpu_s * 1e6 / count if count else None,
        )

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {name: getattr(self, name) for name in self.__slots__}

    def line(self) -> str:
        """For people."""
        text = (
            f"{self.commands_per_s:>11,.0f} commands/s   p50 {_text(self.p50_ms)}   "
            f"p99 {_text(self.p99_ms)}   p99.9 {_text(self.p999_ms)}"
        )
        if self.lost_messages:
            text += f"   lost {self.lost_messages}"
        if self.overdue_messages:
            text += f"   unanswered for a second {self.overdue_messages}"
        if self.refused:
            text += "   refused " + " ".join(f"{k}={v}" for k, v in self.refused.items())
        return text


def _ms(value_us: float | None) -> float | None:
    return None if value_us is None else round(value_us / 1000, 4)


def _text(value_ms: float | None) -> str:
    if value_ms is None:
        return "-"
    return f"{value_ms:.2f} ms" if value_ms < 100 else f"{value_ms:,.0f} ms"


def median_of(runs: list[RunFigures]) -> RunFigures:
    """Each figure's median over the runs; what was lost or refused is summed."""
    refused: dict[str, int] = {}
    for run in runs:
        for name, count in run.refused.items():
            refused[name] = refused.get(name, 0) + count

    def middle(name: str) -> float | None:
        values = [value for run in runs if (value := getattr(run, name)) is not None]
        return statistics.median(values) if values else None

    return RunFigures(
        commands_per_s=middle("commands_per_s") or 0.0,
        messages_per_s=middle("messages_per_s") or 0.0,
        p50_ms=middle("p50_ms"),
        p99_ms=middle("p99_ms"),
        p999_ms=middle("p999_ms"),
        lost_messages=sum(run.lost_messages for run in runs),
        overdue_messages=sum(run.overdue_messages for run in runs),
        refused=refused,
        client_cpu_us_per_command=middle("client_cpu_us_per_command"),
    )


def whole_number(least: int, most: int) -> Any:
    """An argparse type: an integer within bounds."""

    def convert(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {least}..{most}")
        return value

    convert.__name__ = "number"
    return convert


def seconds_from(least: float) -> Any:
    """An argparse type: a number of seconds, at least `least`."""

    def convert(text: str) -> float:
        value = float(text)
        if not least <= value <= SECONDS_MAX:
            raise argparse.ArgumentTypeError(f"must be {least:g}..{SECONDS_MAX:g}")
        return value

    convert.__name__ = "number"
    return convert


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    cluster = parser.add_argument_group("the cluster")
    cluster.add_argument("--connect", metavar="A[,B]", help="an existing one: client addresses")
    cluster.add_argument(
        "--nodes", type=whole_number(1, NODES_MAX), default=3, metavar="N",
        help="one of its own, with so many nodes (default 3)",
    )  # fmt: skip
    cluster.add_argument("--data", metavar="DIR", help="its directory (default: a temporary one)")
    cluster.add_argument("--no-sync", action="store_true", help="without fdatasync: unsafe")
    cluster.add_argument(
        "--node-option", action="append", default=[], metavar="OPTION",
        help="given to its nodes as it is, e.g. --node-option=--groups-per-worker=64",
    )  # fmt: skip
    cluster.add_argument(
        "--failover", type=whole_number(1, 1_000), metavar="N",
        help="instead of a load: kill N times, measure how long no write is taken",
    )  # fmt: skip
    cluster.add_argument("--kill", choices=TARGETS, default=NODE, help="what (default node)")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description="Load generator for a cluster.")
    _add_cluster(parser)
    parser.add_argument("--group", default="kv", help="group name (default kv)")
    parser.add_argument(
        "--groups", type=whole_number(1, 100_000), default=1, metavar="N",
        help="N groups, named GROUP1..GROUPN",
    )  # fmt: skip
    parser.add_argument("--clients", type=whole_number(1, CLIENTS_MAX), default=1, metavar="N")
    parser.add_argument(
        "--in-flight", type=whole_number(1, 65_536), default=64, metavar="N",
        help="messages in flight per client",
    )  # fmt: skip
    parser.add_argument("--sequential", action="store_true", help="the same as --in-flight 1")
    parser.add_argument(
        "--batch", type=whole_number(1, BATCH_REQUESTS_MAX), default=1, metavar="N",
        help="commands per message",
    )  # fmt: skip
    parser.add_argument("--value-bytes", type=whole_number(0, 1 << 20), default=256, metavar="N")
    parser.add_argument("--operation", choices=(PUT, GET), default=PUT)
    parser.add_argument(
        "--find", choices=("any", "leader"), default="any",
        help="leader: ask each group's leader; any: the given addresses",
    )  # fmt: skip
    parser.add_argument(
        "--timeout-ms", type=whole_number(1, TIMEOUT_MS_MAX), default=10_000, metavar="MS"
    )
    parser.add_argument("--seconds", type=seconds_from(0.1), default=10.0)
    parser.add_argument("--warmup", type=seconds_from(0.0), default=2.0, metavar="SECONDS")
    parser.add_argument("--runs", type=whole_number(1, 1_000), default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def make_plans(options: argparse.Namespace, addresses: list[str]) -> list[LoadPlan]:
    """One plan per client, after every group has answered."""
    groups = group_names(options.group, options.groups)
    leaders: dict[str, str] = {}
    with Client(addresses) as client:
        for group in groups:
            if options.find == "leader":
                leaders[group] = find_leader_address(client, addresses, group)
            else:
                wait_for_group(client, group)
    return [
        LoadPlan(
            client=client,
            targets=choose_targets(client, addresses, groups, leaders),
            operation=options.operation,
            in_flight=1 if options.sequential else options.in_flight,
            batch=options.batch,
            value_bytes=options.value_bytes,
            timeout_ms=options.timeout_ms,
            warmup_s=options.warmup,
            seconds=options.seconds,
            runs=options.runs,
        )
        for client in range(options.clients)
    ]


def describe(options: argparse.Namespace) -> str:
    """The measured configuration in one line."""
    in_flight = 1 if options.sequential else options.in_flight
    return (
        f"{options.operation}: {options.groups} group(s), {options.clients} client(s), "
        f"{in_flight} in flight each, {options.batch} command(s) per message, "
        f"{options.value_bytes}-byte values, {options.seconds:g} s x {options.runs}"
    )


def measure(options: argparse.Namespace, addresses: list[str]) -> int:
    """Load the cluster and print what it did."""
    plans = make_plans(options, addresses)
    runs: list[RunFigures] = []
    if not options.json:
        print(describe(options), flush=True)

    def on_window(window: Window) -> None:
        figures = RunFigures.of(window, options.seconds)
        runs.append(figures)
        if not options.json:
            print(f"run {len(runs)}  {figures.line()}", flush=True)

    run_load(plans, on_window)
    median = median_of(runs)
    if options.json:
        answer = {
            "options": shown(options),
            "runs": [run.as_dict() for run in runs],
            "median": median.as_dict(),
        }
        print(json.dumps(answer))
    else:
        print(f"median {median.line()}")
    if not all(run.commands_per_s for run in runs):
        raise BenchError("a run without a single command answered OK")
    return EXIT_DONE


def measure_failover(options: argparse.Namespace, cluster: OwnCluster) -> int:
    """Kill and measure, again and again."""
    failover = Failover(cluster, options.group, options.kill)

    def on_kill(name: str, gap_ms: float) -> None:
        if not options.json:
            print(f"{options.kill} of {name}: {gap_ms:,.0f} ms without writes", flush=True)

    gaps_ms = failover.measure(options.failover, on_kill)
    median_ms, worst_ms = statistics.median(gaps_ms), max(gaps_ms)
    tally = {name: getattr(failover.tally, name) for name in failover.tally.__slots__}
    if options.json:
        answer = {
            "options": shown(options),
            "gaps_ms": gaps_ms,
            "median_ms": median_ms,
            "worst_ms": worst_ms,
            "probes": tally,
        }
        print(json.dumps(answer))
    else:
        print(f"median {median_ms:,.0f} ms   worst {worst_ms:,.0f} ms")
        print("nothing lost:", ", ".join(f"{name} {count:,}" for name, count in tally.items()))
    return EXIT_DONE


def run_own(options: argparse.Namespace) -> int:
    """Measure a cluster of our own."""
    with tempfile.TemporaryDirectory(prefix="polyraft-bench-", ignore_cleanup_errors=True) as aside:
        data = Path(options.data).absolute() if options.data else Path(aside)
        data.mkdir(parents=True, exist_ok=True)
        if any(data.iterdir()):
            raise BenchError(f"{data} is not empty")
        cluster = OwnCluster(
            options.nodes,
            data,
            group_names(options.group, options.groups),
            sync=not options.no_sync,
            more=options.node_option,
        )
        with cluster:
            if options.failover:
                return measure_failover(options, cluster)
            return measure(options, cluster.addresses)


def shown(options: argparse.Namespace) -> dict[str, Any]:
    """The options as part of the answer."""
    return dict(vars(options))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load generator; the exit code."""
    parser = make_parser()
    options = parser.parse_args(argv)
    addresses: list[str] = []
    if options.connect:
        if options.failover or options.no_sync or options.node_option or options.data:
            parser.error("--failover, --no-sync, --node-option and --data need its own cluster")
        try:
            addresses = parse_addresses(options.connect)
        except ValueError as error:
            parser.error(str(error))
    elif options.failover and options.groups != 1:
        parser.error("--failover measures one group")
    try:
        return measure(options, addresses) if addresses else run_own(options)
    except (BenchError, ClusterError, PolyraftError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
