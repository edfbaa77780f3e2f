"""The process of one subject: ``python -m benchmarks.child``, started by the driver.

The first line of standard input is the subject's specification, every further line the command of
one turn; each is answered by a line on standard output. The end of standard input ends it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Answer turns until standard input ends."""
    # The driver keeps this process stopped most of the time, so that only SIGKILL can end it when
    # the driver itself is killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not be taken for an answer

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")

    from benchmarks.subjects import make_subject

    subject = make_subject(json.loads(sys.stdin.readline()))
    try:
        first = subject.first()
        answer({"choice": subject.choice, "first": first.ravel().tolist()})
        for line in sys.stdin:
            answer(subject.turn(json.loads(line)))
    finally:
        subject.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
