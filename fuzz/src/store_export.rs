//! Any bytes as a COW device, and all that is made of a store at rest: an image, a diff, a smaller
//! store, a merged origin. All of them say the same as the snapshot, or all refuse.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use usnap_engine::ErrorKind;
use usnap_engine::chain::{Chain, Relative};
use usnap_engine::check::check;
use usnap_engine::compact::{CompactOptions, compact};
use usnap_engine::diff::{DiffOptions, write};
use usnap_engine::export::{to_path, to_stream};
use usnap_engine::merge::{Merge, MergeEnd, MergeOptions, Watch};
use usnap_engine::patch::{DiffInput, PatchOptions, patch};
use usnap_format::ChunkSize;

use crate::history::plain_loader::{compose, load};
use crate::input::Input;
use crate::store_open::{IMAGE_LEN_MAX, made_up, verdict};

/// How the tools are asked.
#[derive(Clone, Copy)]
struct Asked {
    force_origin: bool,
    exact: bool,
    keep_equal: bool,
    to_file: bool,
    small_batches: bool,
    other_chunk_size: Option<ChunkSize>,
}

impl Asked {
    fn new(input: &mut Input<'_>) -> Self {
        let bits = input.u8();
        let shift = bits >> 5;
        let other = (shift != 0).then(|| ChunkSize::from_sectors(1 << shift).expect("it can be"));
        Self {
            force_origin: bits & 1 != 0,
            exact: bits & 2 != 0,
            keep_equal: bits & 4 != 0,
            to_file: bits & 8 != 0,
            small_batches: bits & 16 != 0,
            other_chunk_size: other,
        }
    }

    fn compact(&self) -> CompactOptions {
        CompactOptions {
            chunk_size: self.other_chunk_size,
            keep_equal: self.keep_equal,
            force_origin: self.force_origin,
            ..CompactOptions::default()
        }
    }

    fn merge(&self) -> MergeOptions {
        let default = MergeOptions::default();
        MergeOptions {
            force_origin: self.force_origin,
            batch_bytes: if self.small_batches {
                2000
            } else {
                default.batch_bytes
            },
            ..default
        }
    }
}

/// The files of one input.
struct Files {
    folder: tempfile::TempDir,
    origin: PathBuf,
    cow: PathBuf,
}

impl Files {
    fn new(origin: &[u8], image: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let (origin_at, cow_at) = (at("origin"), at("cow"));
        std::fs::write(&origin_at, origin).expect("room");
        std::fs::write(&cow_at, image).expect("room");
        Self {
            origin: origin_at,
            cow: cow_at,
            folder,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn bytes_of(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the file")
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Parts of it are zeros, as holes of a file are.
fn origin_of(len: usize) -> Vec<u8> {
    let byte = |at: usize| match at / 5000 % 3 {
        1 => 0,
        _ => (at / 100) as u8 | 1,
    };
    (0..len).map(byte).collect()
}

fn exported(chain: &Chain, files: &Files, to_file: bool) -> Vec<u8> {
    let mut image = Vec::new();
    if to_file {
        let out = files.at("image");
        to_path(chain, &out, false, &mut go_on).expect("it can be read");
        return bytes_of(&out);
    }
    to_stream(chain, &mut image, &mut go_on).expect("it can be read");
    image
}

/// A copy of the origin, patched with what the chain changes.
fn patched(chain: &Chain, files: &Files, origin: &[u8], exact: bool) -> Vec<u8> {
    let options = DiffOptions {
        exact,
        ..DiffOptions::default()
    };
    let (diff_at, copy) = (files.at("diff"), files.at("copy"));
    let mut diff = File::create_new(&diff_at).expect("a file");
    let summary = write(chain, options, &mut diff, &mut go_on).expect("it can be read");
    std::fs::write(&copy, origin).expect("room");
    let diff = DiffInput::File(File::open(&diff_at).expect("the file"));
    let report = patch(diff, &copy, PatchOptions::default(), &mut go_on).expect("it was just made");
    assert!(report.data_bytes == summary.data_bytes && report.zero_bytes == summary.zero_bytes);
    bytes_of(&copy)
}

/// What the changes name is ascending and apart, and all that differs lies in it.
fn look_at_changes(chain: &Chain, origin: &[u8], content: &[u8]) {
    let mut reached = 0;
    for change in chain.changes(Relative::ToOrigin) {
        let (start, end) = (change.start as usize, change.end as usize);
        assert!(start < end && end <= origin.len() && (start > reached || reached == 0));
        assert!(origin[reached..start] == content[reached..start]);
        reached = end;
    }
    assert!(origin[reached..] == content[reached..]);
}

/// A smaller store of the same; `None` where that is refused, and nothing is left behind.
fn compacted(files: &Files, asked: Asked) -> Option<PathBuf> {
    let out = files.at("compacted");
    let mut watch = |done, total| done <= total;
    match compact(
        &files.origin,
        &files.cow,
        &out,
        &asked.compact(),
        &mut watch,
    ) {
        Ok(_) => Some(out),
        Err(error) => {
            assert!(error.to_string().starts_with("cannot "), "{error:?}");
            assert!(!out.exists(), "refused, and made");
            None
        }
    }
}

fn merged(files: &Files, asked: Asked) -> usnap_engine::Result<()> {
    let (merge, _notes) = Merge::open(&files.cow, &files.origin, &asked.merge())?;
    let mut watch = Watch {
        is_stopped: &|| false,
        merged: &mut |_| (),
    };
    let end = merge.run(&mut watch).expect("there is nothing in its way");
    assert!(end == MergeEnd::Done, "{end:?}");
    Ok(())
}

/// All of its metadata is cleared, and its data is where it was.
fn look_at_merged(image: &[u8], after: &[u8]) {
    let store = load(after).expect("it is empty");
    assert!(store.exceptions.is_empty(), "merged, and not empty");
    assert!(after.len() == image.len());
    let stride = store.chunk_len / 16 + 1;
    let chunks = image
        .chunks(store.chunk_len)
        .zip(after.chunks(store.chunk_len));
    for (chunk, (before, after)) in chunks.enumerate() {
        assert!(
            chunk == 0 || chunk % stride == 1 || before == after,
            "chunk {chunk}"
        );
    }
}

/// Refused by one, refused by all, and left as it was.
fn look_at_refused(files: &Files, asked: Asked) {
    assert!(
        compacted(files, asked).is_none(),
        "not opened, and compacted"
    );
    assert!(merged(files, asked).is_err(), "not opened, and merged");
}

/// Opens the bytes as a COW device, and makes of it all that can be made of a store at rest.
///
/// # Panics
/// Where one of them is not what an independent loader sees, where one takes what another refuses, or
/// where what is only read, or refused, is changed.
pub fn store_export(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let asked = Asked::new(&mut input);
    let is_raw = input.u8().is_multiple_of(4);
    let origin = origin_of(1 + usize::from(input.u16()) % 40_000);
    let mut image = if is_raw {
        input.rest().to_vec()
    } else {
        made_up(&mut input)
    };
    image.truncate(IMAGE_LEN_MAX);
    let is_sound = verdict(&image, origin.len()).is_some();
    let files = Files::new(&origin, &image);

    let chain = match Chain::open(&files.origin, &[], &files.cow, asked.force_origin) {
        Ok((chain, _notes)) => chain,
        Err(error) => {
            look_at_refused(&files, asked);
            assert!(bytes_of(&files.cow) == image, "refused, and changed");
            assert!(bytes_of(&files.origin) == origin, "refused, and changed");
            if !is_sound {
                return "refused";
            }
            assert!(error.kind() == ErrorKind::OriginMismatch, "{error:?}");
            assert!(!asked.force_origin, "forced, and refused: {error:?}");
            return "of another origin";
        }
    };
    assert!(is_sound, "unsound, and opened");
    let content = compose(&origin, &image).expect("it is sound");
    let mut read = vec![0; content.len()];
    chain.device().read_at(&mut read, 0).expect("it is there");
    assert!(read == content, "reads as something else");
    look_at_changes(&chain, &origin, &content);
    assert!(
        exported(&chain, &files, asked.to_file) == content,
        "exported"
    );
    assert!(
        patched(&chain, &files, &origin, asked.exact) == content,
        "patched"
    );
    drop(chain);

    let out = compacted(&files, asked).expect("it was opened");
    let compacted = bytes_of(&out);
    assert!(compose(&origin, &compacted).expect("it is sound") == content);
    let report = check(&out, Some(&files.origin)).expect("it is a store");
    assert!(report.is_clean(), "compacted: {:?}", report.findings);
    let (chain, _notes) = Chain::open(&files.origin, &[], &out, false).expect("it was just made");
    let mut again = Vec::new();
    to_stream(&chain, &mut again, &mut go_on).expect("it can be read");
    assert!(again == content, "compacted, and exported otherwise");
    drop(chain);
    assert!(bytes_of(&files.cow) == image, "read, and changed");
    assert!(bytes_of(&files.origin) == origin, "read, and changed");

    if let Err(error) = merged(&files, asked) {
        // What would be lost with the entries that lie behind the origin's end; or a record that
        // can't be written anew.
        let is_said = match error.kind() {
            ErrorKind::OriginMismatch => asked.force_origin,
            ErrorKind::Corrupt => error.to_string().contains("the identity record"),
            _ => false,
        };
        assert!(is_said, "opened, and not merged: {error:?}");
        assert!(bytes_of(&files.cow) == image, "refused, and changed");
        assert!(bytes_of(&files.origin) == origin, "refused, and changed");
        return "not merged";
    }
    assert!(bytes_of(&files.origin) == content, "merged otherwise");
    look_at_merged(&image, &bytes_of(&files.cow));
    if content == origin {
        "nothing changed"
    } else {
        "changed"
    }
}
