# Google's Firestore emulator. It comes with the Google Cloud CLI and from no
# package source.
# shellcheck shell=bash disable=SC2034,SC2154

# firestore_jar: where the emulator is. FIRESTORE_EMULATOR names its jar, its
# launcher or its folder.
firestore_jar() {
    local place jar
    for place in ${FIRESTORE_EMULATOR:+"$FIRESTORE_EMULATOR"} \
        "$(dpkg -L google-cloud-cli-firestore-emulator 2>/dev/null | grep 'emulator\.jar$' | head -n 1)" \
        "$HOME"/google-cloud-sdk/platform/cloud-firestore-emulator; do
        [[ -n $place ]] || continue
        for jar in "$place" "$place/cloud-firestore-emulator.jar" \
            "$(dirname "$place")/cloud-firestore-emulator.jar"; do
            if [[ $jar == *.jar && -f $jar ]]; then
                echo "$jar"
                return
            fi
        done
    done
    return 1
}

firestore_variables=(FIRESTORE FIRESTORE_JAR)

firestore_absent() {
    if ! firestore_jar >/dev/null || ! command -v java >/dev/null; then
        absent "Google's emulator is in no package source: install the Google Cloud CLI's, or set \
FIRESTORE_EMULATOR to its jar, and install Java" emulated_firestore
    fi
}

firestore_start() {
    local jar port
    jar=$(firestore_jar)
    port=$(free_port)
    # Java itself and not the launcher, which would leave it behind.
    setsid java -Duser.language=en -Xmx768m -cp "$jar" \
        com.google.cloud.datastore.emulator.firestore.CloudFirestore \
        start --host=127.0.0.1 --port="$port" &
    give FIRESTORE "127.0.0.1:$port"
    give FIRESTORE_JAR "$jar"
    retry 60 firestore_answers
}

firestore_answers() {
    curl -sf -H 'Authorization: Bearer owner' -H 'content-type: application/json' -d '{}' \
        "http://$STRONGROOM_TEST_FIRESTORE/v1/projects/ready/databases/(default)/documents:listCollectionIds"
}
