#!/usr/bin/env bash
# The speed of the engine with a model, and beside it llama.cpp in other hands (llama-cpp-python's build, its C interface alone) with
# the same file and threads, its threads waiting as the engine's do: some rounds of each in turn, medians and their ratios.
#
#   scripts/bench-engine.sh GALEN NAME FILE.gguf [ROUNDS] [THREADS]
set -euo pipefail

galen=$1 name=$2 file=$3 rounds=${4:-3} threads=${5:-2}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$("$here/llama-cpp-python.sh") || python=
for round in $(seq "$rounds"); do
  echo "bench-engine: $name, round $round of $rounds" >&2
  "$galen" model bench --model "$name" --threads "$threads" --parts rates --json >>"$work/engine"
  [ -n "$python" ] || continue
  head=$(tail -n 1 "$work/engine" | "$python" -c 'import json, sys; print(json.load(sys.stdin)["answer_prompt_tokens"])')
  OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=1000 "$python" "$here/bench-peer.py" "$file" "$threads" "$head" >>"$work/peer"
done
if [ -n "$python" ]; then
  "$python" - "$work/engine" "$work/peer" <<'PY'
import json, statistics, sys

rows = [[json.loads(line) for line in open(path)] for path in sys.argv[1:]]
print(f"{'beside llama.cpp':<22} {'engine':>9} {'peer':>9}  ratio")
for key in ("prefill_tps", "decode_tps", "batch8_tps", "load_ms"):
    engine, peer = ([row[key] for row in part] for part in rows)
    # Of each round: the machine may be faster in one than in the next.
    ratios = sorted(e / p for e, p in zip(engine, peer))
    spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f})" if len(ratios) > 1 else ""
    print(f"{key:<22} {statistics.median(engine):>9.1f} {statistics.median(peer):>9.1f}  {statistics.median(ratios):.2f}{spread}")
PY
else
  echo "bench-engine: no llama-cpp-python to compare with" >&2
  cat "$work/engine"
fi
"$galen" model bench --model "$name" --threads "$threads" --parts grammars,options,prefix
