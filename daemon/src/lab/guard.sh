# Runs the lab's server and outlives the program that started it by just long enough to clean up.
# Arguments: the lab's folder, the folder of the server's programs. Standard input is a pipe that the starter holds
# open: when it closes, for whatever reason (stop, crash, kill -9), the server is stopped and the folder removed.
dir=$1
bin=$2
ended=
standby=
exec 3<&0 </dev/null >/dev/null 2>&1

finish() {
    # After a failover the standby is all that is left.
    jobs=$standby
    [ -z "$ended" ] && jobs="$! $standby"
    if [ -n "$jobs" ]; then
        kill -INT $jobs
        (sleep 5; kill -QUIT $jobs; sleep 3; kill -KILL $jobs) 3<&- &
        wait $jobs
    fi
    trap '' TERM
    rm -rf -- "$dir"
    # The watcher and the timer are all that is left of this process group.
    kill -TERM 0
    exit 0
}
trap finish TERM

(read -r _ <&3; kill -TERM $$) &
watcher=$!
exec 3<&-

# A data directory with a volume of its own has its WAL elsewhere, as on many machines: without room for WAL a server stops.
wal=
[ -d "$dir/data" ] && wal="-X $dir/wal"
"$bin/initdb" -D "$dir/data" $wal -U postgres -A scram-sha-256 --pwfile="$dir/password" -E UTF8 --locale=C -N >"$dir/server.log" 2>&1 &
wait $!
status=$?
rm -f "$dir/password"
if [ "$status" = 0 ]; then
    if [ -f "$dir/next_xid" ]; then
        read -r xid segment <"$dir/next_xid"
        "$bin/pg_resetwal" -x "$xid" -D "$dir/data" >>"$dir/server.log" 2>&1
        # The server reads the page of its next id and finds no transaction committed there yet.
        head -c 262144 /dev/zero >"$dir/data/pg_xact/$segment"
    fi
    cat "$dir/settings.conf" >>"$dir/data/postgresql.conf"
    if [ -f "$dir/standby.conf" ]; then
        # The pristine cluster is its own base backup; what the primary writes from now on arrives by streaming.
        cp -a "$dir/data" "$dir/standby"
        cat "$dir/standby.conf" >>"$dir/standby/postgresql.conf"
        : >"$dir/standby/standby.signal"
        "$bin/postgres" -D "$dir/standby" >"$dir/standby.log" 2>&1 &
        standby=$!
    fi
    "$bin/postgres" -D "$dir/data" >"$dir/server.log" 2>&1 &
    wait $!
    status=$?
fi
ended=yes
echo "$status" >"$dir/ended"
wait "$watcher"
finish
