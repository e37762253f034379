#!/usr/bin/env bash
# Builds the engine with Vulkan and runs it on Mesa's software driver: a smoke check of the GPU path for machines
# without a GPU. It takes about half an hour of two cores the first time, in a target folder of its own.
#
#   VULKAN_HEADERS=DIR scripts/test-vulkan.sh     DIR holds newer headers than the distribution's, where llama.cpp wants them
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

models="${GALEN_MODELS_DIR:-$HOME/.cache/galen/models}"
for file in SmolLM2-135M-Instruct.Q4_1.gguf tiny/tiny-moe.gguf tiny/tiny-minicpm.gguf tiny/tiny-window.gguf tiny/tiny-mamba.gguf; do
  [ -f "$models/$file" ] || { echo "test-vulkan: $models/$file is missing: make model tiny-models (which needs python3 with pip)" >&2; exit 1; }
done

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

# check NAME FILE LARGEST [--text-may-differ] FLAGS...: the same answers on the device as on the CPU, but for rounding.
check() {
  local name=$1 file=$2; shift 2
  echo "test-vulkan: $name" >&2
  "$here/test-vulkan.py" "$worker" "$models/$file" "$@"
}
# Weights of four bits are multiplied otherwise on a processor, which rounds what they are multiplied with: some tenths of a nat,
# which may turn a token of a text.
check "SmolLM2, all layers" SmolLM2-135M-Instruct.Q4_1.gguf 0.5 --text-may-differ --gpu-layers 31
check "mixture of experts, all layers" tiny/tiny-moe.gguf 0.02 --gpu-layers 3
check "mixture of experts, the experts of one layer on the CPU" tiny/tiny-moe.gguf 0.02 --gpu-layers 3 --cpu-experts 1
check "MiniCPM, one layer, keys and values with eight bits" tiny/tiny-minicpm.gguf 0.2 --gpu-layers 2 --kv-type q8_0 --flash-attention on
check "sliding window, all layers" tiny/tiny-window.gguf 0.02 --gpu-layers 3
check "Mamba, all layers" tiny/tiny-mamba.gguf 0.02 --gpu-layers 3
