#!/bin/sh
# Installs the Debian packages that building, the demo and the tests need, when they are missing.
#   deps.sh manual    the manual of PostgreSQL 15 as HTML instead, which some tests read and are skipped without
set -eu
packages="cmake clang libclang-dev pkg-config postgresql-15 postgresql-15-hypopg"
manual=/usr/share/doc/postgresql-doc-15/html/index.html
have() {
    command -v cmake >/dev/null && command -v clang >/dev/null &&
        ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1 &&
        ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 &&
        ls /usr/share/postgresql/*/extension/hypopg.control >/dev/null 2>&1
}
if [ "${1:-}" = manual ]; then
    [ -f "$manual" ] && { echo "galen: the manual is in ${manual%/*}"; exit 0; }
else
    have && exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "galen: this is not Debian or Ubuntu. Install by hand: cmake, clang with libclang, the PostgreSQL 15 server" >&2
    echo "galen: (initdb, postgres, with contrib) and its hypopg extension; then run make again." >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "galen: needs root or sudo to install: $packages" >&2; exit 1; }
    as_root="sudo"
fi
if [ "${1:-}" = manual ]; then
    echo "galen: installing postgresql-doc-15"
    $as_root apt-get update -q
    # Images of small systems leave documentation out: here it is what is wanted.
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o Dpkg::Options::=--path-include=/usr/share/doc/postgresql-doc-15/* postgresql-doc-15
    [ -f "$manual" ] || { echo "galen: the package is installed, but $manual is not there" >&2; exit 1; }
    exit 0
fi
echo "galen: installing $packages"
# The package would start a cluster of its own on port 5432; Galen starts private ones and needs only the binaries.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    $as_root mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
$as_root apt-get update -q
# Where the distribution has no PostgreSQL 15, its own version does.
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages ||
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends cmake clang libclang-dev pkg-config postgresql
have || echo "galen: something is still missing (hypopg?); the demo says what it goes without" >&2
