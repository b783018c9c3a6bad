# No store, only status lines: one exception after the other, for the persistent and the transient
# store. Each line: mode, chunk size in sectors, exceptions, device sectors, what the kernel says.
origin_sectors=128 cow_sectors=83
guest() {
    for table in 'P 1 70' 'PO 8 7' 'N 1 70' 'N 8 9'; do
        read -r mode chunk count <<<"$table"
        dd if=/dev/zero of=/dev/ubdb bs=512 count=1 oflag=direct status=none
        snapshot "$mode" "$chunk"
        for ((n = 0; n <= count; n++)); do
            echo "$mode $chunk $n $cow_sectors $(status)" >>"$work/lines"
            ((n == count)) || put $((n * chunk)) "$chunk"
        done
        dmsetup remove --noudevsync snap
    done
}
