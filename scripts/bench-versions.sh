#!/bin/sh
# Records one suite on every PostgreSQL from 13 to 18 and prints what is diagnosed: the table of docs/lab.md.
# usage: bench-versions.sh GALEN [SUITE]
set -eu
galen=$1
suite=${2:-versions}
out=${BENCH_OUT:-$(mktemp -d)}
echo "| PostgreSQL | case | injected | named | standing | culprits | window IoU |"
echo "|---|---|---|---|---|---|---|"
for major in 13 14 15 16 17 18; do
    if "$galen" lab record --suite "$suite" --out "$out/$major" --server-bin "$major" ${BENCH_FLAGS:-} 2>"$out/$major.log"; then
        "$galen" lab check "$out/$major" 2>/dev/null | sed -n "s/^| \([^-]\)/| $major | \1/p" | grep -v "| case |"
    else
        echo "| $major | $(tail -n 1 "$out/$major.log" | tr '|' '/') | | | | | |"
    fi
done
