//! Merging 10,000 chunks of 4 KiB into an origin, both in memory: what there is to it beside the disk.

use criterion::{BatchSize, Criterion, Throughput};
use usnap_engine::merge::{MergeEnd, MergeOptions, Watch, merge_device};

use crate::exception_counts;
use crate::stores::{CHUNK, Order, cow_bytes, filled, write_store};

pub(crate) fn all(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge");
    group.sample_size(10);
    for order in Order::ALL {
        for exceptions in exception_counts(&[10_000]) {
            let origin_bytes = order.chunk_count(exceptions) * CHUNK;
            let origin = filled(origin_bytes);
            let cow = filled(cow_bytes(origin_bytes));
            let old_chunks = order.old_chunks(exceptions);
            group.throughput(Throughput::Bytes(exceptions * CHUNK));
            group.bench_function(order.name(), |b| {
                b.iter_batched(
                    || write_store(&cow, &old_chunks),
                    |()| {
                        let mut watch = Watch {
                            is_stopped: &|| false,
                            merged: &mut |_| {},
                        };
                        let end = merge_device(&cow, &origin, &MergeOptions::default(), &mut watch);
                        assert_eq!(end.expect("nothing fails"), MergeEnd::Done);
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}
