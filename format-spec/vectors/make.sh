#!/bin/bash
# Makes the vectors anew, each by the commands in its own .sh file, under a real Linux kernel.
#
#   UML_RUN=/path/to/uml-run ./make.sh [NAME]...
#
# UML_RUN boots a kernel with dm-snapshot and runs a script in it:
#   $UML_RUN [--disk FILE]... [--var NAME=VALUE]... GUEST_SCRIPT
# where each --disk is /dev/ubda, /dev/ubdb, ... in that order, the guest's root is this machine's
# root, and the function `dm NAME` prints the path of a mapped device.
#
# NAME.sh sets origin_sectors and cow_sectors and defines `guest`, which runs in the guest. It may
# define `prepare`, which runs before that, here, on the images "$origin" and "$cow".
set -euo pipefail
vectors=$(cd "$(dirname "$0")" && pwd)
export vectors

# sectors TAG FIRST COUNT: what the pattern puts into COUNT sectors from FIRST on (README.md).
sectors() {
    awk -v tag="$1" -v first="$2" -v count="$3" 'BEGIN {
        for (sector = first; sector < first + count; sector++)
            for (line = 0; line < 32; line++) printf "%s %08x\n", tag, sector
    }'
}

# craft ARGUMENT...: writes a store into "$cow" by hand (store.py tells how).
craft() { python3 "$vectors/store.py" craft "$cow" "$@"; }

# snapshot [TARGET] MODE CHUNK: activates the COW device over the origin.
snapshot() {
    local target=snapshot
    case $1 in snapshot*) target=$1; shift ;; esac
    echo "$target $1 $2" >"$work/table"
    dmsetup create --noudevsync snap \
        --table "0 $origin_sectors $target ${lower:-/dev/ubda} /dev/ubdb $1 $2"
}

# put FIRST COUNT [TAG]: one direct write of COUNT sectors of the pattern at sector FIRST.
put() {
    sectors "${3:-write1}" "$1" "$2" >"$work/data"
    dd if="$work/data" of="$(dm snap)" bs="$(($2 * 512))" count=1 seek="$(($1 * 512))" \
        oflag=direct,seek_bytes conv=notrunc status=none
}

# status: what dmsetup prints after the target's name.
status() { dmsetup status snap | cut -d ' ' -f 4-; }

# content: the checksum of the device's content, `none` if it cannot be read.
content() { if [[ $(status) = Invalid ]]; then echo none; else sha256sum <"$(dm snap)" | cut -d ' ' -f 1; fi; }

# take_down: notes what the kernel says of the device and removes it; then what it says of the same
# store activated once more as a plain snapshot, which writes nothing.
take_down() {
    status >"$work/status"
    content >"$work/content"
    dmsetup remove --noudevsync snap
    local chunk
    chunk=$(cut -d ' ' -f 3 "$work/table")
    dmsetup create --noudevsync snap \
        --table "0 $origin_sectors snapshot /dev/ubda /dev/ubdb P $chunk"
    status >"$work/reopened_status"
    content | cmp - "$work/content"
    dmsetup remove --noudevsync snap
}

# In the guest this file is sourced for the functions above, with GUEST set to the vector's name.
if [[ -n ${GUEST-} ]]; then
    source "$vectors/$GUEST.sh"
    uname -r >"$work/kernel"
    dmsetup targets | awk '$1 == "snapshot" { print substr($2, 2) }' >"$work/target"
    guest
    exit
fi

: "${UML_RUN:?a script that runs a guest script under user-mode-linux}"
names=("$@")
if [[ ${#names[@]} = 0 ]]; then
    for script in "$vectors"/*.sh; do
        name=$(basename "$script" .sh)
        [[ $name = make ]] || names+=("$name")
    done
fi
for name in "${names[@]}"; do (
    work=$(mktemp -d /tmp/vectors.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    origin=$work/origin cow=$work/store
    prepare() { :; }
    source "$vectors/$name.sh"
    sectors origin 0 "$origin_sectors" >"$origin"
    truncate -s $((cow_sectors * 512)) "$cow"
    prepare
    "$UML_RUN" --disk "$origin" --disk "$cow" \
        --var GUEST="$name" --var vectors="$vectors" --var work="$work" "$vectors/make.sh"
    if [[ -s $work/lines ]]; then
        cp "$work/lines" "$vectors/$name.lines"
    else
        cp "$cow" "$vectors/$name.store"
        python3 "$vectors/store.py" expect "$work" >"$vectors/$name.expect"
    fi
    echo "$name: made"
); done
