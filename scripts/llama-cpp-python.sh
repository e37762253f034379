#!/usr/bin/env bash
# Puts llama-cpp-python, llama.cpp in other hands, into a Python environment of its own and prints the path of its Python.
# The first time pip builds llama.cpp, which takes about ten minutes of two cores.
#
#   scripts/llama-cpp-python.sh [VENV]      VENV defaults to a folder beside the models
set -euo pipefail

models="${GALEN_MODELS_DIR:-${HOME:?set HOME}/.cache/galen/models}"
venv="${1:-$models/openai-venv}"
if ! "$venv/bin/python" -c 'import llama_cpp.server' 2>/dev/null; then
  echo "llama-cpp-python: installing it into $venv (it builds llama.cpp)" >&2
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check 'llama-cpp-python[server]==0.3.36' >&2
fi
printf '%s\n' "$venv/bin/python"
