#!/usr/bin/env bash
# Runs the providers' suite against a server that is not Galen's: llama-cpp-python's, from pip, with the same SmolLM2 file.
#
#   scripts/test-openai.sh [VENV]      VENV as in scripts/llama-cpp-python.sh
set -euo pipefail

models="${GALEN_MODELS_DIR:-${HOME:?set HOME}/.cache/galen/models}"
file="$models/SmolLM2-135M-Instruct.Q4_1.gguf"
say() { printf '%s\n' "test-openai: $*" >&2; }

[ -f "$file" ] || { say "$file is missing: make model"; exit 1; }
python=$("$(dirname "${BASH_SOURCE[0]}")/llama-cpp-python.sh" "$@")

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
log=$(mktemp)
# It drops one request for the next unless told not to, shows probabilities only when it keeps all logits, and gives
# vectors only when asked to at its start.
"$python" -m llama_cpp.server --model "$file" --model_alias smollm2 --host 127.0.0.1 --port "$port" \
  --n_ctx 2048 --logits_all true --embedding true --interrupt_requests false >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 120); do
  kill -0 "$server" 2>/dev/null || { tail -n 5 "$log" >&2; say "the server ended"; exit 1; }
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  sleep 0.5
done
GALEN_OPENAI_URL="http://127.0.0.1:$port/v1" GALEN_OPENAI_MODEL=smollm2 \
  cargo test --release --locked --workspace --test providers -- --ignored --nocapture a_foreign_server
