#!/usr/bin/env bash
# Writes knowledge/gazetteer/names.tsv: every setting, statistics view and column, wait event and SQLSTATE, as servers and
# the manual name them. Nothing in that file is typed by hand; run this again for a new release.
#
#   scripts/gazetteer.sh [BIN...]    folders of initdb and postgres; default: every version in /usr/lib/postgresql
#   PG_MANUAL=DIR                    the manual as HTML; default: that of Debian's package postgresql-doc-15
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/../knowledge/gazetteer/names.tsv
manual=${PG_MANUAL:-/usr/share/doc/postgresql-doc-15/html}
say() { printf '%s\n' "gazetteer: $*" >&2; }
die() { say "$*"; exit 1; }

[ -f "$manual/monitoring-stats.html" ] || die "no manual in $manual: make manual, or name its folder in PG_MANUAL"
bins=("$@")
[ $# -gt 0 ] || bins=(/usr/lib/postgresql/*/bin)
[ -x "${bins[0]}/initdb" ] || die "no server in ${bins[0]}: make deps, or name the folder of initdb"

work=$(mktemp -d)
chmod 755 "$work"
stop() { for data in "$work"/data-*; do [ ! -f "$data/postmaster.pid" ] || kill -INT "$(head -n 1 "$data/postmaster.pid")" 2>/dev/null || true; done; }
trap 'stop; sleep 0.3; rm -rf "$work"' EXIT
# The server refuses to run as root.
as_user() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

found=$work/found.tsv
for bin in "${bins[@]}"; do
  n=$(echo "$bin" | tr -c 'a-zA-Z0-9\n' '-')
  data=$work/data-$n
  mkdir "$data"; [ "$(id -u)" != 0 ] || chown postgres "$data"
  as_user "$bin/initdb" -D "$data" -A trust -U postgres --no-sync >/dev/null
  as_user "$bin/pg_ctl" -D "$data" -w -l "$data/log" -o "-c listen_addresses= -c unix_socket_directories=$data -c fsync=off" start >/dev/null
  query() { psql -h "$data" -U postgres -d postgres -XAtq -F "$(printf '\t')" -c "$1"; }
  query "CREATE EXTENSION IF NOT EXISTS pg_stat_statements" 2>/dev/null || say "$bin has no pg_stat_statements"
  {
    query "SELECT 'setting', name, category, translate(short_desc, E'\t\n', '  ') FROM pg_settings WHERE name NOT LIKE '%.%'"
    query "SELECT 'view', c.relname, 'view', '' FROM pg_class c WHERE c.relkind = 'v' AND c.relname ~ '^pg_(stat|locks|replication_slots|prepared|cursors|settings|file_settings|wait)'"
    query "SELECT 'column', a.attname, c.relname, format_type(a.atttypid, a.atttypmod) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
           WHERE c.relkind = 'v' AND a.attnum > 0 AND (c.relname ~ '^pg_stat(io)?_' AND c.relname !~ '_(sys|user)_|_xact_' OR c.relname IN ('pg_locks', 'pg_replication_slots'))"
    query "SELECT 'wait', name, type, translate(description, E'\t\n', '  ') FROM pg_wait_events WHERE type <> 'Extension'" 2>/dev/null || true
  } >>"$found"
  codes=$("$bin/pg_config" --sharedir)/errcodes.txt
  [ ! -f "$codes" ] || awk '/^[0-9A-Z]/ && NF >= 4 { print "sqlstate\t" $1 "\t" $4 "\t" $2 }' "$codes" >>"$found"
done

# Wait events as the manual lists them: one table a type.
tr '\n' ' ' <"$manual/monitoring-stats.html" | sed 's/<table /\n<table /g' | awk '
  match($0, /summary="Wait Events of Type [A-Za-z]+"/) {
    type = substr($0, RSTART + 29, RLENGTH - 30)
    sub(/<\/table>.*/, "")
    n = split($0, rows, "<tr>")
    for (i = 2; i <= n; i++) {
      if (!match(rows[i], /<td><code class="literal">[A-Za-z0-9_]+/)) continue
      name = substr(rows[i], RSTART + 26, RLENGTH - 26)
      about = substr(rows[i], RSTART + RLENGTH); sub(/^<\/code><\/td>/, "", about); gsub(/<[^>]*>/, "", about); gsub(/ +/, " ", about)
      gsub(/&gt;/, ">", about); gsub(/&lt;/, "<", about); gsub(/&amp;/, "\\&", about)
      print "wait\t" name "\t" type "\t" about
    }
  }' >>"$found"

# One line a name in its place; what versions describe differently keeps the first description.
mkdir -p "$(dirname "$out")"
LC_ALL=C sort -t "$(printf '\t')" -k1,3 -s "$found" | awk -F '\t' '!seen[$1 FS $2 FS $3]++' >"$work/names.tsv"
[ "$(wc -l <"$work/names.tsv")" -gt 1000 ] || die "only $(wc -l <"$work/names.tsv") names were found"
cp "$work/names.tsv" "$out"
cut -f 1 "$out" | sort | uniq -c >&2
