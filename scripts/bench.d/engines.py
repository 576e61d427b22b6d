"""The databases of scripts/bench-engines: each starts a throwaway server, fills it, and knows two
ways to dump it: the bare tool of the engine, and the source that strongroom is given."""

import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

from measuring import MIB, Relay, free_port, say, tree_cpu

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Rows of everything: half of it compresses well, half hardly.
ROW_BYTES = 1000
WORDS = [f"word{n}" for n in range(500)]


class Absent(Exception):
    """The engine cannot be had on this machine."""


def rows(mib, seed=1):
    """Texts of ROW_BYTES that make so many MiB, the same every time."""
    chance = random.Random(seed)
    for _ in range(int(mib * MIB / ROW_BYTES)):
        text = " ".join(chance.choices(WORDS, k=ROW_BYTES // 14))[:ROW_BYTES // 2]
        yield text + chance.randbytes((ROW_BYTES - len(text)) // 2).hex()


def wait(what, ready, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            sys.exit(f"{what} did not start")
        time.sleep(0.1)


class Engine:
    """What all have: a folder, perhaps a server, perhaps a link to it."""

    name = ""
    bare_name = ""
    # Whether the dump can be passed through a slow link.
    has_link = True
    # Settings beside the URL.
    settings = []
    # The most MiB that the server can answer with.
    most = None

    def __init__(self, folder, mib):
        self.folder, self.mib = folder, min(mib, self.most or mib)
        self.port, self.process, self.relay = free_port(), None, None

    def __enter__(self):
        self.folder.mkdir()
        try:
            self.start()
            self.fill()
            if self.has_link:
                self.relay = Relay(self.port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.relay:
            self.relay.close()
        if self.process:
            # The whole group: a launcher's child too.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def cpu(self):
        return tree_cpu(self.process.pid) if self.process else 0

    def serve(self, argv, **how):
        with open(self.folder / "server.log", "wb") as log:
            self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, start_new_session=True, **how)

    def at(self, slow):
        return self.relay.port if slow else self.port

    def start(self):
        pass

    def environment(self):
        return {}


class MariaDb(Engine):
    name, bare_name = "MariaDB", "mariadb-dump --single-transaction"

    def start(self):
        server = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
        if not server:
            raise Absent("mariadb-server is not installed")
        prefix = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, "svc")
            prefix = ["runuser", "-u", "svc", "--"]
        subprocess.run([*prefix, "mariadb-install-db", "--no-defaults", f"--datadir={self.folder}/data", "--skip-test-db",
                        "--auth-root-authentication-method=normal"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        self.serve([*prefix, server, "--no-defaults", f"--datadir={self.folder}/data", f"--socket={self.folder}/s",
                    f"--port={self.port}", "--bind-address=127.0.0.1", f"--pid-file={self.folder}/pid",
                    "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
                    "--innodb-buffer-pool-size=512M", "--max-allowed-packet=64M"], cwd="/")
        wait("mariadbd", lambda: self.sql("select 1").returncode == 0)
        self.sql("create database bench; create user bench@'127.0.0.1'; grant all on *.* to bench@'127.0.0.1'")

    def sql(self, text, check=False):
        return subprocess.run(["mariadb", "--no-defaults", f"--socket={self.folder}/s", "--user=root"], input=text,
                              text=True, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fill(self):
        statements = ["use bench; create table t (id int primary key auto_increment, a varchar(1100)); begin;"]
        values = [f"('{text}')" for text in rows(self.mib)]
        for at in range(0, len(values), 500):
            statements.append(f"insert into t (a) values {','.join(values[at:at + 500])};")
        statements.append("commit; analyze table t;")
        self.sql("\n".join(statements), check=True)

    def bare(self, slow):
        return ["mariadb-dump", "--no-defaults", "--host=127.0.0.1", f"--port={self.at(slow)}", "--user=bench",
                "--single-transaction", "--quick", "--routines", "--events", "--triggers", "bench"]

    def source(self, slow):
        return f"mysql://bench@127.0.0.1:{self.at(slow)}/bench"


class MongoDb(Engine):
    name, bare_name = "MongoDB", "documents read in one thread"
    settings = ["--set", "consistency=none"]
    READER = """
import pymongo, sys
server = pymongo.MongoClient(f"mongodb://127.0.0.1:{sys.argv[1]}/", directConnection=True)
for name in server.bench.list_collection_names():
    for batch in server.bench[name].find_raw_batches():
        pass
"""
    FILLER = """
import pymongo, sys
sys.path.insert(0, sys.argv[2])
from engines import rows
table = pymongo.MongoClient(f"mongodb://127.0.0.1:{sys.argv[1]}/", directConnection=True).bench.t
batch = []
for number, text in enumerate(rows(float(sys.argv[3]))):
    batch.append({"_id": number, "a": text, "n": [number, number / 7, {"deep": True}]})
    if len(batch) == 1000:
        table.insert_many(batch)
        batch = []
if batch:
    table.insert_many(batch)
"""

    def start(self):
        python = os.environ.get("STRONGROOM_TEST_PYTHON")
        if not python:
            raise Absent("STRONGROOM_TEST_PYTHON is not set: run it through scripts/with-servers, or set it to "
                         "a Python that has secantusdb and pymongo")
        self.python = python
        server = pathlib.Path(python).parent / "secantusd-py"
        if not server.exists():
            raise Absent(f"{server} is missing")
        self.serve([server, "--host", "127.0.0.1", "--port", self.port, "--storage-path", self.folder / "data",
                    "--cache-size", "512M", "--log-level", "ERROR"])
        probe = "import pymongo, sys; pymongo.MongoClient(f'mongodb://127.0.0.1:{sys.argv[1]}/', " \
                "serverSelectionTimeoutMS=1000).admin.command('ping')"
        wait("secantusd", lambda: subprocess.run([python, "-c", probe, str(self.port)], stderr=subprocess.DEVNULL)
             .returncode == 0)

    def fill(self):
        subprocess.run([self.python, "-B", "-c", self.FILLER, str(self.port), str(pathlib.Path(__file__).parent),
                        str(self.mib)], check=True)

    def bare(self, slow):
        return [self.python, "-c", self.READER, self.at(slow)]

    def source(self, slow):
        return f"mongodb://127.0.0.1:{self.at(slow)}/bench?directConnection=true"


class Redis(Engine):
    name, bare_name = "Redis", "redis-cli --rdb -"

    def start(self):
        if not shutil.which("redis-server"):
            raise Absent("redis-server is not installed")
        self.serve(["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
                    "--rdbcompression", "no", "--repl-diskless-sync-delay", "0"])
        wait("redis-server", lambda: b"PONG" in subprocess.run(
            ["redis-cli", "-p", str(self.port), "ping"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)

    def fill(self):
        def bulk(*words):
            return f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)

        commands = "".join(bulk("SET", f"key:{number}", text) for number, text in enumerate(rows(self.mib)))
        subprocess.run(["redis-cli", "-p", str(self.port), "--pipe"], input=commands.encode(), check=True,
                       stdout=subprocess.DEVNULL)

    def bare(self, slow):
        return ["redis-cli", "-p", self.at(slow), "--rdb", "-"]

    def source(self, slow):
        return f"redis://127.0.0.1:{self.at(slow)}"


class Firestore(Engine):
    name, bare_name = "Firestore (emulator)", "one query, read and not parsed"
    most = 32
    READER = """
import http.client, sys
link = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
link.request("POST", "/v1/projects/bench/databases/(default)/documents:runQuery",
             '{"structuredQuery":{"from":[{"collectionId":"t"}]}}',
             {"Authorization": "Bearer owner", "Content-Type": "application/json"})
answer = link.getresponse()
assert answer.status == 200, answer.read()
while answer.read(1 << 20):
    pass
"""

    def start(self):
        jar = subprocess.run(["bash", "-c", ". \"$1/scripts/lib.sh\"; . \"$1/scripts/servers.d/firestore.sh\"; firestore_jar",
                              "bash", str(ROOT)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
        if not jar or not shutil.which("java"):
            raise Absent("Google's Firestore emulator is not on this machine")
        self.serve(["java", "-Duser.language=en", "-Xmx1g", "-cp", jar,
                    "com.google.cloud.datastore.emulator.firestore.CloudFirestore", "start", "--host=127.0.0.1",
                    f"--port={self.port}"])
        wait("the Firestore emulator", lambda: self.ask(":listCollectionIds", {}) is not None)

    def ask(self, method, body):
        link = http.client.HTTPConnection("127.0.0.1", self.port)
        link.request("POST", f"/v1/projects/bench/databases/(default)/documents{method}", json.dumps(body),
                     {"Authorization": "Bearer owner", "Content-Type": "application/json"})
        answer = link.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise OSError(said.decode())
        return json.loads(said)

    def fill(self):
        place, writes = "projects/bench/databases/(default)/documents/t/", []
        for number, text in enumerate(rows(self.mib)):
            writes.append({"update": {"name": f"{place}d{number}", "fields": {
                "a": {"stringValue": text}, "n": {"integerValue": str(number)}}}})
            if len(writes) == 400:
                self.ask(":batchWrite", {"writes": writes})
                writes = []
        if writes:
            self.ask(":batchWrite", {"writes": writes})

    def bare(self, slow):
        return [sys.executable, "-c", self.READER, self.at(slow)]

    def source(self, slow):
        return f"firestore://bench?emulator=127.0.0.1:{self.at(slow)}"


class Files(Engine):
    name, bare_name, has_link = "files", "tar c", False

    def fill(self):
        tree = self.folder / "tree"
        for number, text in enumerate(rows(self.mib)):
            folder = tree / str(number // 2000)
            if number % 2000 == 0:
                folder.mkdir(parents=True)
            # 20 rows a file.
            with open(folder / f"{number % 2000 // 20}.txt", "a", encoding="utf-8") as out:
                out.write(text + "\n")

    def bare(self, slow):
        # Through a pipe: tar reads no file when it sees that its output is /dev/null.
        return ["bash", "-c", 'tar c -C "$1" tree | cat', "bash", self.folder]

    def source(self, slow):
        return f"files:{self.folder}/tree"


class Sqlite(Engine):
    name, bare_name, has_link = "SQLite", "sqlite3 .dump", False

    def fill(self):
        db = sqlite3.connect(self.folder / "bench.db")
        db.execute("pragma journal_mode = wal")
        db.execute("create table t (id integer primary key, a text)")
        db.executemany("insert into t (a) values (?)", ((text,) for text in rows(self.mib)))
        db.commit()
        db.close()

    def bare(self, slow):
        return ["sqlite3", self.folder / "bench.db", ".dump"]

    def source(self, slow):
        return f"sqlite:{self.folder}/bench.db"


ENGINES = [MariaDb, MongoDb, Redis, Firestore, Files, Sqlite]


def named(word):
    """The engines whose names hold this word; all without one."""
    return [engine for engine in ENGINES if not word or word.lower() in engine.name.lower()]


def tell_absent(engine, why):
    say(f"{engine.name}: not measured: {why}")
