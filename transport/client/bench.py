"""`bench`: how many commands a cluster takes per second, and how long each waits.

    bench --connect tcp://127.0.0.1:7001 --clients 2 --in-flight 128 --batch 10
    bench --connect tcp://127.0.0.1:7001,tcp://127.0.0.1:7002 --find leader --sequential

Prints one line per run and the median over the runs. A rate counts commands answered OK within the
run; a latency is that of one message, whatever its batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transport.client.blocking import Client
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


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description="Load generator for a cluster.")
    parser.add_argument("--connect", metavar="A[,B]", required=True, help="client addresses")
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
            wait_for_group(client, group)
            if options.find == "leader":
                leaders[group] = find_leader_address(client, addresses, group)
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
            "options": vars(options),
            "runs": [run.as_dict() for run in runs],
            "median": median.as_dict(),
        }
        print(json.dumps(answer))
    else:
        print(f"median {median.line()}")
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load generator; the exit code."""
    options = make_parser().parse_args(argv)
    addresses = [address for address in options.connect.split(",") if address]
    try:
        return measure(options, addresses)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
