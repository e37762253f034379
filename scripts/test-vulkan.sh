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
ask='{"ask":{"id":1,"task":{"generate":{"agent":"t","prompt":{"shared":"You are a PostgreSQL expert.","own":"What is a lock?"},"grammar":null,"max_tokens":12}}}}'
answer() { # answer FLAGS...: the text on this device
  { printf '%s\n' "$ask"; sleep "${GALEN_VULKAN_WAIT:-40}"; } |
    "$worker" --model "$models/SmolLM2-135M-Instruct.Q4_1.gguf" --context 512 --threads 2 "$@" 2>/dev/null |
    grep -m 1 '"answer"' | sed 's/.*"text":"\([^"]*\)".*/\1/'
}
on=$(answer --gpu-layers 31 || true)
off=$(answer --gpu-layers 0 || true)
echo "on the device:  $on" >&2
echo "on the CPU:     $off" >&2
[ -n "$on" ] && [ "$on" = "$off" ] || { echo "test-vulkan: the texts differ" >&2; exit 1; }
