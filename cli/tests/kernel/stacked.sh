# A stack of snapshots as the kernel serves it: $A over $ORIGIN, $B over that device, $C over that one.
# $ORIGIN, $A, $B were written to by usnap, and $C is written to here.
stack() { # name below cow chunk_sectors
    echo "0 $(blockdev --getsz "$2") snapshot $2 $3 P $4" | dmsetup create --noudevsync "$1"
}

stack a "$ORIGIN" "$A" 8
stack b "$(dm a)" "$B" 128
stack c "$(dm b)" "$C" 32
for name in a b c; do
    echo "$name.before $(sha256sum < "$(dm $name)" | cut -d' ' -f1)"
done
for place in 3 5000 5001 9000 30001; do
    dd if="$MORE" of="$(dm c)" bs=512 count=77 seek=$place conv=notrunc status=none
done
sync
echo "c.after $(sha256sum < "$(dm c)" | cut -d' ' -f1)"
for name in c b a; do
    dmsetup remove --noudevsync $name
done
echo "done yes"
