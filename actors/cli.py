"""``bin/node``: the command line of a node, up to the point where something is started.

What may live here: the parser, and the choice between one node and a development cluster.  What
the words mean is decided in :mod:`actors.config`; what is started is in ``actors/node.py`` and
``actors/dev.py``, which are imported only when everything was understood, so that ``--help`` and
a mistake answer at once.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage; for both a single line on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from actors import config
from actors.config_values import ConfigError, ConfigRefused, Given, integer, unknown
from actors.ports import PORTS_PER_NODE, free_loopback_ports, remembered_ports
from actors.settings import DEV_NODES_MAX
from actors.version import VERSION

PROGRAM = "polyraft-node"

# Options of the command line whose key has another name.
_OPTION_OF = {"groups": "--group"}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, by the same way as every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Run one node of a polyraft cluster, or a whole cluster on this machine.",
        epilog="Each option is also a key of the TOML file (with _ for -) and, as POLYRAFT_KEY, an "
        "environment variable; the command line comes first, then the environment.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="TOML file with the keys below")
    add("--dev", metavar="N", help=f"run a cluster of N (1 to {DEV_NODES_MAX}) nodes on loopback")
    add("--id", metavar="NAME", help="this node's name")
    add("--data", metavar="DIR", help="where it keeps its log; a temporary one with --dev")
    for name, what in (("client", "clients"), ("peer", "other nodes"), ("events", "events")):
        add(f"--{name}", metavar="ADDRESS", help=f"bind for {what}, tcp://host:port")
        add(f"--advertise-{name}", metavar="ADDRESS", help="where others reach it, if different")
    add("--members", metavar="N1=ADDRESS,...", action="append", help="all nodes: peer addresses")
    add(
        "--group", metavar="NAME=MACHINE", action="append", dest="groups", help="created if missing"
    )
    add("--groups-per-worker", metavar="COUNT", help="groups that share one process (default 1)")
    add(
        "--join",
        metavar="ADDRESS",
        help="join the cluster with this client address",
    )
    add("--raft", metavar="KEY=VALUE", action="append", help="one key of the [raft] table")
    add("--insecure", action="store_true", default=None, help="allow addresses others can reach")
    add("--log-level", metavar="LEVEL", help=f"{', '.join(config.LOG_LEVELS)} (default info)")
    add("--runtime-dir", metavar="DIR", help="where the socket file of the node is kept")
    add("--no-sync", action="store_true", help=argparse.SUPPRESS)
    add("--version", action="version", version=f"polyraft {VERSION}")
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    namespace, rest = parser.parse_known_args(arguments)
    if rest:
        word = rest[0].split("=", 1)[0]
        if not word.startswith("--"):
            raise ConfigError(f"{word}: there are no arguments without an option")
        known = [option for option in parser._option_string_actions if option.startswith("--")]
        named = {option[2:].replace("-", "_"): option for option in known}
        raise _with_dashes(unknown(word[2:], named, "command line"), named)
    return namespace


def _with_dashes(error: ConfigError, named: dict[str, str]) -> ConfigError:
    """The same error in the spelling of the command line."""
    line = str(error).replace("unknown key ", "unknown option --")
    for key in sorted(named, key=len, reverse=True):
        line = line.replace(f"did you mean {key}?", f"did you mean {named[key]}?")
    return ConfigError(line)


def _given_on(namespace: argparse.Namespace) -> dict[str, Given]:
    """The command line as a source of keys."""
    return {
        key: Given(value, _OPTION_OF.get(key, f"--{key.replace('_', '-')}"))
        for key in config.KEYS
        if (value := getattr(namespace, key)) is not None
    }


def _run(namespace: argparse.Namespace) -> int:
    line = _given_on(namespace)
    environment = config.from_environment(os.environ)
    file = config.from_file(Path(namespace.config)) if namespace.config is not None else {}
    sync = not namespace.no_sync
    if namespace.dev is None:
        one = config.node_config(line, environment, file, sync=sync)
        from actors.node import run_node

        return run_node(one)

    count = integer(Given(namespace.dev, "--dev"), 1, DEV_NODES_MAX)
    given_data = line.pop("data", None)
    with tempfile.TemporaryDirectory(prefix="polyraft-dev-", ignore_cleanup_errors=True) as aside:
        if given_data is None:
            data, ports = Path(aside), free_loopback_ports(PORTS_PER_NODE * count)
        else:
            data = Path(str(given_data.value)).absolute()
            ports = remembered_ports(data / "dev.json", PORTS_PER_NODE * count)
        many = config.dev_configs(count, data, line, environment, file, ports=ports, sync=sync)
        from actors.dev import run_dev

        return run_dev(many)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        if not __debug__:
            raise ConfigRefused("does not run under python -O: its assertions are part of it")
        return _run(_parse(sys.argv[1:] if argv is None else argv))
    except OSError as error:
        print(f"{PROGRAM}: {error.filename or error}: {error.strerror or error}", file=sys.stderr)
        return 1
    except ConfigError as error:
        hint = f" (see {PROGRAM} --help)" if error.exit_code == 2 else ""
        print(f"{PROGRAM}: {error}{hint}", file=sys.stderr)
        return error.exit_code
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)


if __name__ == "__main__":
    raise SystemExit(main())
