# Debian's PostgreSQL, with passwords and TLS as in production.
# shellcheck shell=bash disable=SC2034,SC2154
postgres_variables=(PG_URL PG_CA PG_OTHER_CA)

# certificate_authority FOLDER: a throwaway one.
certificate_authority() {
    mkdir -p "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
        -keyout "$1/ca.key" -out "$1/ca.pem" -subj "/CN=Strongroom test CA" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign"
}

# postgres_cluster BIN URL_VARIABLE [SETTINGS]: a cluster that only TCP with a
# password reaches. Durability is off: nothing outlives the tests.
postgres_cluster() {
    local bin=$1 variable=$2 settings=${3:-} folder=$work/$name port password
    port=$(free_port)
    password=$(secret)
    service_folder "$folder"
    printf '%s\n' "$password" >"$folder/password"
    chmod 644 "$folder/password"
    as_service "$bin/initdb" -D "$folder/data" -U strongroom --pwfile "$folder/password" \
        -A scram-sha-256 -E UTF8 --locale C.UTF-8 --no-sync
    rm "$folder/password"
    cat >>"$folder/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
max_connections = 100
fsync = off
synchronous_commit = off
full_page_writes = off
timezone = 'UTC'
$settings
CONF
    as_service setsid "$bin/pg_ctl" -D "$folder/data" -l "$folder/data/server.log" -w -t 60 start ||
        { cat "$folder/data/server.log"; return 1; }
    give "$variable" "postgres://strongroom:$password@127.0.0.1:$port/postgres"
}

postgres_start() {
    local folder=$work/$name bin
    bin=$(find /usr/lib/postgresql -path '*/bin/initdb' -printf '%h\n' | sort -V | head -n 1)
    certificate_authority "$work/ca"
    certificate_authority "$work/other-ca"
    service_folder "$folder"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -keyout "$folder/server.key" -out "$folder/server.csr" -subj "/CN=localhost"
    openssl x509 -req -in "$folder/server.csr" -days 30 -CA "$work/ca/ca.pem" -CAkey "$work/ca/ca.key" \
        -CAcreateserial -out "$folder/server.pem" \
        -extfile <(echo "subjectAltName = IP:127.0.0.1, DNS:localhost")
    chmod 600 "$folder/server.key"
    if ((EUID == 0)); then chown svc: "$folder/server.key"; fi
    postgres_cluster "$bin" PG_URL "
ssl = on
ssl_cert_file = '$folder/server.pem'
ssl_key_file = '$folder/server.key'"
    give PG_CA "$work/ca/ca.pem"
    give PG_OTHER_CA "$work/other-ca/ca.pem"
    retry 30 postgres_answers
}

postgres_answers() {
    psql -X -q -A -t -c 'select 1' \
        "$STRONGROOM_TEST_PG_URL?sslmode=verify-full&sslrootcert=$STRONGROOM_TEST_PG_CA"
}
