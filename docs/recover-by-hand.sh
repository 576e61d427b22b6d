#!/bin/bash
# Opens a Strongroom envelope sealed to an RSA key with openssl, zstd and the shell's own tools: section 12 of
# format.md. Tags are not checked; the SHA-256 of the result is compared with the one in the trailer.
#   recover-by-hand.sh FILE PRIVATE-KEY.pem OUT          (openssl asks for the key's passphrase)
set -euo pipefail
if [ $# != 3 ]; then
    echo "usage: recover-by-hand.sh FILE PRIVATE-KEY.pem OUT" >&2
    exit 2
fi
file=$1 key=$2 out=$3
if [ -e "$out" ] || [ -L "$out" ]; then
    echo "$out is there already and is not replaced: name a new file" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 077

bytes() { tail -c +$(($1 + 1)) "$file" | head -c "$2" || true; } # bytes OFFSET COUNT
number() { bytes "$1" "$2" | xxd -p -c 16 | sed 's/^/0x/'; }     # a big-endian number
hex() { xxd -p -c 1000000; }
member() { LC_ALL=C grep -a -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d'"' -f4; }

if [ "$(bytes 0 8)" != STRONGRM ] || [ $(($(number 8 2))) != 1 ]; then
    echo "not an envelope of version 1" >&2
    exit 1
fi
header_len=$(($(number 10 4)))
bytes 14 "$header_len" >"$work/header"
salt=$(member salt <"$work/header" | base64 -d | hex)
stanza=$(grep -o '{"type":"rsa-oaep-sha256"[^}]*}' "$work/header" | head -n 1)
echo "$stanza" | member wrapped_key | base64 -d >"$work/wrapped"
openssl pkeyutl -decrypt -inkey "$key" -in "$work/wrapped" -out "$work/file_key" \
    -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256
derive() {
    openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt hexkey:"$(hex <"$work/file_key")" \
        -kdfopt hexsalt:"$salt" -kdfopt info:"$1" HKDF | tr -d ':\n'
}

# The header's MAC says whether this is the right key for this file.
mac=$(bytes 0 $((14 + header_len)) | openssl dgst -sha256 -mac HMAC -macopt hexkey:"$(derive 'strongroom/v1 header')" -r | cut -d' ' -f1)
[ "$mac" = "$(bytes $((14 + header_len)) 32 | hex)" ] || { echo "wrong key, or the header was altered" >&2; exit 1; }

payload_key=$(derive 'strongroom/v1 payload')
decrypt() { # decrypt OFFSET LENGTH COUNTER KIND: the plaintext of one frame, without its tag
    bytes "$1" $(($2 - 16)) | openssl enc -d -aes-256-ctr -K "$payload_key" -iv "$(printf '%022x%s00000002' "$3" "$4")"
}
: >"$work/out"
offset=$((14 + header_len + 32)) block=0
while length=$(($(number "$offset" 4))) && ((length < 0x80000000)); do
    decrypt $((offset + 4)) "$length" "$block" 00 >"$work/plain"
    case $(head -c 1 "$work/plain" | hex) in
        00) tail -c +2 "$work/plain" >>"$work/out" ;;
        01) tail -c +2 "$work/plain" | zstd -dcq >>"$work/out" ;;
        *) echo "block $block is damaged" >&2; exit 1 ;;
    esac
    offset=$((offset + 4 + length)) block=$((block + 1))
done
decrypt $((offset + 4)) $((length - 0x80000000)) "$block" 01 >"$work/trailer"
expected=$(member source_sha256 <"$work/trailer")
found=$(sha256sum <"$work/out" | cut -d' ' -f1)
[ "$expected" = "$found" ] || { echo "SHA-256 is $found where the trailer says $expected: damaged" >&2; exit 1; }
mv -n "$work/out" "$out"
[ ! -e "$work/out" ] || { echo "$out appeared meanwhile and is not replaced" >&2; exit 1; }
echo "$out: SHA-256 $found, as the trailer says" >&2
