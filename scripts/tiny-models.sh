#!/bin/sh
# Makes the tiny models of the tests (scripts/tiny-models.py) in DIR, once: the gguf package comes through pip into a
# folder of its own beside them. Tests that need them say so and are skipped where this cannot be done.
#
#   scripts/tiny-models.sh DIR
set -eu
dir=$1
here=$(cd "$(dirname "$0")" && pwd)
# Made again when the script changes.
version=$(cksum <"$here/tiny-models.py" | cut -d' ' -f1)
[ -f "$dir/made-$version" ] && exit 0
mkdir -p "$dir"
if ! PYTHONPATH="$dir/python" python3 -c 'import gguf' 2>/dev/null; then
    echo "galen: fetching the gguf package for the tests' tiny models" >&2
    python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --target "$dir/python" 'gguf==0.19.0' || {
        echo "galen: no gguf package; tests with tiny models are skipped" >&2
        exit 0
    }
fi
PYTHONPATH="$dir/python" python3 "$here/tiny-models.py" "$dir"
rm -f "$dir"/made-*
touch "$dir/made-$version"
