#!/bin/sh
# Runs every demo fault live for each model and prints the table of docs/faults.md.
# usage: bench-faults.sh GALEN [FAULT...]
set -eu
galen=$1
shift
faults=${*:-"missing_index redundant_indexes blocking_transaction concurrent_updates concurrent_inserts bulk_delete work_mem_spill large_result_fetch healthy"}
out=${BENCH_OUT:-$(mktemp -d)}
mkdir -p "$out"
models=${BENCH_MODELS:-"none smollm2-135m qwen2.5-coder-1.5b"}
echo "| fault | model | named first | probability | first finding | report | as expected |"
echo "|---|---|---|---|---|---|---|"
for fault in $faults; do
    for model in $models; do
        if [ "$model" = none ]; then flag="--no-model"; else flag="--model $model"; fi
        # A demo whose fault was not named first ends with an error, and says what it named all the same.
        # shellcheck disable=SC2086
        "$galen" demo --fault "$fault" $flag ${BENCH_FLAGS:-} --out "$out/$model" >/dev/null 2>"$out/log" || true
        line=$(grep -E '^(NOT )?named' "$out/log" || true)
        if [ -n "$line" ]; then
            cause=$(echo "$line" | sed -nE 's/^named first: ([a-z_]+) .*/\1/p; s/.*injected, ([a-z_]+) \(.*/\1/p')
            p=$(echo "$line" | sed -nE 's/.*\(([0-9]+ %)\).*/\1/p')
            first=$(echo "$line" | sed -nE 's/.*first finding ([0-9.]+ s|-) and.*/\1/p')
            report=$(echo "$line" | sed -nE 's/.*report ([0-9.]+ s|-) after.*/\1/p')
            right=$(case "$line" in named*) echo yes ;; *) echo no ;; esac)
            echo "| $fault | $model | ${cause:-none} | ${p:--} | ${first:--} | ${report:--} | $right |"
        else
            echo "| $fault | $model | $(tail -n 1 "$out/log" | tr '|' '/') | | | | no |"
        fi
    done
done
