# Ceph's S3 gateway with one monitor and one in-memory OSD: the server with
# versioning, object lock and race-safe conditional writes.
# shellcheck shell=bash disable=SC2034,SC2154
rgw_variables=(RGW_ENDPOINT RGW_ACCESS_KEY RGW_SECRET_KEY RGW_BUCKET)

rgw_start() {
    local folder=$work/$name monitor gateway osd access key
    local fsid=11111111-2222-3333-4444-555555555555
    monitor=$(free_port) gateway=$(free_port) access=$(secret) key=$(secret)
    mkdir "$folder/mon" "$folder/osd"
    export CEPH_CONF=$folder/ceph.conf
    # The modes "crc": the default, secure, can't be had without keys, and the
    # gateway would wait for it for ever.
    cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon_host = v2:127.0.0.1:$monitor/0
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = $folder
log_file = $folder/\$name.log
pid_file = $folder/\$name.pid
admin_socket = $folder/\$name.asok
crash_dir = $folder
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
mon_max_pg_per_osd = 2000
[mon]
mon_data = $folder/mon
mon_data_avail_crit = 1
[osd]
osd_data = $folder/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_class_load_list = *
osd_class_default_list = *
[client]
ms_mon_client_mode = crc
ms_client_mode = crc
rgw_frontends = beast endpoint=127.0.0.1:$gateway
rgw_enable_apis = s3,admin
rgw_data = $folder
CONF
    monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$monitor/0]" "$folder/monmap"
    ceph-mon --mkfs -i a --monmap "$folder/monmap"
    setsid ceph-mon -i a
    retry 30 timeout 3 ceph mon stat

    osd=$(cat /proc/sys/kernel/random/uuid)
    ceph osd new "$osd"
    ceph osd crush add osd.0 1.0 root=default host=h
    ceph-osd -i 0 --mkfs --osd-uuid "$osd"
    setsid ceph-osd -i 0
    retry 30 rgw_osd_up

    timeout 120 radosgw-admin user create --uid=strongroom --display-name=strongroom \
        --access-key="$access" --secret-key="$key"
    setsid radosgw -n client.rgw

    give RGW_ENDPOINT "http://127.0.0.1:$gateway"
    give RGW_ACCESS_KEY "$access"
    give RGW_SECRET_KEY "$key"
    give RGW_BUCKET strongroom
    retry 60 s3 RGW PUT /strongroom
    retry 30 s3_answers RGW
}

rgw_osd_up() { ceph osd stat | grep -q '1 up'; }

rgw_answers() { s3_answers RGW; }
