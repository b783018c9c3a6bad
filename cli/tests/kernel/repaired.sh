# The kernel activates stores that usnap has repaired, and fills them up. $STORES lists them as
# name:origin:cow:chunk_sectors, devices by the names of variables; $MORE is what is written.
said() { # name
    echo "$1.status $(dmsetup status store | cut -d' ' -f4-)"
    echo "$1.sha256 $(sha256sum < "$(dm store)" | cut -d' ' -f1)"
}

for store in $STORES; do
    IFS=: read -r name origin cow chunk_sectors <<< "$store"
    sectors=$(blockdev --getsz "${!origin}")
    for mode in P PO; do
        echo "0 $sectors snapshot ${!origin} ${!cow} $mode $chunk_sectors" |
            dmsetup create --noudevsync store
        said "$name.$mode"
        if [ $mode = PO ]; then
            # Chunk by chunk until there is room for no more, or all are written.
            dd if="$MORE" of="$(dm store)" bs=$((512 * chunk_sectors)) \
                count=$((sectors / chunk_sectors)) oflag=direct conv=notrunc status=none \
                2> /dev/null || true
            said "$name.filled"
        fi
        dmsetup remove --noudevsync store
    done
done
echo "done yes"
