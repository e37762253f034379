#!/bin/sh
# Proves the direction of dependencies: tools and knowledge depend on nothing of ours, nothing depends on the daemon.
set -eu
users() { cargo tree --locked --workspace --edges normal --invert "$1" --depth 1 --prefix none --format '{p}' | tail -n +2 | cut -d' ' -f1 | sort -u | tr '\n' ' '; }
expect() {
    found=$(users "$1")
    [ "$found" = "$2" ] || { echo "layers: $1 is used by '$found', expected '$2'" >&2; exit 1; }
}
expect galen-tools "galen galen-agents "
expect galen-knowledge "galen galen-agents galen-docs-ingest "
expect galen-docs-ingest "galen "
expect galen-agents "galen "
expect galen ""
echo "layers: the direction of dependencies holds"
