# MariaDB 11.8 and Oracle's MySQL 9 from newer suites of Debian, each with its
# client programs: unpacked below the cache, and run by their own loader.
# Uses mariadb_settings, mariadb_account and mysql_url_answers of mariadb.sh.
# shellcheck shell=bash disable=SC2034,SC2154

mysql_versions_variables=(MARIADB118_URL MARIADB118_BIN MYSQL9_URL MYSQL9_BIN)

mysql_versions_absent() {
    [[ ${STRONGROOM_TEST_ALL:-} ]] ||
        absent "800 MB of packages, fetched by scripts/test --all" mariadb118_ mysql9_
}

# debian_folder NAME SUITE PACKAGE...: prints the folder with these packages and
# all they need, unpacked. Nothing of it is installed.
debian_folder() {
    local folder=$cache/$1 suite=$2 apt options package
    shift 2
    if [[ ! -f $folder/complete ]]; then
        rm -rf "$folder"
        mkdir -p "$folder/root" "$folder"/apt/{lists/partial,cache/archives/partial}
        apt=$folder/apt
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" \
            >"$apt/sources.list"
        : >"$apt/status"
        options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
            -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o "Dir::State::status=$apt/status"
            -o APT::Install-Recommends=false -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none
            -o Debug::NoLocking=1)
        apt-get "${options[@]}" update >&2
        apt-get "${options[@]}" -y --download-only install "$@" >&2
        for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$folder/root"; done
        rm -rf "$apt"
        touch "$folder/complete"
    fi
    echo "$folder/root"
}

# own_loader ROOT FOLDER PROGRAM...: scripts that start programs of such a folder.
own_loader() {
    local root=$1 folder=$2 program
    shift 2
    mkdir -p "$folder"
    for program in "$@"; do
        cat >"$folder/$(basename "$program")" <<RUN
#!/bin/sh
exec $root/usr/lib64/ld-linux-x86-64.so.2 --library-path $root/usr/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu/systemd $root/usr/$program "\$@"
RUN
        chmod 755 "$folder/$(basename "$program")"
    done
}

mysql_versions_start() {
    mariadb118_start
    mysql9_start
    retry 30 mysql_versions_answers
}

mariadb118_start() {
    local root folder=$work/$name/mariadb118 port password settings share
    port=$(free_port) password=$(secret)
    service_folder "$work/$name"
    service_folder "$folder"
    # Below the run's folder, because an unprivileged user may not read the cache.
    cp -r "$(debian_folder mariadb118 trixie mariadb-server-core mariadb-client mariadb-client-core)" "$folder/root"
    root=$folder/root share=$folder/root/usr/share/mariadb
    own_loader "$root" "$folder/bin" bin/mariadb bin/mariadb-dump sbin/mariadbd
    chmod -R go+rX "$folder/root" "$folder/bin"
    read -ra settings -d '' < <(mariadb_settings "$folder" "$port") || true
    settings+=("--lc-messages-dir=$share" "--character-sets-dir=$share/charsets")
    service_folder "$folder/data"
    {
        printf 'create database mysql;\nuse mysql;\n'
        cat "$share"/mariadb_{system_tables,performance_tables,system_tables_data,sys_schema}.sql
    } | as_service "$folder/bin/mariadbd" "${settings[@]}" --bootstrap
    as_service setsid "$folder/bin/mariadbd" "${settings[@]}" &
    retry 60 "$folder/bin/mariadb" --no-defaults --socket="$folder/socket" --user=root -e 'select 1'
    mariadb_account "$password" | "$folder/bin/mariadb" --no-defaults --socket="$folder/socket" --user=root
    give MARIADB118_URL "mysql://strongroom:$password@127.0.0.1:$port/"
    give MARIADB118_BIN "$folder/bin"
}

mysql9_start() {
    local root folder=$work/$name/mysql9 port password settings share
    port=$(free_port) password=$(secret)
    service_folder "$folder"
    cp -r "$(debian_folder mysql9 sid mysql-server-core mysql-client-core)" "$folder/root"
    root=$folder/root share=$folder/root/usr/share/mysql
    own_loader "$root" "$folder/bin" bin/mysql bin/mysqldump sbin/mysqld
    chmod -R go+rX "$folder/root" "$folder/bin"
    settings=(--no-defaults --datadir="$folder/data" --secure-file-priv=NULL
        --lc-messages-dir="$share" --character-sets-dir="$share/charsets"
        --plugin-dir="$root/usr/lib/mysql/plugin")
    as_service "$folder/bin/mysqld" "${settings[@]}" --initialize-insecure
    as_service setsid "$folder/bin/mysqld" "${settings[@]}" --socket="$folder/socket" --port="$port" \
        --bind-address=127.0.0.1 --mysqlx=OFF --pid-file="$folder/pid" --server-id=1 --log-bin=bin \
        --gtid-mode=ON --enforce-gtid-consistency=ON --skip-name-resolve --max-allowed-packet=1G \
        --innodb-flush-log-at-trx-commit=0 --sync-binlog=0 --innodb-doublewrite=0 &
    retry 60 "$folder/bin/mysql" --no-defaults --socket="$folder/socket" --user=root -e 'select 1'
    mariadb_account "$password" | "$folder/bin/mysql" --no-defaults --socket="$folder/socket" --user=root
    give MYSQL9_URL "mysql://strongroom:$password@127.0.0.1:$port/"
    give MYSQL9_BIN "$folder/bin"
}

mysql_versions_answers() {
    mysql_url_answers "$STRONGROOM_TEST_MARIADB118_URL" "$STRONGROOM_TEST_MARIADB118_BIN/mariadb" &&
        mysql_url_answers "$STRONGROOM_TEST_MYSQL9_URL" "$STRONGROOM_TEST_MYSQL9_BIN/mysql"
}
