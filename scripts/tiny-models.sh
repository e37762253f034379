#!/bin/sh
# Makes the tiny models of the tests (scripts/tiny-models.py) in DIR, once: the gguf package comes through pip into a
# folder of its own beside them. Tests fail without these models, and are skipped where GALEN_NO_MODEL=1 says that there are
# none: nothing is made then.
#
#   scripts/tiny-models.sh DIR
set -eu
dir=$1
here=$(cd "$(dirname "$0")" && pwd)
# Made again when the script changes.
version=$(cksum <"$here/tiny-models.py" | cut -d' ' -f1)
[ -f "$dir/made-$version" ] && exit 0
if [ "${GALEN_NO_MODEL:-}" = 1 ]; then
    echo "galen: GALEN_NO_MODEL=1: no tiny models are made; tests with them are skipped" >&2
    exit 0
fi
mkdir -p "$dir"
if ! PYTHONPATH="$dir/python" python3 -c 'import gguf' 2>/dev/null; then
    echo "galen: fetching the gguf package for the tests' tiny models" >&2
    python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --target "$dir/python" 'gguf==0.19.0' || {
        echo "galen: no gguf package for the tests' tiny models: install python3 with pip, or let pip reach an index" >&2
        echo "galen: (PIP_INDEX_URL); GALEN_NO_MODEL=1 skips all tests with models" >&2
        exit 1
    }
fi
PYTHONPATH="$dir/python" python3 "$here/tiny-models.py" "$dir"
rm -f "$dir"/made-*
touch "$dir/made-$version"
