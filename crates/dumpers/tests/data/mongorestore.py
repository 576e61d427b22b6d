"""Stands in for mongorestore in tests, where that cannot be had: collections and documents, as they come.

Takes --config=FILE, --archive from standard input, pairs of --nsFrom and --nsTo, --drop. Nothing of an
archive is held back, as by the real one, so that a restore that fails leaves something behind.
"""

import json
import struct
import sys

import bson.raw_bson
import pymongo

if "--version" in sys.argv:
    print("mongorestore version: 100.14.0\ngit version: none")
    sys.exit()

given = [tuple(argument.removeprefix("--").partition("=")[::2]) for argument in sys.argv[1:]]
known = {"config", "archive", "stopOnError", "bypassDocumentValidation", "numParallelCollections", "drop", "nsFrom", "nsTo"}
unknown = [name for name, _ in given if name not in known]
if unknown:
    sys.exit(f"error parsing command line options: unknown option {unknown}")
options = dict(given)
with open(options["config"]) as file:
    config = dict(line.rstrip("\n").split(": ", 1) for line in file)
config = {name: json.loads(value) for name, value in config.items()}
server = pymongo.MongoClient(config["uri"].replace("@", f":{config['password']}@", 1))


def literal(pattern):
    return pattern.replace("\\*", "*").replace("\\$", "$").replace("\\\\", "\\")


renames = list(zip(*([value for name, value in given if name == which] for which in ("nsFrom", "nsTo"))))


def renamed(name):
    for before, after in renames:
        if before.endswith(".*") and not before.endswith("\\*"):
            if name.startswith(literal(before[:-1])):
                return literal(after[:-1]) + name.removeprefix(literal(before[:-1]))
        elif name == literal(before):
            return literal(after)
    return name


def collection(header):
    db, _, name = renamed(f"{header['db']}.{header['collection']}").partition(".")
    return server[db][name]


def document():
    head = sys.stdin.buffer.read(4)
    if head == b"\xff\xff\xff\xff" or not head:
        return None
    rest = sys.stdin.buffer.read(struct.unpack("<i", head)[0] - 4)
    return bson.raw_bson.RawBSONDocument(head + rest)


assert sys.stdin.buffer.read(4) == b"\x6d\xe2\x99\x81"
document()
count = 0
while (entry := document()) is not None:
    if "drop" in options:
        collection(entry).drop()
    collection(entry).database.create_collection(collection(entry).name)
while (header := document()) is not None:
    while (one := document()) is not None:
        collection(header).insert_one(one)
        count += 1
print(f"{count} document(s) restored successfully. 0 document(s) failed to restore.", file=sys.stderr)
