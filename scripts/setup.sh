#!/usr/bin/env bash
# Creates the virtual environment from the hashed locks. Called by `make setup`, which passes PYTHON and VENV.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
  echo "Python 3.11 or 3.12 was not found. Install one of them, or run: make PYTHON=/path/to/python3.12" >&2
  exit 1
fi
echo "Installing into $VENV with $("$PYTHON" --version): about 2.9 GB to download on Linux and 6 GB on disk the first"
echo "time, nearly all of it torch with its CUDA libraries, which only preparing models uses."
if ! "$PYTHON" -m venv "$VENV"; then
  echo "'$PYTHON -m venv' failed. On Debian and Ubuntu install its package: apt-get install python3-venv" >&2
  exit 1
fi
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
"$VENV/bin/uv" pip sync --quiet --python "$VENV/bin/python" --require-hashes requirements/dev.txt
"$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation --editable .
touch "$VENV/installed"
echo "Ready: $VENV/bin/deepseek --help"
