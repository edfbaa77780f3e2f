#!/usr/bin/env bash
# The end-to-end tests on a real cluster: starts one (unless it runs already), builds the images,
# loads them, runs the tests, and stops what it started. Needs root where no Docker daemon answers.
# Usage: scripts/e2e.sh [pytest arguments]. ONLY=FILE runs the tests of one file and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN="${VENV:-.venv}/bin"

timed() {
  local name=$1 started=$SECONDS
  shift
  echo "--- $name"
  "$@"
  printf -- '--- %s: %d s\n' "$name" $((SECONDS - started))
}

if "$BIN/python" -m deploy.cluster status --quiet; then
  echo "The local cluster runs already and is left running."
else
  timed "binaries" "$BIN/python" -m deploy.cluster build
  if [ -z "${ONLY:-}" ]; then
    timed "the cluster itself" "$BIN/python" -m pytest -q -m e2e tests/e2e/test_local_cluster.py
  fi
  trap '"$BIN/python" -m deploy.cluster down' EXIT
  timed "cluster" "$BIN/python" -m deploy.cluster up --hpa-sync-period 5s --hpa-downscale-stabilization 0s
fi
KUBECONFIG="$("$BIN/python" -m deploy.cluster kubeconfig)"
export KUBECONFIG DEEPSEEK_E2E_REQUIRED=1
timed "helm" "$BIN/python" -m deploy.cluster build helm
timed "images" "$BIN/python" -m deploy.images build operator worker-cpu
timed "bundles" "$BIN/python" -m tests.support.cluster_images
if [ -n "${ONLY:-}" ]; then
  timed "tests" "$BIN/python" -m pytest -m e2e "$ONLY" "$@"
  exit
fi
# Some tests break the API server, so they start one of their own.
DEEPSEEK_TEST_KUBE_BIN="$("$BIN/python" -c 'from deploy.cluster.binaries import binary
print(binary("kube-apiserver").parent, binary("etcd").parent, sep=":")')"
export DEEPSEEK_TEST_KUBE_BIN
timed "chart" "$BIN/python" -m pytest -q tests/unit/chart
timed "tests" "$BIN/python" -m pytest -m e2e tests/e2e --ignore tests/e2e/test_local_cluster.py "$@"
