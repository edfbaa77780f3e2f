"""House rules that no linter knows: what must never be in the repository.

Prints one line for every breach and exits 1 if there is any. Run by ``make check``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 1 << 20
MAX_LINES = 400
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")

# Written in pieces so that this file does not trip over itself.
FORBIDDEN = {
    "names a package registry's host": re.compile(
        r"https?://[a-z0-9.-]*("
        + "|".join(["py" + "pi", "python" + "hosted", "npm" + "js"])
        + r")[a-z0-9.-]*/"
    ),
    "names a path of one machine": re.compile(
        r"(?<![\w.\-<{}])/(" + "|".join(["wo" + "rk", "ro" + "ot", "fa" + "rm"]) + r")/"
    ),
    "is a stub or a reminder": re.compile(
        r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|raise NotImplemented" + "Error"
    ),
    "sleeps in a test or skips without a condition": re.compile(
        r"(?<![\w.])time\.sle" + r"ep\(|mark\.(xfail|flaky)"
    ),
}
ONLY_IN_TESTS = {"sleeps in a test or skips without a condition"}


def tracked_files() -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def breaches_of(path: Path) -> list[str]:
    """Every rule that one file breaks, as printable lines."""
    name = path.relative_to(ROOT)
    found = [f"{name}: larger than 1 MiB"] if path.stat().st_size > MAX_BYTES else []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return found
    if name.parts[0] == "LICENSE" or GENERATED.search(path.name):
        return found
    if path.suffix == ".py" and text.count("\n") > MAX_LINES:
        found.append(f"{name}: longer than {MAX_LINES} lines")
    for rule, pattern in FORBIDDEN.items():
        if rule in ONLY_IN_TESTS and name.parts[0] != "tests":
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {rule}: {line.strip()[:80]}")
    return found


def version_breaches() -> list[str]:
    """The version of the package must be the newest one of the changelog."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if not headings or headings[0] not in {version, "Unreleased"}:
        return [f"CHANGELOG.md: the newest entry is not {version} of pyproject.toml"]
    return []


def main() -> int:
    """Check every file; return the exit status."""
    breaches = [line for path in tracked_files() for line in breaches_of(path)] + version_breaches()
    for line in breaches:
        print(line)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
