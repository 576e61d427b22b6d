# Valkey 8 of bookworm-backports, unpacked into the cache and not installed. Uses
# redis_tried of redis.sh.
# shellcheck shell=bash disable=SC2034,SC2154

valkey_variables=(VALKEY_SERVER)

valkey_start() {
    give VALKEY_SERVER "$cache/valkey/usr/bin/valkey-server"
    valkey_answers
}

valkey_answers() { redis_tried "$STRONGROOM_TEST_VALKEY_SERVER"; }
