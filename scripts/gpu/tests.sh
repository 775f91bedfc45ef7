#!/usr/bin/env bash
# What of the tests only a GPU can run, several groups side by side (they compile for longer than
# they compute):   bash scripts/gpu/tests.sh [SECONDS a group] [group …]
# Logs lie in $OUT (default results/gpu); the last lines say what passed and what failed.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
LIMIT=${1:-240}; shift || true
OUT=${OUT:-$PWD/results/gpu}; LOGS=$(mktemp -d); mkdir -p "$OUT"
export WHATWHERE_DEVICE=cuda OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:$PWD/tests:${PYTHONPATH:-}

TRACED=test_traced_backends_equal_the_reference
declare -A WHAT=(
  [tiled]="-n 5 tests/kernels/test_tiled_gpu.py"
  [hopper]="-n 3 tests/kernels/test_hopper_gpu.py"
  [prep]="-n 2 tests/kernels/test_prep_gpu.py tests/kernels/test_fused_op_gpu.py"
  [decode]="-n 2 tests/kernels/test_decode.py tests/kernels/test_decode_operands.py"
  [short]="-n 2 tests/kernels/test_short_gpu.py"
  # The rest of tests/conformance is the reference in float64: torch's operators, there as here.
  [conformance]="-n 4 tests/conformance/test_backends.py tests/conformance/test_precision.py
    tests/attention --ignore-glob=*_gpu.py
    --deselect=tests/conformance/test_backends.py::$TRACED"
  # What compiles for longer than the 850 above compute; one that hangs delays nothing of theirs.
  [attention_gpu]="-n 5 tests/conformance/test_backends.py::$TRACED tests/attention/test_flex_gpu.py
    tests/attention/test_prepared_gpu.py tests/attention/test_pages_gpu.py"
  [hf]="-n 5 -m gpu tests/hf/test_gpu.py"
  [hf_methods]="-n 4 tests/hf/test_stock.py tests/hf/test_use.py tests/hf/test_methods.py"
  [nn]="-n 2 tests/nn tests/cache"
  [study]="-n 2 tests/study/test_training_gpu.py tests/study/test_stacked.py tests/study/test_schedule.py"
  [tasks]="tests/tasks/test_indirect.py tests/tasks/test_stream.py tests/tasks/test_pieces.py"
)
# Tests that began and did not end: -v names each at its start, and xdist once more with its outcome.
unfinished() {
  awk '{ at = match($0, /tests\/.*::/); name = substr($0, RSTART); sub(/ *(Timeout .*)?$/, "", name) }
       at && /^\[gw[0-9]+\] / { done[name] = 1 }
       at == 1 && !/ (PASSED|FAILED|SKIPPED|ERROR|XFAIL)/ { begun[name] = 1 }
       END { for (name in begun) if (!(name in done)) print "UNFINISHED " name }' "$1" | sort
}
# A test that takes long must not keep those that were handed to its process with it.
STEAL=$(python3 -m pytest --help 2>/dev/null | grep -qw worksteal && echo "--dist worksteal")
GROUPS_=("$@"); [ ${#GROUPS_[@]} -gt 0 ] || GROUPS_=("${!WHAT[@]}")
for name in "${GROUPS_[@]}"; do
  [ -n "${WHAT[$name]:-}" ] || { echo "no group $name; there are: ${!WHAT[*]}" >&2; exit 2; }
  # INT, so that pytest prints its summary when time is over.
  ( SECONDS=0
    steal=""; [[ ${WHAT[$name]} == -n* ]] && steal=$STEAL
    # The fault handler says where a test is that takes a minute.
    # shellcheck disable=SC2086
    timeout -s INT -k 20 "$LIMIT" python3 -m pytest -v -p no:cacheprovider --tb=short --maxfail=20 \
      $steal --durations=15 -o faulthandler_timeout=60 -m "not slow" ${WHAT[$name]} \
      >"$LOGS/$name.txt" 2>&1
    code=$?
    open=$(unfinished "$LOGS/$name.txt"); echo "$open" >>"$LOGS/$name.txt"
    echo "$name: exit $code after $SECONDS s" >>"$LOGS/$name.txt" ) &
done
wait
tar -C "$LOGS" -czf "$OUT/tests.tar.gz" .
bad=0
for file in "$LOGS"/*.txt; do
  echo "== $(tail -1 "$file")"; grep -aE "^(FAILED|ERROR|UNFINISHED)|^=.*(passed|failed)" "$file" | cut -c1-180 | tail -12
  tail -1 "$file" | grep -q "exit 0" || bad=1
done
exit $bad
