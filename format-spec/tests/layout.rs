//! Layout arithmetic against a device that is walked chunk by chunk: capacity for every chunk size
//! from 512 B to 1 MiB and every device of up to 5,000 chunks, everything else around areas too,
//! and properties for numbers of any size.
#![expect(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use usnap_format::{
    AreaIndex, ChunkSize, FIRST_DATA_CHUNK, FormatError, HEADER_CHUNK, Layout, NewChunk, OldChunk,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Header,
    Area(u64),
    /// The n-th data chunk.
    Data(u64),
}

/// What each of the first `chunks` chunks holds, by counting.
fn walk(exceptions_per_area: u64, chunks: usize) -> Vec<Kind> {
    let mut kinds = vec![Kind::Header];
    let (mut area, mut data) = (0, 0);
    while kinds.len() < chunks {
        kinds.push(Kind::Area(area));
        area += 1;
        for _ in 0..exceptions_per_area {
            if kinds.len() < chunks {
                kinds.push(Kind::Data(data));
                data += 1;
            }
        }
    }
    kinds.truncate(chunks);
    kinds
}

/// How many exceptions a careful writer gets onto a device, by doing it: each takes the next data
/// chunk, and the one that fills its area needs the next area to be there.
fn fill(exceptions_per_area: u64, device: &[Kind]) -> u64 {
    let areas = device
        .iter()
        .filter(|kind| matches!(kind, Kind::Area(_)))
        .count() as u64;
    let data = device
        .iter()
        .filter(|kind| matches!(kind, Kind::Data(_)))
        .count() as u64;
    let (mut stored, mut in_area, mut area) = (0, 0, 0);
    while stored < data {
        in_area += 1;
        if in_area == exceptions_per_area {
            area += 1;
            in_area = 0;
        }
        if area >= areas {
            break;
        }
        stored += 1;
    }
    stored
}

/// 512 B to 1 MiB.
fn chunk_sizes() -> impl Iterator<Item = ChunkSize> {
    (9..=20).map(|shift| ChunkSize::from_bytes(1 << shift).expect("a chunk size"))
}

/// Sizes of devices worth trying in chunks: all up to 5,000, and those around areas.
fn device_sizes(layout: Layout) -> Vec<u64> {
    let stride = layout.chunk_size.stride();
    let around = (0..4).flat_map(|area| (area * stride).saturating_sub(2)..area * stride + 5);
    let mut sizes: Vec<u64> = (0..=5_000).chain(around).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

#[test]
fn capacity_is_what_a_writer_gets_onto_the_device() {
    for layout in chunk_sizes().map(Layout::new) {
        let exceptions_per_area = layout.chunk_size.exceptions_per_area();
        let sizes: Vec<u64> = (0..=5_000).collect();
        let device = walk(exceptions_per_area, 5_000);
        for device_chunks in sizes {
            let len = usize::try_from(device_chunks).expect("small");
            let expected = fill(exceptions_per_area, &device[..len]);
            let found = layout.capacity(device_chunks);
            assert_eq!(
                found, expected,
                "{:?}, {device_chunks} chunks",
                layout.chunk_size
            );
        }
    }
}

#[test]
fn capacity_is_the_largest_number_that_fits() {
    for layout in chunk_sizes().map(Layout::new) {
        let mut n = 0;
        for device_chunks in device_sizes(layout) {
            let fits = |n: u64| 2 + n + n / layout.chunk_size.exceptions_per_area();
            while fits(n + 1) <= device_chunks {
                n += 1;
            }
            assert_eq!(
                layout.capacity(device_chunks),
                n,
                "{layout:?}, {device_chunks} chunks"
            );
        }
    }
}

#[test]
fn every_chunk_is_what_a_walk_finds() {
    for layout in chunk_sizes().map(Layout::new) {
        let exceptions_per_area = layout.chunk_size.exceptions_per_area();
        let chunks = usize::try_from(3 * layout.chunk_size.stride() + 3).expect("small");
        let kinds = walk(exceptions_per_area, chunks);
        for (chunk, kind) in (0..).map(NewChunk).zip(&kinds) {
            assert_eq!(layout.is_metadata(chunk), !matches!(kind, Kind::Data(_)));
            match *kind {
                Kind::Header => assert_eq!(chunk, HEADER_CHUNK),
                Kind::Area(area) => {
                    assert_eq!(layout.area_location(AreaIndex(area)), Some(chunk));
                }
                Kind::Data(n) => {
                    assert_eq!(layout.nth_data_chunk(n), Some(chunk));
                    assert_eq!(layout.next_free_after(n), Some(chunk));
                    assert_eq!(
                        layout.chunks_for(n),
                        Some(chunk.0),
                        "the data chunk n is past n"
                    );
                }
            }
        }
        assert_eq!(layout.nth_data_chunk(0), Some(FIRST_DATA_CHUNK));
    }
}

#[test]
fn the_chunk_that_follows_is_the_next_data_chunk_of_a_walk() {
    for layout in chunk_sizes().map(Layout::new) {
        let chunks = usize::try_from(3 * layout.chunk_size.stride() + 3).expect("small");
        let kinds = walk(layout.chunk_size.exceptions_per_area(), chunks);
        let mut following = None;
        for (chunk, kind) in (0..).map(NewChunk).zip(&kinds).rev_by_hand() {
            if following.is_some() {
                assert_eq!(layout.following(chunk), following, "{layout:?}, {chunk}");
                assert_eq!(layout.next_free_after_max(Some(chunk)), following);
            }
            if matches!(kind, Kind::Data(_)) {
                following = Some(chunk);
            }
        }
        assert_eq!(layout.next_free_after_max(None), Some(FIRST_DATA_CHUNK));
    }
}

/// `rev` for iterators that are finite only because they are zipped.
trait RevByHand: Iterator + Sized {
    fn rev_by_hand(self) -> std::iter::Rev<std::vec::IntoIter<Self::Item>> {
        self.collect::<Vec<_>>().into_iter().rev()
    }
}

impl<I: Iterator> RevByHand for I {}

#[test]
fn entries_are_numbered_through_the_areas() {
    for layout in chunk_sizes().map(Layout::new) {
        let mut n = 0;
        for area in (0..3).map(AreaIndex) {
            for index in 0..layout.chunk_size.exceptions_per_area() {
                assert_eq!(layout.entry_position(n), (area, index), "{layout:?}");
                n += 1;
            }
        }
    }
}

#[test]
fn a_writer_that_asks_before_each_exception_stops_at_the_capacity() {
    for layout in chunk_sizes().map(Layout::new) {
        for device_chunks in [
            0, 1, 2, 3, 33, 34, 35, 36, 67, 68, 257, 258, 259, 1029, 1030, 5_000,
        ] {
            let (mut next_free, mut entry) = (FIRST_DATA_CHUNK, 0);
            while layout.can_allocate(next_free, entry, device_chunks) {
                next_free = layout.following(next_free).expect("a next chunk");
                entry += 1;
            }
            assert_eq!(
                entry,
                layout.capacity(device_chunks),
                "{layout:?}, {device_chunks} chunks"
            );
        }
    }
}

/// Both checks by looking at the walked device, for each place that holes can bring about.
#[test]
fn a_writer_with_holes_needs_the_chunk_and_the_next_area() {
    let layout = Layout::new(ChunkSize::from_sectors(1).expect("a chunk size"));
    for device_chunks in 0..110_usize {
        let device = walk(32, device_chunks);
        for entry in 0..100 {
            let area_filled = (entry % 32 == 31).then_some(entry / 32);
            for chunk in 2..120_usize {
                let here = matches!(device.get(chunk), Some(Kind::Data(_)));
                let area_here =
                    area_filled.is_none_or(|area| device.contains(&Kind::Area(area + 1)));
                let next_free = NewChunk(chunk as u64);
                if layout.is_metadata(next_free) {
                    continue;
                }
                assert_eq!(
                    layout.can_allocate(next_free, entry, device_chunks as u64),
                    here && area_here,
                    "chunk {chunk}, entry {entry}, {device_chunks} chunks"
                );
            }
        }
    }
}

#[test]
fn poisoned_sizes_are_those_where_the_kernels_test_and_ours_differ() {
    for layout in chunk_sizes().map(Layout::new) {
        for device_chunks in device_sizes(layout) {
            // The kernel fills data chunks until none is left; the last one filled an area whose
            // successor is not there.
            let n = layout.capacity(device_chunks);
            let next_free = layout.next_free_after(n).expect("a next chunk");
            let kernel_goes_on = next_free.0 < device_chunks;
            assert_eq!(
                layout.kernel_poisoned(device_chunks),
                kernel_goes_on,
                "{layout:?}, {device_chunks} chunks"
            );
        }
    }
}

#[test]
fn a_device_that_is_never_full_holds_the_whole_origin_and_no_smaller_one_does() {
    for layout in chunk_sizes().map(Layout::new) {
        let bytes = layout.chunk_size.bytes();
        for old_chunks in [0, 1, 31, 32, 33, 255, 256, 1023, 1024, 4095, 4096, 100_000] {
            let chunks = layout.never_full_chunks(old_chunks * bytes).expect("small");
            assert!(
                layout.capacity(chunks) >= old_chunks,
                "{layout:?}, {old_chunks} chunks"
            );
            assert!(
                old_chunks == 0 || layout.capacity(chunks - 1) < old_chunks,
                "{layout:?}"
            );
            assert_eq!(
                layout.never_full_bytes(old_chunks * bytes),
                Some(chunks * bytes)
            );
            // A cut last chunk counts as one.
            let cut = (old_chunks * bytes).saturating_sub(1);
            assert_eq!(layout.never_full_chunks(cut), Some(chunks), "{layout:?}");
        }
    }
}

/// Measured with Linux: an origin of 1,024 chunks of 4 KiB needs 1,030; at 1,029 the kernel loses
/// the store, at 1,028 it overflows.
#[test]
fn sizes_measured_with_the_kernel() {
    let layout = Layout::new(ChunkSize::default());
    assert_eq!(layout.never_full_chunks(1024 * 4096), Some(1030));
    assert!(layout.kernel_poisoned(1029));
    assert!(!layout.kernel_poisoned(1028) && !layout.kernel_poisoned(1030));
    assert_eq!(layout.never_full_chunks(1023 * 4096), Some(1028));
    // 256 MiB, the live systems' default.
    assert!(layout.kernel_poisoned(65_536));
    assert!(!layout.kernel_poisoned(255 * 256));
}

#[test]
fn chunk_sizes_are_powers_of_two_up_to_the_kernels_limit() {
    for sectors in (0..5_000).chain([2_097_152, 2_097_153, 4_194_304, 1 << 31, u32::MAX]) {
        let found = ChunkSize::from_sectors(sectors);
        let expected_power = sectors.is_power_of_two();
        match found {
            Ok(size) => {
                assert!(expected_power && sectors <= ChunkSize::MAX_SECTORS);
                assert_eq!(size.sectors(), sectors);
                assert_eq!(size.bytes(), u64::from(sectors) * 512);
                assert_eq!(1_u64 << size.shift(), size.bytes());
                assert_eq!(size.exceptions_per_area(), size.bytes() / 16);
                assert_eq!(size.stride(), size.bytes() / 16 + 1);
                assert_eq!(ChunkSize::from_bytes(size.bytes()), Ok(size));
            }
            Err(FormatError::ChunkSizeNotPowerOfTwo { sectors: found }) => {
                assert!(!expected_power && found == u64::from(sectors));
            }
            Err(FormatError::ChunkSizeTooLarge { sectors: found }) => {
                assert!(sectors > ChunkSize::MAX_SECTORS && found == u64::from(sectors));
            }
            Err(error) => assert_eq!(Err(error), Ok(sectors), "no other error"),
        }
    }
    assert_eq!(ChunkSize::default().bytes(), 4096);
    let bytes = 513;
    assert_eq!(
        ChunkSize::from_bytes(bytes),
        Err(FormatError::ChunkSizeNotSectors { bytes })
    );
    let sectors = 1 << 54;
    assert_eq!(
        ChunkSize::from_bytes(1 << 63),
        Err(FormatError::ChunkSizeTooLarge { sectors })
    );
    let sectors = 0;
    assert_eq!(
        ChunkSize::from_bytes(0),
        Err(FormatError::ChunkSizeNotPowerOfTwo { sectors })
    );
}

proptest! {
    #[test]
    fn division_into_chunks_is_division(shift in 9_u32..=30, offset: u64) {
        let size = ChunkSize::from_bytes(1 << shift).expect("a chunk size");
        let bytes = size.bytes();
        prop_assert_eq!(size.chunk_of(offset), offset / bytes);
        prop_assert_eq!(size.offset_in_chunk(offset), offset % bytes);
        prop_assert_eq!(size.whole_chunks(offset), offset / bytes);
        prop_assert_eq!(size.chunks_to_hold(offset), offset.div_ceil(bytes));
        prop_assert_eq!(size.old_to_offset(OldChunk(offset)), offset.checked_mul(bytes));
        prop_assert_eq!(size.new_to_offset(NewChunk(offset)), offset.checked_mul(bytes));
    }

    /// Numbers of any size: exact, or `None` where the exact number is no u64. In 128 bits.
    #[test]
    fn layout_is_exact_or_none(shift in 9_u32..=30, n in any::<u64>()) {
        let layout = Layout::new(ChunkSize::from_bytes(1 << shift).expect("a chunk size"));
        let exact = u128::from(n);
        let per_area = u128::from(layout.chunk_size.bytes() / 16);
        let fits = |wide: u128| u64::try_from(wide).ok();
        prop_assert_eq!(layout.chunks_for(n), fits(2 + exact + exact / per_area));
        let location = fits(1 + exact * (per_area + 1)).map(NewChunk);
        prop_assert_eq!(layout.area_location(AreaIndex(n)), location);
        let metadata = |chunk: u128| chunk == 0 || chunk % (per_area + 1) == 1;
        prop_assert_eq!(layout.is_metadata(NewChunk(n)), metadata(exact));
        let next = if metadata(exact + 1) { exact + 2 } else { exact + 1 };
        prop_assert_eq!(layout.following(NewChunk(n)), fits(next).map(NewChunk));
        let (area, index) = layout.entry_position(n);
        prop_assert_eq!(u128::from(area.0) * per_area + u128::from(index), exact);
        prop_assert!(u128::from(index) < per_area);

        let capacity = u128::from(layout.capacity(n));
        let chunks_for = |n: u128| 2 + n + n / per_area;
        prop_assert!(n < 2 || chunks_for(capacity) <= exact);
        prop_assert!(chunks_for(capacity + 1) > exact);
    }
}
