# The kernel's snapshot-merge. $STORES lists stores as name:origin:cow:chunk_sectors:how, devices by
# the names of variables: `whole` merges to the end, `half` until some of it is merged.
for store in $STORES; do
    IFS=: read -r name origin cow chunk_sectors how <<< "$store"
    table="${!origin} ${!cow} P $chunk_sectors"
    sectors=$(blockdev --getsz "${!origin}")
    # What it shows as a snapshot, half-merged by us or not.
    echo "0 $sectors snapshot $table" | dmsetup create --noudevsync shown
    echo "$name.shown $(sha256sum < "$(dm shown)" | cut -d' ' -f1)"
    dmsetup remove --noudevsync shown
    first=
    echo "0 $sectors snapshot-merge $table" | dmsetup create --noudevsync merging
    while true; do
        status=$(dmsetup status merging | cut -d' ' -f4-)
        allocated=${status%%/*} metadata=${status##* }
        first=${first:-$allocated}
        [ "$allocated" != "$metadata" ] || break
        [ "$how" = whole ] || [ "$allocated" = "$first" ] || break
    done
    dmsetup remove --noudevsync merging
    echo "$name.status $status"
done
sync
echo "done yes"
