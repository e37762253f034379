#!/usr/bin/env bash
# Builds the engine with Vulkan and runs it on Mesa's software driver: a smoke check of the GPU path for machines
# without a GPU. It takes about half an hour of two cores the first time, in a target folder of its own.
#
#   VULKAN_HEADERS=DIR scripts/test-vulkan.sh     DIR holds newer headers than the distribution's, where llama.cpp wants them
set -euo pipefail

packages="glslc libvulkan-dev spirv-headers mesa-vulkan-drivers"
missing=""
for package in $packages; do dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"; done
if [ -n "$missing" ]; then
  echo "test-vulkan: installing$missing" >&2
  sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
  $sudo apt-get update -q
  # shellcheck disable=SC2086
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi
if [ -n "${VULKAN_HEADERS:-}" ]; then export CXXFLAGS="-I$VULKAN_HEADERS ${CXXFLAGS:-}"; fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/vulkan}"
cargo build --release --locked --package galen-agents --bin galen-llm-worker --features vulkan

icd=$(find /usr/share/vulkan/icd.d -name 'lvp_icd*.json' | head -n 1)
export GGML_VK_VISIBLE_DEVICES=0 GGML_VK_DISABLE_F16=1 GGML_VK_DISABLE_COOPMAT=1 VK_ICD_FILENAMES="$icd"
worker="$CARGO_TARGET_DIR/release/galen-llm-worker"
"$worker" --devices >&2
"$worker" --devices | grep -q Vulkan || { echo "test-vulkan: no Vulkan device; is $icd the software driver?" >&2; exit 1; }

models="${GALEN_MODELS_DIR:-$HOME/.cache/galen/models}"
prompt='{"shared":"You are a PostgreSQL expert.","own":"What is a lock?"}'
write='{"ask":{"id":1,"task":{"generate":{"agent":"t","prompt":'$prompt',"grammar":null,"max_tokens":12}}}}'
score='{"ask":{"id":2,"task":{"score":{"agent":"t","prompt":'$prompt',"options":["a queue","a thing that waits","a table"]}}}}'
vector='{"ask":{"id":3,"task":{"embed":{"agent":"t","texts":["sessions wait"]}}}}'
# answers MODEL FLAGS...: the three answers on this device, in the order of their numbers.
answers() {
  local file=$1; shift
  { printf '%s\n' "$write" "$score" "$vector"; sleep "${GALEN_VULKAN_WAIT:-60}"; } |
    "$worker" --model "$models/$file" --context 512 --threads 2 "$@" 2>/dev/null | grep -m 3 '"answer"' | sort -t: -k3
}
# alike NAME DEVICE CPU: the same text, scores and vectors that differ by little.
alike() {
  DEVICE="$2" CPU="$3" python3 - "$1" <<'PY'
import json, os, sys

def read(lines):
    found = {}
    for line in lines.splitlines():
        answer = json.loads(line)["answer"]
        (kind, value), = answer["result"]["Ok"].items()
        found[kind] = value
    return found

device, cpu = read(os.environ["DEVICE"]), read(os.environ["CPU"])
name = sys.argv[1]
if len(device) != 3 or len(cpu) != 3:
    sys.exit(f"test-vulkan: {name}: {len(device)} answers on the device, {len(cpu)} on the CPU, not 3")
text = [part["generated"]["text"] for part in (device, cpu)]
score = max(abs(a - b) for a, b in zip(device["scores"]["logprobs"], cpu["scores"]["logprobs"]))
vectors = [part["embeddings"]["vectors"][0] for part in (device, cpu)]
cosine = sum(a * b for a, b in zip(*vectors))
print(f"{name}: text {'the same' if text[0] == text[1] else text}; scores within {score:.4f} nats; vectors' cosine {cosine:.5f}", file=sys.stderr)
if text[0] != text[1] or score > 0.1 or cosine < 0.99:
    sys.exit(f"test-vulkan: {name}: the device answers otherwise than the CPU")
PY
}
# A plain model with all layers on the device; a mixture with all, and with the experts of one layer in main memory; a MiniCPM
# with half of its layers and a cache of eight bits.
check() {
  local name=$1 file=$2; shift 2
  [ -f "$models/$file" ] || { echo "test-vulkan: $file is missing: make tiny-models" >&2; exit 1; }
  alike "$name" "$(answers "$file" "$@")" "$(answers "$file" --gpu-layers 0)"
}
check "SmolLM2, all layers" SmolLM2-135M-Instruct.Q4_1.gguf --gpu-layers 31
check "mixture of experts, all layers" tiny/tiny-moe.gguf --gpu-layers 3
check "mixture of experts, one layer's experts on the CPU" tiny/tiny-moe.gguf --gpu-layers 3 --cpu-experts 1
check "MiniCPM, one layer, cache of eight bits" tiny/tiny-minicpm.gguf --gpu-layers 2 --kv-type q8_0 --flash-attention on
