# Shared by the scripts in this folder: source it, don't run it.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Tools and wheels that take long to fetch or build. Safe to delete at any time.
cache=${STRONGROOM_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/strongroom-test}
mkdir -p "$cache"
# A Python environment for each state of the requirements: one in use is never replaced.
# shellcheck disable=SC2034 # used by those that source this
venv=$cache/venv-$(sha256sum "$root/scripts/requirements.txt" | cut -c 1-12)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# retry SECONDS CMD...: until CMD succeeds, or fail showing what it last said.
retry() {
    local end=$((SECONDS + $1)) said
    shift
    until said=$("$@" 2>&1); do
        ((SECONDS < end)) || { say "gave up on: $1: $said"; return 1; }
        sleep 0.2
    done
}

# cargo_tool BINARY CRATE VERSION [ARGS...]: prints the path of a program from
# crates.io: the one on PATH, the one in the cache, or one built now.
cargo_tool() {
    local binary=$1 crate=$2 version=$3
    shift 3
    if [[ ! -x $cache/bin/$binary ]]; then
        if command -v "$binary"; then return; fi
        say "building $crate $version, once"
        # Its own target folder: the workspace's must not be mixed with foreign
        # lock files, and this one is of no use after the install.
        local target
        target=$(mktemp -d)
        # From the root folder of the workspace, so that its pinned toolchain is used.
        (cd "$root" && CARGO_TARGET_DIR=$target CARGO_PROFILE_RELEASE_LTO=false \
            cargo install --quiet --locked --version "$version" --root "$cache" "$@" "$crate") >&2 ||
            { rm -rf "$target"; die "could not build $crate $version"; }
        rm -rf "$target"
    fi
    echo "$cache/bin/$binary"
}
