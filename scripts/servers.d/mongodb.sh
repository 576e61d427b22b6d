# SecantusDB: a server of MongoDB's wire protocol from a PyPI wheel, with WiredTiger
# storage, an oplog and passwords. It accepts snapshot reads at a cluster time and
# does not keep them, and has no applyOps, no sharding and no second member.
# shellcheck shell=bash disable=SC2034,SC2154

mongodb_variables=(MONGODB_URL MONGODB_SERVER)

mongodb_start() {
    local folder=$work/$name port password
    port=$(free_port) password=$(secret)
    mkdir "$folder/data"
    give MONGODB_URL "mongodb://strongroom:$password@127.0.0.1:$port/?authSource=admin"
    # The first start makes the user, the second asks for it.
    mongodb_serve "$folder" --port "$port"
    STRONGROOM_TEST_MONGODB_URL=mongodb://127.0.0.1:$port/ retry 30 mongodb_answers
    MONGODB_PASSWORD=$password "$venv/bin/python" - "$port" <<'PY'
import os, sys, pymongo
admin = pymongo.MongoClient(f"mongodb://127.0.0.1:{sys.argv[1]}/").admin
admin.command("createUser", "strongroom", pwd=os.environ["MONGODB_PASSWORD"], roles=["root"])
PY
    kill "$mongodb_pid"
    wait "$mongodb_pid" || true
    mongodb_serve "$folder" --port "$port" --auth
    retry 30 mongodb_answers
    # Servers that a test starts, and kills, itself.
    give MONGODB_SERVER "$venv/bin/secantusd-py"
}

# mongodb_serve FOLDER ARGUMENT...
mongodb_serve() {
    local folder=$1
    shift
    setsid "$venv/bin/secantusd-py" --host 127.0.0.1 --storage-path "$folder/data" --cache-size 256M \
        --session-max 300 --log-level ERROR "$@" >"$folder/log" 2>&1 &
    mongodb_pid=$!
}

mongodb_answers() {
    "$venv/bin/python" - <<'PY'
import os, pymongo
url = os.environ["STRONGROOM_TEST_MONGODB_URL"]
server = pymongo.MongoClient(url, serverSelectionTimeoutMS=3000)
table = server.ready_check.t
table.insert_one({"_id": 1})
assert table.find_one() == {"_id": 1}
server.drop_database("ready_check")
PY
}
