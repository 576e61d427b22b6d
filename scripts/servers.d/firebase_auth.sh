# Google's emulator of Firebase Auth, from npm's firebase-tools. Its tests want
# the Firestore emulator too.
# shellcheck shell=bash disable=SC2034,SC2154

# For firestore_jar, whichever of the two files is read first.
# shellcheck source=scripts/servers.d/firestore.sh
. "${BASH_SOURCE[0]%/*}/firestore.sh"

firebase_auth_variables=(FIREBASE_AUTH)

firebase_auth_absent() {
    if [[ ! ${STRONGROOM_TEST_ALL:-} ]]; then
        absent "300 MB of packages, fetched by scripts/test --all" firebase_auth
    elif ! firestore_jar >/dev/null || ! command -v java >/dev/null || ! command -v npm >/dev/null; then
        absent "it needs the Firestore emulator, Java and npm" firebase_auth
    fi
}

firebase_auth_start() {
    local folder=$work/$name tools=$cache/firebase-tools-15.34.2 port hub log
    if [[ ! -d $tools ]]; then
        # Its scripts would fetch what these tests do not use.
        npm install --prefix "$tools.part" --ignore-scripts --no-audit --no-fund firebase-tools@15.34.2
        mv "$tools.part" "$tools"
    fi
    port=$(free_port) hub=$(free_port) log=$(free_port)
    cat >"$folder/firebase.json" <<JSON
{"emulators": {"auth": {"host": "127.0.0.1", "port": $port}, "ui": {"enabled": false},
    "hub": {"port": $hub}, "logging": {"port": $log}}}
JSON
    cd "$folder" || return
    HOME=$folder setsid node "$tools/node_modules/firebase-tools/lib/bin/firebase.js" \
        emulators:start --only auth --project demo-strongroom &
    give FIREBASE_AUTH "127.0.0.1:$port"
    retry 120 firebase_auth_answers
}

firebase_auth_answers() { curl -sf "http://$STRONGROOM_TEST_FIREBASE_AUTH/"; }
