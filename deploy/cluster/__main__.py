"""Start, look at and remove a Kubernetes cluster for this project.

Run it as ``python -m deploy.cluster COMMAND`` from the folder of the checkout. It uses kind where a
Docker daemon answers, and otherwise builds and runs a real one-node cluster on this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deepseek_api.errors import DeepseekError

from deploy.cluster import kind, local
from deploy.cluster.binaries import CLUSTER_TOOLS, build
from deploy.cluster.components import ClusterOptions
from deploy.cluster.images import load_all
from deploy.cluster.layout import Layout
from deploy.cluster.versions import TOOLS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except DeepseekError as error:
        sys.stderr.write(f"{error.message}\n" + (f"{error.hint}\n" if error.hint else ""))
        return 1


def _up(arguments: argparse.Namespace) -> int:
    defaults = ClusterOptions()
    options = ClusterOptions(
        hpa_sync_period=arguments.hpa_sync_period or defaults.hpa_sync_period,
        hpa_downscale_stabilization=arguments.hpa_downscale_stabilization
        or defaults.hpa_downscale_stabilization,
        kube_api_qps=arguments.kube_api_qps,
    )
    if _uses_kind():
        kind.up(options, say=_say)
        path = kind.kubeconfig_path()
    else:
        layout = Layout.default()
        local.up(layout, options, say=_say)
        path = layout.kubeconfig
    _say(f"export KUBECONFIG={path}")
    return 0


def _down(_arguments: argparse.Namespace) -> int:
    if _uses_kind():
        kind.down(say=_say)
    else:
        local.down(Layout.default(), say=_say)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    say = _say if not arguments.quiet else lambda _line: None
    if _uses_kind():
        running = kind.is_running()
        say(f"The kind cluster {'runs' if running else 'does not run'}.")
        return 0 if running else 1
    pids = local.status(Layout.default())
    if not pids:
        say("No cluster of this project runs on this machine.")
        return 1
    for name, pid in pids.items():
        say(f"{name:<26}{'down' if pid is None else f'process {pid}'}")
    return 0 if all(pids.values()) else 1


def _load(arguments: argparse.Namespace) -> int:
    if _uses_kind():
        kind.load(arguments.sources, say=_say)
    else:
        load_all(Layout.default(), arguments.sources, say=_say)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    build(arguments.tools or CLUSTER_TOOLS, say=_say)
    return 0


def _kubeconfig(_arguments: argparse.Namespace) -> int:
    _say(str(kind.kubeconfig_path() if _uses_kind() else Layout.default().kubeconfig))
    return 0


_COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "load": _load,
    "build": _build,
    "kubeconfig": _kubeconfig,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the cluster and wait until it is ready")
    up.add_argument("--hpa-sync-period", metavar="TIME", help="of the autoscaler, such as 5s")
    up.add_argument("--hpa-downscale-stabilization", metavar="TIME", help="such as 0s")
    up.add_argument("--kube-api-qps", type=int, metavar="N", help="of controllers and scheduler")
    commands.add_parser("down", help="remove everything that 'up' made")
    status = commands.add_parser("status", help="say what runs; exit status 1: something is down")
    status.add_argument("--quiet", action="store_true", help="say nothing, only exit")
    load = commands.add_parser("load", help="import images into the cluster")
    load.add_argument("sources", nargs="+", metavar="REF_OR_ARCHIVE")
    tools = commands.add_parser("build", help="build binaries only")
    tools.add_argument("tools", nargs="*", metavar="TOOL", help=f"one of {', '.join(TOOLS)}")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    return parser


def _uses_kind() -> bool:
    # A cluster that is there decides; a Docker daemon may have been started after it.
    return not Layout.default().home.exists() and kind.is_preferred()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
