# Debian's MariaDB, with passwords and TLS as in production.
# Uses certificate_authority of postgres.sh.
# shellcheck shell=bash disable=SC2034,SC2154

mariadb_variables=(MARIADB_URL MARIADB_CA MARIADB_OTHER_CA)

# mariadb_settings FOLDER PORT: durability is off, nothing outlives the tests.
mariadb_settings() {
    echo "--no-defaults --datadir=$1/data --socket=$1/socket --port=$2 --bind-address=127.0.0.1
        --pid-file=$1/pid --server-id=1 --log-bin=$1/data/bin --skip-name-resolve
        --innodb-flush-log-at-trx-commit=0 --sync-binlog=0 --innodb-doublewrite=0 --max-allowed-packet=1G
        --innodb-log-file-size=128M --innodb-buffer-pool-size=128M"
}

# mariadb_account PASSWORD: statements that make the tests' administrator.
mariadb_account() {
    echo "CREATE USER strongroom@'127.0.0.1' IDENTIFIED BY '$1';
        GRANT ALL PRIVILEGES ON *.* TO strongroom@'127.0.0.1' WITH GRANT OPTION;"
}

mariadb_start() {
    local folder=$work/$name port password settings authority
    port=$(free_port)
    password=$(secret)
    service_folder "$folder"
    for authority in ca other-ca; do certificate_authority "$folder/$authority"; done
    openssl req -newkey rsa:2048 -nodes \
        -keyout "$folder/server.key" -out "$folder/server.csr" -subj "/CN=localhost"
    openssl x509 -req -in "$folder/server.csr" -days 30 -CA "$folder/ca/ca.pem" -CAkey "$folder/ca/ca.key" \
        -CAcreateserial -out "$folder/server.pem" \
        -extfile <(echo "subjectAltName = IP:127.0.0.1, DNS:localhost")
    chmod 600 "$folder/server.key"
    if ((EUID == 0)); then chown svc: "$folder/server.key"; fi
    as_service mariadb-install-db --no-defaults --datadir="$folder/data" --skip-test-db \
        --auth-root-authentication-method=normal
    read -ra settings -d '' < <(mariadb_settings "$folder" "$port") || true
    as_service setsid "$(PATH=$PATH:/usr/sbin command -v mariadbd)" "${settings[@]}" \
        --ssl-ca="$folder/ca/ca.pem" --ssl-cert="$folder/server.pem" --ssl-key="$folder/server.key" &
    retry 60 mariadb --no-defaults --socket="$folder/socket" --user=root -e 'select 1'
    mariadb_account "$password" | mariadb --no-defaults --socket="$folder/socket" --user=root
    give MARIADB_URL "mysql://strongroom:$password@127.0.0.1:$port/"
    give MARIADB_CA "$folder/ca/ca.pem"
    give MARIADB_OTHER_CA "$folder/other-ca/ca.pem"
    retry 30 mariadb_answers
}

# mysql_url_answers URL CLIENT...
mysql_url_answers() {
    local url=${1#mysql://} user place
    user=${url%@*} place=${url##*@}
    place=${place%/}
    # It must be the first argument.
    MYSQL_PWD=${user#*:} "$2" --no-defaults "${@:3}" --user="${user%%:*}" --host="${place%:*}" \
        --port="${place#*:}" -e 'select 1'
}

mariadb_answers() {
    mysql_url_answers "$STRONGROOM_TEST_MARIADB_URL" mariadb --ssl-ca="$STRONGROOM_TEST_MARIADB_CA" \
        --ssl-verify-server-cert
}
