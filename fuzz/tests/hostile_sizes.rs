//! Stores of a few bytes that claim to be enormous: no tool takes memory for what is only claimed.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use usnap_engine::chain::Chain;
use usnap_engine::check::check;
use usnap_engine::device::FileDevice;
use usnap_engine::dump::{DumpForm, DumpWriter, status, walk_device};
use usnap_engine::export::to_path;
use usnap_engine::repair::{Plan, RepairOptions};

const ALLOCATED_MAX_BYTES: u64 = 64 << 20;
const COW_BYTES: u64 = 1 << 40;
const ORIGIN_BYTES: u64 = 4 << 30;

/// The store's first area has this many of them, far apart.
const ENTRIES: u64 = 30;

fn make(path: &Path, chunk_bytes: u64) {
    let file = File::create(path).unwrap();
    file.set_len(COW_BYTES).unwrap();
    let mut header = *b"SnAp\x01\0\0\0\x01\0\0\0\0\0\0\0";
    let sectors = u32::try_from(chunk_bytes / 512).unwrap();
    header[12..].copy_from_slice(&sectors.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    let origin_chunks = ORIGIN_BYTES / chunk_bytes;
    let is_data = |chunk: &u64| chunk % (chunk_bytes / 16 + 1) != 1;
    let mut data_chunks = (0..COW_BYTES / chunk_bytes).rev().filter(is_data);
    for n in 0..ENTRIES.min(origin_chunks) {
        let old = n * (origin_chunks / ENTRIES).max(1);
        let new = data_chunks.next().unwrap();
        let at = chunk_bytes + 16 * n;
        file.write_all_at(&old.to_le_bytes(), at).unwrap();
        file.write_all_at(&new.to_le_bytes(), at + 8).unwrap();
    }
}

fn bounded(what: &str, chunk_bytes: u64, work: impl FnOnce()) {
    let mut work = Some(work);
    let info = allocation_counter::measure(|| work.take().unwrap()());
    let bytes = info.bytes_max;
    println!("{what} in chunks of {chunk_bytes}: {bytes} bytes");
    assert!(
        bytes <= ALLOCATED_MAX_BYTES,
        "{what}, {chunk_bytes}: {bytes}"
    );
}

#[test]
fn no_tool_takes_memory_for_what_is_only_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, cow) = (folder.path().join("origin"), folder.path().join("cow"));
    File::create(&origin)
        .unwrap()
        .set_len(ORIGIN_BYTES)
        .unwrap();
    let mut opened = 0;
    for chunk_bytes in [512, 4096, 1 << 20, 16 << 20, 1 << 30] {
        make(&cow, chunk_bytes);
        bounded("check", chunk_bytes, || drop(check(&cow, Some(&origin))));
        bounded("status", chunk_bytes, || drop(status(&cow)));
        let device = FileDevice::open_read_only(&cow).unwrap();
        bounded("dump", chunk_bytes, || {
            let mut dump = DumpWriter::new(std::io::sink(), DumpForm::Text);
            drop(walk_device(&device, &mut dump));
        });
        bounded("repair", chunk_bytes, || {
            let options = RepairOptions::default();
            drop(Plan::make(&device, &options));
        });
        bounded("export", chunk_bytes, || {
            let Ok((chain, _)) = Chain::open(&origin, &[], &cow, false) else {
                return;
            };
            opened += 1;
            let out = folder.path().join(format!("out-{chunk_bytes}"));
            to_path(&chain, &out, false, &mut |_| ControlFlow::Continue(())).unwrap();
        });
    }
    assert_eq!(opened, 4, "all but the size that is not served");
}
