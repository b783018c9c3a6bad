//! Stores made by a real kernel are read exactly: header, entries, status line and content; and
//! encoding what was read gives the same bytes. Method: `vectors/`, see its README.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

#[path = "support/vector.rs"]
mod vector;

use usnap_format::{
    AreaIndex, AreaView, ChunkSize, DiskException, DiskHeader, Exception, HEADER_LEN,
    IDENTITY_OFFSET, IdentityRecord, Layout, NewChunk, OldChunk, OriginIdentity, Status, Usage,
    encode_exception,
};
use vector::Vector;

/// What a reader that knows only this crate makes of a store.
struct Read {
    layout: Layout,
    valid: bool,
    exceptions: Vec<Exception>,
    current_area: AreaIndex,
    junk_offset: Option<u64>,
}

fn read(store: &[u8]) -> Read {
    let header = DiskHeader::decode(store.first_chunk().expect("a header"));
    let header = header.validate().expect("a store");
    let layout = Layout::new(header.chunk_size);
    let mut exceptions = Vec::new();
    for area_index in (0..).map(AreaIndex) {
        let area = AreaView::new(chunk(store, layout, area_index), header.chunk_size);
        let area = area.expect("one chunk");
        exceptions.extend(area.exceptions());
        if !area.is_full() {
            return Read {
                layout,
                valid: header.is_valid(),
                exceptions,
                current_area: area_index,
                junk_offset: area.has_junk_behind_terminator(),
            };
        }
        assert_eq!(area.committed(), header.chunk_size.exceptions_per_area());
        assert_eq!(
            area.has_junk_behind_terminator(),
            None,
            "a full area has no terminator"
        );
    }
    unreachable!("a device ends");
}

fn chunk(store: &[u8], layout: Layout, area: AreaIndex) -> &[u8] {
    let location = layout.area_location(area).expect("an area on the device");
    &store[range(layout.chunk_size, location)]
}

fn range(chunk_size: ChunkSize, chunk: NewChunk) -> std::ops::Range<usize> {
    let from = chunk_size
        .new_to_offset(chunk)
        .expect("a chunk on the device");
    let from = usize::try_from(from).expect("a small device");
    from..from + usize::try_from(chunk_size.bytes()).expect("a small chunk")
}

fn next_free(read: &Read) -> NewChunk {
    let max_seen = read
        .exceptions
        .iter()
        .map(|exception| exception.new_chunk)
        .max();
    read.layout
        .next_free_after_max(max_seen)
        .expect("a next chunk")
}

/// The snapshot: the origin with the exceptions' chunks laid over it.
fn content(vector: &Vector, read: &Read) -> Vec<u8> {
    let mut content = vector.origin.clone();
    for exception in &read.exceptions {
        let data = &vector.store[range(read.layout.chunk_size, exception.new_chunk)];
        let at = read
            .layout
            .chunk_size
            .old_to_offset(exception.old_chunk)
            .expect("a chunk");
        let at = usize::try_from(at).expect("a small device");
        let len = data.len().min(content.len() - at);
        content[at..at + len].copy_from_slice(&data[..len]);
    }
    content
}

#[test]
fn the_vectors_are_all_there_and_from_the_kernel_that_the_spec_names() {
    let names: Vec<String> = vector::all()
        .into_iter()
        .map(|vector| vector.name)
        .collect();
    let expected = [
        "chunk-16k",
        "chunk-4k",
        "chunk-512",
        "chunk-64k",
        "cut-origin",
        "empty",
        "four-areas",
        "full-area",
        "full-area-and-one",
        "half-merged",
        "holes",
        "holes-before-area",
        "identity",
        "invalid",
        "junk",
        "merge-failed",
        "overflow",
        "poisoned",
    ];
    assert_eq!(names, expected);
    for vector in vector::all() {
        assert!(
            vector.kernel.starts_with("6.1."),
            "{}: {}",
            vector.name,
            vector.kernel
        );
        assert_eq!(vector.target, "1.16.0", "{}", vector.name);
        assert!(vector.table.starts_with("snapshot"), "{}", vector.name);
    }
}

#[test]
fn headers_are_read_and_written_exactly() {
    for vector in vector::all() {
        let bytes: &[u8; HEADER_LEN] = vector.store.first_chunk().expect("a header");
        let disk = DiskHeader::decode(bytes);
        assert_eq!(vector.magic.as_bytes(), &bytes[..4], "{}", vector.name);
        assert_eq!(disk.valid, vector.valid, "{}", vector.name);
        assert_eq!(disk.version, vector.version, "{}", vector.name);
        assert_eq!(
            disk.chunk_size_sectors, vector.chunk_size_sectors,
            "{}",
            vector.name
        );
        assert_eq!(disk.encode(), *bytes, "{}", vector.name);
        let header = disk.validate().expect("a store");
        assert_eq!(header.encode(), *bytes, "{}", vector.name);
        assert_eq!(header.is_valid(), vector.valid != 0, "{}", vector.name);
    }
}

#[test]
fn exceptions_are_read_exactly_and_in_order() {
    for vector in vector::all() {
        let read = read(&vector.store);
        let found: Vec<(u64, u64)> = read
            .exceptions
            .iter()
            .map(|e| (e.old_chunk.0, e.new_chunk.0))
            .collect();
        assert_eq!(found, vector.exceptions, "{}", vector.name);
        assert_eq!(read.junk_offset, vector.junk_offset, "{}", vector.name);
    }
}

#[test]
fn areas_are_written_as_the_kernel_writes_them() {
    for vector in vector::all()
        .iter()
        .filter(|vector| vector.junk_offset.is_none())
    {
        let read = read(&vector.store);
        let chunk_size = read.layout.chunk_size;
        let len = usize::try_from(chunk_size.bytes()).expect("a small chunk");
        for area_index in (0..=read.current_area.0).map(AreaIndex) {
            let mut area = vec![0; len];
            for (n, &exception) in read.exceptions.iter().enumerate() {
                let (area_of_entry, index) = read.layout.entry_position(n as u64);
                if area_of_entry == area_index {
                    encode_exception(&mut area, index, exception).expect("room");
                }
            }
            let written = chunk(&vector.store, read.layout, area_index);
            assert!(area == written, "{}: area {area_index}", vector.name);
        }
    }
}

#[test]
fn the_status_line_of_a_reopened_store_is_the_kernels() {
    for vector in vector::all() {
        let read = read(&vector.store);
        let status = if read.valid {
            let device_bytes = vector.store.len() as u64;
            let next_free = next_free(&read);
            let usage = Usage::persistent(read.layout, next_free, read.current_area, device_bytes);
            assert_eq!(
                usage.is_empty(),
                vector.exceptions.is_empty(),
                "{}",
                vector.name
            );
            Status::Active(usage)
        } else {
            Status::Invalid
        };
        assert_eq!(
            status.to_string(),
            vector.reopened_status,
            "{}",
            vector.name
        );
    }
}

#[test]
fn the_words_of_a_status_line_are_the_kernels() {
    assert_eq!(vector::read("invalid").status, Status::Invalid.to_string());
    assert_eq!(vector::read("poisoned").status, Status::Invalid.to_string());
    assert_eq!(
        vector::read("overflow").status,
        Status::Overflow.to_string()
    );
    assert_eq!(
        vector::read("merge-failed").status,
        Status::MergeFailed.to_string()
    );
}

#[test]
fn usage_is_the_kernels_after_every_write() {
    let lines = vector::status_lines();
    assert_eq!(lines.len(), 160);
    for (mode, chunk_size, exceptions, device_sectors, status) in lines {
        let chunk_size = ChunkSize::from_sectors(chunk_size).expect("a chunk size");
        let device_bytes = device_sectors * 512;
        let usage = if mode == "N" {
            Usage::transient(NewChunk(exceptions), chunk_size, device_bytes)
        } else {
            let layout = Layout::new(chunk_size);
            let next_free = layout.next_free_after(exceptions).expect("a next chunk");
            let (current_area, _) = layout.entry_position(exceptions);
            Usage::persistent(layout, next_free, current_area, device_bytes)
        };
        assert_eq!(usage.to_string(), status, "{mode} after {exceptions}");
    }
}

#[test]
fn the_content_is_what_the_kernel_served() {
    for vector in vector::all() {
        let read = read(&vector.store);
        let found = read.valid.then(|| vector::sha256(&content(&vector, &read)));
        assert_eq!(found, vector.content_sha256, "{}", vector.name);
    }
}

#[test]
fn only_the_kernel_takes_the_poisoned_chunk() {
    let vector = vector::read("poisoned");
    let read = read(&vector.store);
    let device_chunks = read
        .layout
        .chunk_size
        .whole_chunks(vector.store.len() as u64);
    assert!(read.layout.kernel_poisoned(device_chunks));
    assert!(!read.valid);
    // The kernel got as far as we go, and then went one further.
    assert_eq!(
        read.exceptions.len() as u64,
        read.layout.capacity(device_chunks)
    );
    let (next_free, entry) = (next_free(&read), read.exceptions.len() as u64);
    assert!(next_free.0 < device_chunks, "the chunk itself is there");
    assert!(!read.layout.can_allocate(next_free, entry, device_chunks));
}

#[test]
fn a_store_that_overflowed_is_at_its_capacity() {
    let vector = vector::read("overflow");
    let read = read(&vector.store);
    let device_chunks = read
        .layout
        .chunk_size
        .whole_chunks(vector.store.len() as u64);
    assert!(!read.layout.kernel_poisoned(device_chunks));
    assert_eq!(
        read.exceptions.len() as u64,
        read.layout.capacity(device_chunks)
    );
}

#[test]
fn junk_behind_the_terminator_is_not_an_exception() {
    let vector = vector::read("junk");
    let read = read(&vector.store);
    let area = AreaView::new(
        chunk(&vector.store, read.layout, AreaIndex(0)),
        read.layout.chunk_size,
    );
    let area = area.expect("one chunk");
    assert!(area.entry(2).is_terminator());
    assert_eq!(
        area.entry(3),
        DiskException {
            old_chunk: 9,
            new_chunk: 7
        }
    );
    assert!(
        read.exceptions
            .iter()
            .all(|exception| exception.old_chunk != OldChunk(9))
    );
}

#[test]
fn a_kernel_keeps_the_identity_record_until_it_invalidates_the_store() {
    for vector in vector::all() {
        let at = usize::try_from(IDENTITY_OFFSET).expect("an offset");
        let bytes = &vector.store[at..];
        let record = IdentityRecord::decode(bytes, crc32fast::hash).expect("no damage");
        let encoded = record.map(|record| vector::hex(&record.encode(crc32fast::hash)));
        assert_eq!(encoded, vector.identity, "{}", vector.name);
        assert_eq!(
            record.is_some(),
            vector.name == "identity",
            "{}",
            vector.name
        );
    }
}

#[test]
fn an_identity_record_made_by_other_code_is_read_exactly() {
    let vector = vector::read("identity");
    let at = usize::try_from(IDENTITY_OFFSET).expect("an offset");
    let record = IdentityRecord::decode(&vector.store[at..], crc32fast::hash);
    let record = record.expect("no damage").expect("a record");
    let origin = OriginIdentity {
        size_bytes: vector.origin.len() as u64,
        sample_scheme: 3,
        sample_crc32: 0x0102_0304,
        mtime_s: -2,
        mtime_ns: 999_999_999,
    };
    assert_eq!(record.origin, Some(origin));
    assert_eq!(
        record.session,
        std::array::from_fn(|n| u8::try_from(n).expect("small"))
    );
    assert_eq!(
        record.boot_id,
        std::array::from_fn(|n| u8::try_from(n + 16).expect("small"))
    );
    assert!(!record.clean);
    assert_eq!(record.label.as_str(), "B\u{fc}ro, 2. Versuch");
}
