# dm-snapshot reads $COUNT stores that lie behind each other on $STORES, $SECTORS each.
for index in $(seq 0 $((COUNT - 1))); do
    echo "0 $SECTORS linear $STORES $((index * SECTORS))" | dmsetup create --noudevsync cow
    chunk_sectors=$(od -An -tu4 -j12 -N4 "$(dm cow)" | tr -d ' ')
    echo "0 $(blockdev --getsz "$ORIGIN") snapshot $ORIGIN $(dm cow) P $chunk_sectors" |
        dmsetup create --noudevsync store
    echo "store.$index $(sha256sum < "$(dm store)" | cut -d' ' -f1)"
    dmsetup status store | grep -q Invalid && { echo "store $index is invalid"; exit 1; }
    dmsetup remove --noudevsync store
    dmsetup remove --noudevsync --retry cow
done
echo "done yes"
