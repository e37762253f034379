#!/usr/bin/env bash
# The speed of llama.cpp in other hands (scripts/bench-peer.mjs): node-llama-cpp's own build, from npm, with the same file.
#
#   scripts/bench-peer.sh MODELS FILE.gguf [THREADS]
set -euo pipefail

models=$1 file=$2 threads=${3:-2}
here=$(cd "$(dirname "$0")" && pwd)
peer="$models/peer"
command -v npm >/dev/null || { echo "bench-peer: npm is missing, nothing to compare with: apt-get install npm" >&2; exit 0; }
if [ ! -d "$peer/node_modules/node-llama-cpp" ]; then
  echo "bench-peer: fetching node-llama-cpp" >&2
  mkdir -p "$peer"
  npm install --prefix "$peer" --no-audit --no-fund --ignore-scripts --silent node-llama-cpp@3.22.1
fi
cp "$here/bench-peer.mjs" "$peer/"
(cd "$peer" && node bench-peer.mjs "$models/$file" "$threads")
