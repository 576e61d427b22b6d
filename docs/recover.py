#!/usr/bin/env python3
"""Opens a Strongroom envelope without Strongroom: docs/format.md in one page.

    recover.py FILE OUT [-i key.pem] [--passphrase-file F] [--secret-key-file F]

Needs the packages `cryptography`, `zstandard` and, for passphrases by Argon2id, `argon2-cffi`. An encrypted
key.pem is opened with the passphrase in F. OUT gets its name only after everything was verified.
"""
import argparse, base64, hashlib, hmac, json, os, struct, sys, unicodedata
import zstandard
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

def fail(why):
    sys.exit(f"recover: {why}")

def take(file, count):
    data = file.read(count)
    return data if len(data) == count else fail("truncated: the file ends too early")

def hkdf(key, salt, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(key)

def no_duplicates(pairs):
    return dict(pairs) if len(dict(pairs)) == len(pairs) else fail("malformed header: a member stands twice")

def derive(stanza, passphrase):
    salt, m, t, p = base64.b64decode(stanza["salt"]), *(stanza.get(name, 0) for name in ("m_kib", "t", "p"))
    if stanza["kdf"] == "pbkdf2-hmac-sha256" and 600_000 <= stanza["iterations"] <= 10_000_000:
        return hashlib.pbkdf2_hmac("sha256", passphrase, salt, stanza["iterations"])
    if stanza["kdf"] != "argon2id" or not (65536 <= m <= 1 << 20 and 1 <= t <= 10 and 1 <= p <= 4 and m * t <= 4 << 20):
        fail("malformed header: work for a passphrase out of bounds")
    from argon2.low_level import Type, hash_secret_raw
    return hash_secret_raw(passphrase, salt, time_cost=t, memory_cost=m, parallelism=p, hash_len=32, type=Type.ID)

def candidates(header, rsa_key, passphrase, secret_key):
    """Every file key that the given keys unwrap; the header's MAC decides."""
    for stanza in header["recipients"]:
        kind, wrapped = stanza["type"], base64.b64decode(stanza.get("wrapped_key", ""))
        try:
            if kind == "none":
                yield wrapped
            elif kind == "rsa-oaep-sha256" and rsa_key and len(wrapped) * 8 == rsa_key.key_size:
                yield rsa_key.decrypt(wrapped, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
            elif (kind == "passphrase" and passphrase) or (kind == "secret-key" and secret_key):
                key = derive(stanza, passphrase) if kind == "passphrase" else secret_key
                kek = hkdf(key, base64.b64decode(stanza["salt"]), b"strongroom/v1 wrap " + kind.encode())
                yield AESGCM(kek).decrypt(base64.b64decode(stanza["nonce"]), wrapped, base64.b64decode(header["salt"]))
        except Exception:  # a stanza for another key
            continue

def recover(file, out, *keys):
    prefix = take(file, 14)
    magic, version, header_len = struct.unpack(">8sHI", prefix)
    if magic != b"STRONGRM" or version != 1 or header_len > 1 << 20:
        fail("not a Strongroom envelope of version 1")
    raw, mac = take(file, header_len), take(file, 32)
    header = json.loads(raw, object_pairs_hook=no_duplicates)
    salt, block_len = base64.b64decode(header["salt"]), header["block_len"]
    if header["suite"] != "A256GCM-HKDF-SHA256" or block_len not in [1 << n for n in range(16, 25)]:
        fail("malformed header: unknown suite or block length")
    for file_key in candidates(header, *keys):
        expected = hmac.digest(hkdf(file_key, salt, b"strongroom/v1 header"), prefix + raw, "sha256")
        if len(file_key) == 32 and hmac.compare_digest(expected, mac):
            break
    else:
        fail("no key fits, or the header was altered")
    if any(stanza["type"] == "none" for stanza in header["recipients"]):
        print("recover: warning: the file is NOT encrypted: everyone who can read it can read the data", file=sys.stderr)
    cipher, source, lengths = AESGCM(hkdf(file_key, salt, b"strongroom/v1 payload")), hashlib.sha256(), []
    offset, source_len, trailer = 14 + header_len + 32, 0, 0
    while True:
        (length,) = struct.unpack(">I", take(file, 4))
        trailer, length, count = length >> 31, length & 0x7FFFFFFF, len(lengths)
        if length > (64 << 20 if trailer else block_len + 17) or (not trailer and (length < 18 or source_len % block_len)):
            fail(f"block {count}: impossible length")
        try:
            plain = cipher.decrypt(count.to_bytes(11, "big") + bytes([trailer]), take(file, length), None)
        except Exception:
            fail("the trailer is not authentic" if trailer else f"block {count} is not authentic")
        if trailer:
            break
        body = plain[1:]
        if plain[0] == 1 and 0 < zstandard.frame_content_size(body) <= block_len:
            body = zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
        elif plain[0] != 0 or len(body) > block_len:
            fail(f"block {count}: unknown codec or impossible size")
        out.write(body)
        source.update(body)
        source_len, offset = source_len + len(body), offset + 4 + length
        lengths.append(length)
    (json_len,) = struct.unpack_from(">I", plain)
    facts = json.loads(plain[4 : 4 + json_len])
    if plain[4 + json_len :] != b"".join(struct.pack(">I", n) for n in lengths):
        fail("trailer: the index is not that of the blocks")
    if (facts["source_len"], facts["source_sha256"]) != (source_len, source.hexdigest()):
        fail("trailer: length or digest of the source differ")
    if take(file, 20) != struct.pack(">QQ4s", offset, len(lengths), b"SRND") or file.read(1):
        fail("the footer is wrong, or something stands behind it")
    return facts

def read(path):
    return open(path, "rb").read() if path else b""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for names in (("file",), ("out",), ("-i", "--identity"), ("--passphrase-file",), ("--secret-key-file",)):
        parser.add_argument(*names)
    args = parser.parse_args()
    text = read(args.passphrase_file).decode()
    text = text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
    words, pem = unicodedata.normalize("NFC", text).encode(), read(args.identity)
    rsa = serialization.load_pem_private_key(pem, words if b"ENCRYPTED" in pem else None) if pem else None
    os.path.lexists(args.out) and fail(f"{args.out} is there already and is not replaced: name a new file")
    with open(args.file, "rb") as file, open(args.out + ".part", "xb") as out:
        facts = recover(file, out, rsa, words, base64.b64decode(read(args.secret_key_file)))
    os.rename(args.out + ".part", args.out)
    print(f"{args.out}: {facts['source_len']} bytes, intact, origin unknown", file=sys.stderr)
