# s3s-fs: a small S3 server over a folder. It compares the checksums of whole
# objects (x-amz-checksum after storing them) and none of parts.
# shellcheck shell=bash disable=SC2034,SC2154
s3s_variables=(S3S_ENDPOINT S3S_ACCESS_KEY S3S_SECRET_KEY S3S_BUCKET S3S_ROOT)

s3s_start() {
    local port access key
    port=$(free_port) access=$(secret) key=$(secret)
    mkdir "$work/$name/root"
    setsid "$(cargo_tool s3s-fs s3s-fs 0.14.1 --features binary)" --host 127.0.0.1 --port "$port" \
        --access-key "$access" --secret-key "$key" "$work/$name/root" &
    give S3S_ENDPOINT "http://127.0.0.1:$port"
    give S3S_ACCESS_KEY "$access"
    give S3S_SECRET_KEY "$key"
    give S3S_BUCKET strongroom
    give S3S_ROOT "$work/$name/root"
    retry 20 s3 S3S PUT /strongroom
    retry 5 s3_answers S3S
}

s3s_answers() { s3_answers S3S; }
