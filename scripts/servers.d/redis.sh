# Debian's Redis. Each test starts servers of its own, in 0.1 s: a restore wants
# an empty one. Here only the program is found and tried.
# shellcheck shell=bash disable=SC2034,SC2154

redis_variables=(REDIS_SERVER)

redis_start() {
    give REDIS_SERVER "$(command -v redis-server)"
    redis_answers
}

redis_answers() { redis_tried "$STRONGROOM_TEST_REDIS_SERVER"; }

# redis_tried PROGRAM: runs a server on a socket and asks it something.
redis_tried() {
    local folder client=${1%-server}-cli pid status=0
    folder=$(mktemp -d)
    "$1" --port 0 --unixsocket "$folder/s" --dir "$folder" --save '' >"$folder/log" 2>&1 &
    pid=$!
    retry 10 "$client" -s "$folder/s" set ready check && "$client" -s "$folder/s" get ready | grep -qx check || status=1
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null || true
    rm -rf "$folder"
    return "$status"
}
