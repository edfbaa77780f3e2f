"""Which iptables chains are the cluster's, and a rule set without them; pure functions.

Why it exists: kube-proxy and the CNI plugins leave chains and rules behind. They are told apart by
their names and by what existed before the cluster was started.
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["cluster_chains", "without_chains"]

_CHAIN = re.compile(r"^:((?:KUBE|CNI)-\S+) ", re.MULTILINE)
_JUMP = re.compile(r" -[jg] (\S+)")


def cluster_chains(dump: str) -> set[str]:
    """The chains of Kubernetes and of CNI plugins in the output of ``iptables-save``."""
    return set(_CHAIN.findall(dump))


def without_chains(dump: str, keep: Collection[str]) -> str:
    """The rule set without the cluster's chains and the rules that lead to them.

    Args:
        dump: the output of ``iptables-save``.
        keep: chains that were there before the cluster.
    """
    doomed = cluster_chains(dump) - set(keep)
    return "".join(line for line in dump.splitlines(keepends=True) if not _names(line, doomed))


def _names(line: str, doomed: Collection[str]) -> bool:
    if line.startswith(":"):
        return line[1:].split(" ", 1)[0] in doomed
    if not line.startswith("-A "):
        return False
    jump = _JUMP.search(line)
    return line.split(" ", 2)[1] in doomed or (jump is not None and jump[1] in doomed)
