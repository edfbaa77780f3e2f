#!/usr/bin/env bash
# Runs the kernels' tests under Triton 3.6 with NumPy below 2.4, the oldest that GPU hosts use; its
# interpreter cannot run loops with NumPy 2.4. The two packages lie in a folder of the user's cache and
# win over those of the environment through PYTHONPATH. Arguments go to pytest. Called by `make test-triton36`.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${VENV:-.venv}/bin"
overlay="${XDG_CACHE_HOME:-$HOME/.cache}/deepseek/triton-3.6.0-$("$bin/python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')"
if [ ! -e "$overlay/complete" ]; then
  rm -rf "$overlay"
  "$bin/uv" pip install --quiet --python "$bin/python" --no-deps --target "$overlay" 'triton==3.6.0' 'numpy>=2.0,<2.4'
  touch "$overlay/complete"
fi
export PYTHONPATH="$overlay"
"$bin/python" -c 'import numpy, triton; print(f"triton {triton.__version__}, numpy {numpy.__version__}")'
exec "$bin/python" -m pytest -n 2 --dist loadfile tests/unit/kernels --ignore tests/unit/kernels/test_compile_gate.py "$@"
