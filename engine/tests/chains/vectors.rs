//! Stores that a kernel made: the image, and the patched origin, have the content that the kernel
//! served.

use std::fs::File;
use std::ops::ControlFlow;

use sha2::{Digest, Sha256};
use usnap_engine::chain::{Chain, Relative};
use usnap_engine::diff::{self, DiffOptions};
use usnap_engine::export;
use usnap_engine::patch::{DiffInput, PatchOptions, patch};

use crate::vector;

fn go_on(_done: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_the_kernel_served_is_exported_and_patched() {
    let mut seen = 0;
    for vector in vector::all() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("origin"), &vector.origin).unwrap();
        std::fs::write(path("cow"), &vector.store).unwrap();
        let opened = Chain::open(&path("origin"), &[], &path("cow"), true);
        let Some(expected) = &vector.content_sha256 else {
            assert!(opened.is_err(), "{}", vector.name);
            continue;
        };
        let (chain, _) = opened.unwrap_or_else(|error| panic!("{}: {error:?}", vector.name));
        export::to_path(&chain, &path("image"), false, &mut go_on).unwrap();
        let image = std::fs::read(path("image")).unwrap();
        assert_eq!(hexadecimal(&image), *expected, "{}", vector.name);
        for exact in [false, true] {
            let mut out = File::create(path("diff")).unwrap();
            let relative = Relative::ToOrigin;
            let options = DiffOptions { relative, exact };
            diff::write(&chain, options, &mut out, &mut go_on).unwrap();
            std::fs::write(path("copy"), &vector.origin).unwrap();
            let input = DiffInput::File(File::open(path("diff")).unwrap());
            let options = PatchOptions::default();
            patch(input, &path("copy"), options, &mut go_on).unwrap();
            assert!(
                std::fs::read(path("copy")).unwrap() == image,
                "{}",
                vector.name
            );
        }
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}
