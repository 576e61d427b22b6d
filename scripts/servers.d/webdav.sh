# Two WebDAV servers: rclone's, and nginx with the module that adds PROPFIND.
# shellcheck shell=bash disable=SC2034,SC2154
webdav_variables=(WEBDAV_USER WEBDAV_PASSWORD WEBDAV_RCLONE_URL WEBDAV_RCLONE_ROOT WEBDAV_NGINX_URL WEBDAV_NGINX_ROOT)

webdav_start() {
    local folder=$work/$name rclone nginx password
    rclone=$(free_port) nginx=$(free_port) password=$(secret)
    service_folder "$folder"
    service_folder "$folder/rclone"
    service_folder "$folder/nginx"
    service_folder "$folder/state"
    as_service setsid rclone serve webdav --config "$folder/state/rclone.conf" --addr "127.0.0.1:$rclone" \
        --user strongroom --pass "$password" --dir-cache-time 0 --etag-hash "" "$folder/rclone" &
    printf 'strongroom:%s\n' "$(openssl passwd -apr1 "$password")" >"$folder/users"
    cat >"$folder/nginx.conf" <<CONF
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
worker_processes 1;
daemon off;
pid $folder/pid;
error_log $folder/state/error.log;
events {}
http {
    access_log off;
    client_max_body_size 0;
    client_body_temp_path $folder/state/body;
    proxy_temp_path $folder/state/proxy;
    fastcgi_temp_path $folder/state/fastcgi;
    uwsgi_temp_path $folder/state/uwsgi;
    scgi_temp_path $folder/state/scgi;
    server {
        listen 127.0.0.1:$nginx;
        root $folder/nginx;
        auth_basic strongroom;
        auth_basic_user_file $folder/users;
        dav_methods PUT DELETE MKCOL COPY MOVE;
        dav_ext_methods PROPFIND OPTIONS;
        dav_access user:rw;
    }
}
CONF
    # It writes its title over its environment, and its id into the file above.
    (cd "$folder" && as_service setsid /usr/sbin/nginx -p "$folder" -e "$folder/state/error.log" -c "$folder/nginx.conf") &
    give WEBDAV_USER strongroom
    give WEBDAV_PASSWORD "$password"
    give WEBDAV_RCLONE_URL "http://127.0.0.1:$rclone"
    give WEBDAV_RCLONE_ROOT "$folder/rclone"
    give WEBDAV_NGINX_URL "http://127.0.0.1:$nginx"
    give WEBDAV_NGINX_ROOT "$folder/nginx"
    retry 20 webdav_answers
}

webdav_answers() {
    local url
    for url in "$STRONGROOM_TEST_WEBDAV_RCLONE_URL" "$STRONGROOM_TEST_WEBDAV_NGINX_URL"; do
        STRONGROOM_URL=$url "${venv}/bin/python" - <<'PY' || return 1
import base64, os, urllib.request
e = os.environ
pair = e["STRONGROOM_TEST_WEBDAV_USER"] + ":" + e["STRONGROOM_TEST_WEBDAV_PASSWORD"]
request = urllib.request.Request(e["STRONGROOM_URL"] + "/", method="PROPFIND", headers={
    "Authorization": "Basic " + base64.b64encode(pair.encode()).decode(), "Depth": "1"})
assert urllib.request.urlopen(request, timeout=5).status == 207
PY
    done
}
