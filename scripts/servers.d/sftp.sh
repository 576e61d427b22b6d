# OpenSSH's server with its own SFTP, and rclone's SFTP server, which asks for a
# password and has neither hard links nor fsync.
# shellcheck shell=bash disable=SC2034,SC2154
sftp_variables=(SFTP_ADDRESS SFTP_USER SFTP_KEY SFTP_LOCKED_KEY SFTP_PASSPHRASE SFTP_KNOWN_HOSTS SFTP_ROOT
    SFTP_RCLONE_ADDRESS SFTP_RCLONE_PASSWORD SFTP_RCLONE_ROOT)

sftp_start() {
    local folder=$work/$name port rclone passphrase password user key
    port=$(free_port) rclone=$(free_port) passphrase=$(secret) password=$(secret)
    if ((EUID == 0)); then user=svc; else user=$(id -un); fi
    chmod 711 "$folder"
    service_folder "$folder/server"
    service_folder "$folder/root"
    service_folder "$folder/rclone"
    for key in key locked other; do
        ssh-keygen -q -t ed25519 -C "$key" -f "$folder/$key" -N "$([[ $key == locked ]] && echo "$passphrase")"
    done
    as_service ssh-keygen -q -t ed25519 -N '' -f "$folder/server/host"
    as_service ssh-keygen -q -t ed25519 -N '' -f "$folder/server/rclone"
    cat "$folder/key.pub" "$folder/locked.pub" >"$folder/authorized_keys"
    chmod 644 "$folder/authorized_keys"
    # Any port: tests put relays in between.
    sed 's/^/[127.0.0.1]:* /' "$folder/server/host.pub" "$folder/server/rclone.pub" >"$folder/known_hosts"
    cat >"$folder/sshd_config" <<CONF
Port $port
ListenAddress 127.0.0.1
HostKey $folder/server/host
PidFile none
AuthorizedKeysFile $folder/authorized_keys
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
Subsystem sftp internal-sftp
CONF
    chmod 644 "$folder/sshd_config"
    sftp_sshd "$folder/sshd_config" "$folder/server/log" &
    as_service setsid rclone serve sftp --config "$folder/server/rclone.conf" --addr "127.0.0.1:$rclone" \
        --user strongroom --pass "$password" --key "$folder/server/rclone" "$folder/rclone" &
    give SFTP_ADDRESS "127.0.0.1:$port"
    give SFTP_USER "$user"
    give SFTP_KEY "$folder/key"
    give SFTP_LOCKED_KEY "$folder/locked"
    give SFTP_PASSPHRASE "$passphrase"
    give SFTP_KNOWN_HOSTS "$folder/known_hosts"
    give SFTP_ROOT "$folder/root"
    give SFTP_RCLONE_ADDRESS "127.0.0.1:$rclone"
    give SFTP_RCLONE_PASSWORD "$password"
    give SFTP_RCLONE_ROOT "$folder/rclone"
    retry 20 sftp_answers
}

# sshd writes its title over its environment and leaves its folder, so that nobody
# would find it: this shell is found, and passes SIGTERM on.
sftp_sshd() {
    # shellcheck disable=SC2016,SC2046 # the inner shell expands; no word or several
    setsid "$(command -v bash)" -c '
        trap "kill \$server" TERM
        "$@" & server=$!
        wait $server' - $( ((EUID == 0)) && echo runuser -u svc --) /usr/sbin/sshd -D -f "$1" -E "$2"
}

# sftp_list ADDRESS [OPTION...]: names at the server.
sftp_list() {
    local address=$1
    shift
    sftp -q -P "${address##*:}" -o BatchMode=no -o StrictHostKeyChecking=yes \
        -o UserKnownHostsFile="$STRONGROOM_TEST_SFTP_KNOWN_HOSTS" "$@" -b - "${address%:*}" <<<'ls -1 /'
}
sftp_answers() {
    sftp_list "$STRONGROOM_TEST_SFTP_ADDRESS" -o User="$STRONGROOM_TEST_SFTP_USER" \
        -i "$STRONGROOM_TEST_SFTP_KEY" -o IdentitiesOnly=yes -o PreferredAuthentications=publickey &&
        ssh-keyscan -p "${STRONGROOM_TEST_SFTP_RCLONE_ADDRESS##*:}" 127.0.0.1 2>/dev/null | grep -q ed25519
}
