# Starts and stops the servers of the integration tests: source it.
#   servers_up     starts what servers.d/ describes, exports STRONGROOM_TEST_*
#   servers_down   stops what this shell started
# shellcheck shell=bash
#
# Every file of servers.d/ defines
#   NAME_variables   an array of the VARs that the tests see as STRONGROOM_TEST_VAR
#   NAME_start       starts the server with all state below $work/NAME, waits until
#                    it does real work, and calls give VAR VALUE for each variable
#   NAME_answers     asks a running server for a real answer
# All start at the same time. A server that does not start is a failure.
#
# Only what cannot be installed everywhere, or takes too long without --all, may be
# missing. Its file also defines
#   NAME_absent      calls absent REASON TEST... where the server can't be had:
#                    a look at the machine, not an attempt to start it. Its
#                    variables stay unset, tests with one of the TESTs in their
#                    path are left out, and the closing lines of scripts/test say so.
# STRONGROOM_TEST_ALL is set in a run with --all.
#
# stop_servers finds a process by the mark in its environment. A server that
# overwrites it (redis-server does) keeps its process id in $work/NAME/pid.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

servers=() absent_servers=() absent_tests=()
server_variables=(PYTHON SERVERS_DIR)
declare -A absent_because=()

# absent REASON TEST...: to be called by NAME_absent alone.
absent() {
    absent_because[$name]="$1 (tests named ${*:2})"
    absent_servers+=("$name")
    absent_tests+=("${@:2}")
}

for file in "${STRONGROOM_SERVERS_D:-$root/scripts/servers.d}"/*.sh; do
    # shellcheck source=/dev/null
    . "$file"
    name=$(basename "$file" .sh)
    if declare -F "${name}_absent" >/dev/null; then "${name}_absent"; fi
    if [[ -z ${absent_because[$name]:-} ]]; then
        servers+=("$name")
        declare -n variables=${name}_variables
        server_variables+=("${variables[@]}")
        unset -n variables
    fi
done
kept=$root/target/test-servers.env

give() {
    export "STRONGROOM_TEST_$1=$2"
    printf 'export STRONGROOM_TEST_%s=%q\n' "$1" "$2" >>"$work/$name.env"
}
secret() { openssl rand -hex 16; }

# Loopback ports below the ephemeral range, so that no outgoing connection can
# take one between the choice and the server's bind.
free_port() {
    python3 -c '
import random, socket
while True:
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", random.randrange(20000, 32000)))
        except OSError:
            continue
        print(s.getsockname()[1])
        break'
}

# as_service CMD...: some servers refuse to run as root.
as_service() {
    if ((EUID == 0)); then runuser -u svc -- "$@"; else "$@"; fi
}
service_folder() {
    mkdir -p "$1"
    if ((EUID == 0)); then chown svc: "$1"; fi
}

# s3 PREFIX METHOD /PATH [BODY]: a signed request, failing on an S3 error.
s3() {
    local prefix=STRONGROOM_TEST_$1
    shift
    local endpoint=${prefix}_ENDPOINT access=${prefix}_ACCESS_KEY key=${prefix}_SECRET_KEY
    S3_ACCESS_KEY=${!access} S3_SECRET_KEY=${!key} "$root/scripts/s3-request" "${!endpoint}" "$@"
}
s3_answers() {
    local bucket=STRONGROOM_TEST_$1_BUCKET word
    word=$(secret)
    s3 "$1" PUT "/${!bucket}/ready-check-$word" "$word" &&
        [[ $(s3 "$1" GET "/${!bucket}/ready-check-$word") == "$word" ]] &&
        s3 "$1" DELETE "/${!bucket}/ready-check-$word"
}

servers_answer() {
    local variable server
    for variable in "${server_variables[@]}"; do
        variable=STRONGROOM_TEST_$variable
        [[ -n ${!variable:-} ]] || return 1
    done
    for server in "${servers[@]}"; do
        "${server}_answers" >/dev/null 2>&1 || return 1
    done
}

servers_up() {
    if servers_answer; then
        say "using the servers of the environment"
        return
    fi
    # shellcheck source=/dev/null
    if [[ -f $kept ]] && . "$kept" && servers_answer; then
        say "using the servers of ${kept#"$root"/}"
        return
    fi
    "$root/scripts/install-test-tools"

    local began=$SECONDS server failed='' jobs=()
    work=$(mktemp -d "${TMPDIR:-/tmp}/strongroom-servers.XXXXXX")
    chmod 711 "$work" # the unprivileged servers must pass, nobody else may look
    for server in "${servers[@]}"; do
        (
            set -e
            name=$server
            export STRONGROOM_SERVERS_OF=$work # marks every process for stop_servers
            mkdir "$work/$name"
            "${server}_start"
        ) </dev/null >"$work/$server.log" 2>&1 &
        jobs+=("$!")
    done
    for server in "${!servers[@]}"; do
        wait "${jobs[server]}" || failed+=" ${servers[server]}"
    done
    if [[ -n $failed ]]; then
        for server in $failed; do
            say "$server did not start:"
            tail -n 30 "$work/$server.log" >&2
        done
        servers_down
        return 1
    fi
    name=common
    give PYTHON "$venv/bin/python"
    give SERVERS_DIR "$work"
    cat "$work"/*.env >"$work/environment"
    # shellcheck source=/dev/null
    . "$work/environment"
    say "${servers[*]} up after $((SECONDS - began)) s"
    if ((${#absent_servers[@]})); then say "absent: ${absent_servers[*]}"; fi
}

servers_down() {
    [[ -n ${work:-} ]] || return 0
    trap '' INT TERM # a second signal must not stop the stopping
    # An interrupted start first, so that it starts nothing more.
    local starting
    mapfile -t starting < <(jobs -pr)
    if ((${#starting[@]})); then
        kill -KILL "${starting[@]}" 2>/dev/null || true
        wait 2>/dev/null || true
    fi
    stop_servers "$work"
}

# server_pids FOLDER: the processes of one run, daemons and strays alike, by the
# mark in their environment or the file with their id.
server_pids() {
    grep -lszxF "STRONGROOM_SERVERS_OF=$1" /proc/[0-9]*/environ | cut -d/ -f3 || true
    local file pid
    for file in "$1"/*/pid; do
        # An id may by now be another's: a server works below its folder.
        if pid=$(cat "$file" 2>/dev/null) && [[ $(readlink "/proc/$pid/cwd") == "$1"/* ]]; then echo "$pid"; fi
    done
}

# postmaster_pids FOLDER: PostgreSQL writes its titles over its environment too.
postmaster_pids() {
    local file
    for file in "$1"/*/data/postmaster.pid; do
        if [[ -s $file ]]; then head -n 1 "$file"; fi
    done
}

# stop_servers FOLDER: SIGINT to PostgreSQL, for a fast shutdown that frees its
# shared memory, SIGTERM to all others; SIGKILL for what remains after five seconds.
stop_servers() {
    local pids postmasters began=$SECONDS
    while
        mapfile -t pids < <(server_pids "$1")
        mapfile -t postmasters < <(postmaster_pids "$1")
        ((${#pids[@]} + ${#postmasters[@]}))
    do
        if ((SECONDS - began < 5)); then
            kill -s TERM "${pids[@]}" 2>/dev/null || true
            kill -s INT "${postmasters[@]}" 2>/dev/null || true
        else
            kill -s KILL "${pids[@]}" "${postmasters[@]}" 2>/dev/null || true
        fi
        sleep 0.2
    done
    rm -rf "$1"
}
