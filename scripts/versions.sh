#!/usr/bin/env bash
# The tests with other releases than the pinned ones, each set in a virtual environment under $PLACE:
#   bash scripts/versions.sh newest [PYTHON]    all tests; PyTorch and what else the registry has newest
#   bash scripts/versions.sh triton VERSION …   those of attention and kernels, on top of .venv (make test)
# A CUDA build of PyTorch takes 7 GB on disk. Logs lie beside the environments.
set -euo pipefail
cd "$(dirname "$0")/.."
PLACE=${PLACE:-/tmp/whatwhere-versions}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
pip() { "$1/bin/python" -m pip --disable-pip-version-check -q install "${@:2}"; }
packages() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
mkdir -p "$PLACE"
failed=0  # one Triton that fails does not keep the next from its turn

newest() {
  local at="$PLACE/newest"
  "${1:-python3}" -m venv "$at"
  pip "$at" torch
  pip "$at" -e '.[test]'
  "$at/bin/python" -m pytest -q -n "${JOBS:-2}" --dist worksteal -p no:cacheprovider | tee "$at.log"
}

with_triton() {
  local at="$PLACE/triton-$1"
  .venv/bin/python -m venv "$at"
  # Behind its own packages come those of .venv: only Triton is another one.
  printf '%s\n' "$(packages .venv)" "$PWD" >"$(packages "$at")/base.pth"
  pip "$at" --no-deps "triton==$1"
  "$at/bin/python" -m pytest -q -p no:cacheprovider tests/kernels tests/attention | tee "$at.log" || failed=1
}

case "${1:-}" in
  newest) newest "${2:-}" ;;
  triton) shift; for version; do with_triton "$version"; done ;;
  *) sed -n '2,5s/^# *//p' "$0" >&2; exit 2 ;;
esac
exit $failed
