# dm-snapshot with discard_zeroes_cow discards in stores that usnap wrote. $STORES lists them as
# name:cow:chunk_sectors, devices by the names of variables; $RANGES has sector+sectors.
for store in $STORES; do
    IFS=: read -r name cow chunk_sectors <<< "$store"
    echo "0 $(blockdev --getsz "$ORIGIN") snapshot $ORIGIN ${!cow} P $chunk_sectors 1 discard_zeroes_cow" |
        dmsetup create --noudevsync store
    for range in $RANGES; do
        blkdiscard --offset $((${range%+*} * 512)) --length $((${range#*+} * 512)) "$(dm store)"
    done
    sync
    echo 3 > /proc/sys/vm/drop_caches
    echo "$name.status $(dmsetup status store | cut -d' ' -f4-)"
    echo "$name.sha256 $(sha256sum < "$(dm store)" | cut -d' ' -f1)"
    dmsetup remove --noudevsync store
done
echo "done yes"
