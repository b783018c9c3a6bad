# The kernel makes stores and writes into them. $STORES lists them as
# name:origin:cow:chunk_sectors:written_mib, devices by the names of variables.
for store in $STORES; do
    IFS=: read -r name origin cow chunk_sectors written_mib <<< "$store"
    echo "0 $(blockdev --getsz "${!origin}") snapshot ${!origin} ${!cow} P $chunk_sectors" |
        dmsetup create --noudevsync store
    # Parts of chunks first, then whole ones, some of them again.
    fio --name=part --filename="$(dm store)" --rw=randwrite --bsrange=512-32k --bs_unaligned=0 \
        --blockalign=512 --io_size=1m --direct=1 --ioengine=psync --randseed=7 > /run/fio 2>&1 ||
        { cat /run/fio; exit 1; }
    fio --name=whole --filename="$(dm store)" --rw=randwrite --bs=64k --io_size="${written_mib}m" \
        --direct=1 --ioengine=psync --randseed=8 > /run/fio 2>&1 || { cat /run/fio; exit 1; }
    echo "$name.status $(dmsetup status store | cut -d' ' -f4-)"
    echo "$name.sha256 $(sha256sum < "$(dm store)" | cut -d' ' -f1)"
    dmsetup remove --noudevsync store
done
echo "done yes"
