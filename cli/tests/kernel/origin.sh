# The kernel's snapshot-origin plays a history, a request at a time. $STORES lists the snapshots as
# name:cow:chunk_sectors, $HISTORY is a file of lines: device, bytes, from in $DATA, to.
sectors=$(blockdev --getsz "$ORIGIN")
for store in $STORES; do
    IFS=: read -r name cow chunk_sectors <<< "$store"
    echo "0 $sectors snapshot $ORIGIN ${!cow} P $chunk_sectors" |
        dmsetup create --noudevsync "$name"
done
# Last: how large its writes may be depends on the snapshots that are there by now.
echo "0 $sectors snapshot-origin $ORIGIN" | dmsetup create --noudevsync origin
declare -A device
for name in origin $(for store in $STORES; do echo "${store%%:*}"; done); do
    device[$name]=$(dm "$name")
done
cp "$DATA" /run/data
while read -r name bytes from to; do
    dd if=/run/data of="${device[$name]}" bs="$bytes" count=1 skip="$from" seek="$to" \
        iflag=fullblock,skip_bytes oflag=direct,seek_bytes conv=notrunc status=none
done < "$HISTORY"
for name in "${!device[@]}"; do
    content=$(dd if="${device[$name]}" iflag=direct bs=1M status=none | sha256sum)
    echo "$name.sha256 $(echo "$content" | cut -d' ' -f1)"
    echo "$name.status $(dmsetup status "$name" | cut -d' ' -f4-)"
done
dmsetup remove --noudevsync origin
for store in $STORES; do
    dmsetup remove --noudevsync "${store%%:*}"
done
echo "done yes"
