# The kernel activates stores that usnap filled to the last chunk. $STORES lists them as
# name:origin:start:sectors:chunk_sectors, all on one disk, $COWS; origins by the names of variables.
for store in $STORES; do
    IFS=: read -r name origin start sectors chunk_sectors <<< "$store"
    echo "0 $sectors linear $COWS $start" | dmsetup create --noudevsync piece
    for mode in P PO; do
        echo "0 $(blockdev --getsz "${!origin}") snapshot ${!origin} $(dm piece) $mode $chunk_sectors" |
            dmsetup create --noudevsync store
        echo "$name.$mode.status $(dmsetup status store | cut -d' ' -f4-)"
        echo "$name.$mode.sha256 $(sha256sum < "$(dm store)" | cut -d' ' -f1)"
        dmsetup remove --noudevsync store
    done
    dmsetup remove --noudevsync piece
done
echo "done yes"
