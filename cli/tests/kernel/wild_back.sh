# Back from usnap: the kernel activates the stores again, $STORES lists them as name:origin:mode.
for store in $STORES; do
    IFS=: read -r name origin mode <<< "$store"
    base=$(losetup -f -r --show "$origin")
    cow=$(losetup -f --show "$name.cow")
    echo "0 $(blockdev --getsz "$base") snapshot $base $cow $mode 8" | dmsetup create --noudevsync store
    echo "$name.status $(dmsetup status store | cut -d' ' -f4-)"
    echo "$name.sha256 $(sha256sum < "$(dm store)" | cut -d' ' -f1)"
    dmsetup remove --noudevsync store
    losetup -d "$cow"
    losetup -d "$base"
done
echo "done yes"
