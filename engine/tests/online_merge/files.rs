//! On files: who else may use them meanwhile, and what the record says before, during and after.

use std::path::Path;
use std::sync::Arc;

use usnap_engine::device::BlockDevice;
use usnap_engine::merge::{Merge, MergeOptions, OnlineMerge, OnlineOptions};
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{CreateOptions, create};
use usnap_engine::{ErrorKind, Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;

const LEN: usize = 300_000;

fn serve(cow: &Path, origin: &Path) -> usnap_engine::Result<(OnlineMerge, Vec<String>)> {
    let (merge, notes) = Merge::open(cow, origin, &MergeOptions::default())?;
    let options = OnlineOptions {
        batch_bytes: 16 << 10,
        ..OnlineOptions::default()
    };
    Ok((merge.serve(&options)?, notes))
}

fn content(device: &dyn BlockDevice) -> Vec<u8> {
    let mut content = vec![0; LEN];
    device.read_at(&mut content, 0).unwrap();
    content
}

#[test]
fn the_record_says_that_the_origin_changes_until_the_server_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cow) = (dir.path().join("origin"), dir.path().join("cow"));
    std::fs::write(&path, vec![7; LEN]).unwrap();
    let options = CreateOptions {
        size_bytes: 1 << 20,
        chunk_size: ChunkSize::default(),
        label: "kept".to_owned(),
        origin: None,
        identity: true,
    };
    create(&cow, &options).unwrap();
    let open = || {
        let origin = Arc::new(Origin::open(&path)?);
        Snapshot::open(&origin, &cow, &SnapshotOptions::default())
    };
    let (snapshot, _) = open().unwrap();
    snapshot.write_at(&[1; 100_000], 50_000).unwrap();
    snapshot.close().unwrap();
    let mut model = content(&snapshot);
    drop(snapshot);

    let (online, _) = serve(&cow, &path).unwrap();
    for refused in [open().err(), serve(&cow, &path).err()] {
        assert_eq!(refused.unwrap().kind(), ErrorKind::InUse);
    }
    let status = usnap_engine::dump::status(&cow).unwrap();
    assert!(status.origin_changing && status.label == "kept");
    assert!(online.merge_one_batch().unwrap());
    online.write_at(&[2; 70_000], 20_000).unwrap();
    model[20_000..90_000].fill(2);
    // Killed: nothing was flushed, no word was said.
    drop(online);

    // A plain server shows the same over the origin as it is, and says what it could not compare.
    let (snapshot, notes) = open().unwrap();
    assert!(content(&snapshot) == model);
    let what = "only its size was compared";
    assert!(notes.iter().any(|note| note.contains(what)), "{notes:?}");
    snapshot.close().unwrap();
    drop(snapshot);

    // Told to stop, half-way: the record knows the origin as it is now.
    let (online, notes) = serve(&cow, &path).unwrap();
    assert!(notes.iter().any(|note| note.contains(what)), "{notes:?}");
    assert!(online.merge_one_batch().unwrap());
    online.write_at(&[3; 10], 299_000).unwrap();
    model[299_000..299_010].fill(3);
    online.close().unwrap();
    drop(online);
    let (snapshot, notes) = open().unwrap();
    assert!(content(&snapshot) == model);
    assert_eq!(notes, [""; 0]);
    assert!(snapshot.report().exceptions.committed > 0);
    snapshot.close().unwrap();
    drop(snapshot);

    // To the end, and on for a while.
    let (online, _) = serve(&cow, &path).unwrap();
    online.run();
    online.write_at(&[4; 10], 0).unwrap();
    model[..10].fill(4);
    assert!(content(&online) == model);
    assert!(usnap_engine::dump::status(&cow).unwrap().origin_changing);
    online.close().unwrap();
    drop(online);
    assert!(std::fs::read(&path).unwrap() == model);
    let (snapshot, notes) = open().unwrap();
    assert_eq!(notes, [""; 0]);
    assert_eq!(snapshot.report().exceptions.committed, 0);
    assert_eq!(snapshot.report().label, "kept");
}
