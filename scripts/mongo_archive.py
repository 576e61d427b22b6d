#!/usr/bin/env python3
"""Reads a mongodump archive with nothing but Python's standard library.

    mongo_archive.py FILE            one line for each collection: documents, bytes, blocks, SHA-256 of the
                                     documents sorted, type, and metadata
    mongo_archive.py FILE DB.NAME    the documents of a collection to standard output, as BSON back to back

Fails where the archive is not whole: a missing end, a wrong checksum, bytes that are too many.
"""

import hashlib
import json
import struct
import sys

MAGIC, TERMINATOR = b"\x6d\xe2\x99\x81", b"\xff\xff\xff\xff"
TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0xC96C5795D7870F42 if byte & 1 else 0)
    TABLE.append(byte)


def crc64(data, crc):
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc


def fields(document):
    """The elements that headers and entries have: text, bool, int32, int64."""
    found, at = {}, 4
    while document[at]:
        kind = document[at]
        end = document.index(0, at + 1)
        name, at = document[at + 1 : end].decode(), end + 1
        if kind == 2:
            size = struct.unpack_from("<i", document, at)[0]
            found[name] = document[at + 4 : at + 3 + size].decode()
            at += 4 + size
        elif kind in (8, 16, 18):
            layout = {8: "<?", 16: "<i", 18: "<q"}[kind]
            found[name] = struct.unpack_from(layout, document, at)[0]
            at += struct.calcsize(layout)
        else:
            sys.exit(f"an element of type {kind} in a header")
    return found


class Archive:
    def __init__(self, file):
        self.file = file

    def document(self):
        """The next document, or None at a terminator."""
        head = self.file.read(4)
        if head == TERMINATOR:
            return None
        if len(head) < 4:
            sys.exit("the archive is cut")
        size = struct.unpack("<i", head)[0]
        if not 5 <= size <= 64 << 20:
            sys.exit(f"a document of {size} bytes")
        rest = self.file.read(size - 4)
        if len(rest) < size - 4 or rest[-1]:
            sys.exit("the archive is cut, or holds what is no document")
        return head + rest

    def collections(self):
        if self.file.read(4) != MAGIC:
            sys.exit("not a mongodump archive")
        if fields(self.document())["version"] != "0.1":
            sys.exit("another version of the format")
        found = {}
        while (entry := self.document()) is not None:
            entry = fields(entry)
            name = f"{entry['db']}.{entry['collection']}" if entry["db"] else entry["collection"]
            found[name] = {"entry": entry, "documents": [], "crc": (1 << 64) - 1, "ended": False, "blocks": 0}
        while (start := self.file.read(4)) != b"":
            self.file.seek(-len(start), 1)
            header = fields(self.document())
            short = header["collection"].removeprefix("system.buckets.")
            name = f"{header['db']}.{header['collection']}" if header["db"] else header["collection"]
            one = found.get(name) or found[f"{header['db']}.{short}"]
            if one["ended"]:
                sys.exit(f"{name} goes on after its end")
            one["blocks"] += not header["EOF"]
            while (document := self.document()) is not None:
                one["documents"].append(document)
                one["crc"] = crc64(document, one["crc"])
            if header["EOF"]:
                one["ended"] = True
                if one["crc"] ^ (1 << 64) - 1 != header["CRC"] % (1 << 64):
                    sys.exit(f"the checksum of {name} is another")
        for name, one in found.items():
            if not one["ended"]:
                sys.exit(f"the end of {name} is missing")
        return found


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        found = Archive(file).collections()
    if len(sys.argv) == 3:
        sys.stdout.buffer.write(b"".join(found[sys.argv[2]]["documents"]))
        return
    for name, one in sorted(found.items()):
        digest = hashlib.sha256(b"".join(sorted(one["documents"]))).hexdigest()
        sizes = sum(map(len, one["documents"]))
        metadata = one["entry"]["metadata"]
        if metadata:
            json.loads(metadata)
        print(name, len(one["documents"]), sizes, one["blocks"], digest, one["entry"]["type"], metadata, sep="\t")


if __name__ == "__main__":
    main()
