# The kernel activates stores that usnap wrote. $STORES lists them as name:origin:cow:chunk_sectors,
# devices by the names of variables; those in $CONTINUED get more writes, from $MORE.
activate() { # name origin cow chunk_sectors mode
    echo "0 $(blockdev --getsz "$2") snapshot $2 $3 $5 $4" | dmsetup create --noudevsync store
    echo "$1.$5.status $(dmsetup status store | cut -d' ' -f4-)"
    echo "$1.$5.sha256 $(sha256sum < "$(dm store)" | cut -d' ' -f1)"
}

for store in $STORES; do
    IFS=: read -r name origin cow chunk_sectors <<< "$store"
    for mode in P PO; do
        activate "$name" "${!origin}" "${!cow}" "$chunk_sectors" $mode
        dmsetup remove --noudevsync store
    done
    case " $CONTINUED " in *" $name "*) ;; *) continue ;; esac
    echo "0 $(blockdev --getsz "${!origin}") snapshot ${!origin} ${!cow} P $chunk_sectors" |
        dmsetup create --noudevsync store
    # Whole chunks, parts of chunks, and chunks that usnap has written before.
    for place in 3 400 401 9000 41001; do
        dd if="$MORE" of="$(dm store)" bs=512 count=77 seek=$place conv=notrunc status=none
    done
    dd if="$MORE" of="$(dm store)" bs=64k count=40 seek=100 oflag=direct conv=notrunc status=none
    sync
    echo "$name.continued.status $(dmsetup status store | cut -d' ' -f4-)"
    echo "$name.continued.sha256 $(sha256sum < "$(dm store)" | cut -d' ' -f1)"
    dmsetup remove --noudevsync store
done
echo "done yes"
