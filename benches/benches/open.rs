//! Opening a store: its metadata read, checked and indexed, from a file in the page cache.

use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use usnap_engine::device::{FileDevice, MemDevice};
use usnap_engine::{Snapshot, SnapshotOptions};
use usnap_test_support::Scratch;

use crate::exception_counts;
use crate::stores::{CHUNK, Order, new_chunk, write_store};

pub(crate) fn all(c: &mut Criterion) {
    // The data of the chunks is a hole, so 10^7 exceptions take 160 MB of memory.
    let shared = Path::new("/dev/shm");
    let temporary = std::env::temp_dir();
    let root = if shared.is_dir() { shared } else { &temporary };
    let scratch = Scratch::new(root, "usnap-open-bench").expect("a folder can be made");
    let mut group = c.benchmark_group("open");
    group.sample_size(10);
    for order in Order::ALL {
        for exceptions in exception_counts(&[10_000, 100_000, 1_000_000, 10_000_000]) {
            let cow = scratch.join("c.cow");
            let file = std::fs::File::create(&cow).expect("a file can be made");
            let cow_bytes = (new_chunk(exceptions) + 2) * CHUNK;
            file.set_len(cow_bytes).expect("a file may have holes");
            let device = FileDevice::open_read_write(&cow).expect("it was just made");
            write_store(&device, &order.old_chunks(exceptions));
            let cow: Arc<FileDevice> = Arc::new(device);
            let origin = MemDevice::new(order.chunk_count(exceptions) * CHUNK);
            let origin = Arc::new(origin);
            let options = SnapshotOptions::default();
            group.throughput(Throughput::Elements(exceptions));
            let id = BenchmarkId::new(order.name(), exceptions);
            group.bench_function(id, |b| {
                b.iter_with_large_drop(|| {
                    let (origin, cow) = (Arc::clone(&origin), Arc::clone(&cow));
                    Snapshot::on_devices(origin, cow, &options).expect("a store that is sound")
                });
            });
        }
    }
    group.finish();
}
