//! The library needs nothing but `core`: it is compiled here against a directory in which the
//! compiler finds `core` and no other library, neither `alloc` nor `std`.
#![expect(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
}

fn ask(arguments: &[&str]) -> String {
    let output = rustc().args(arguments).output().expect("a compiler");
    assert!(output.status.success(), "rustc {arguments:?}: {output:?}");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// A directory laid out as the compiler wants it, with `core` alone.
fn sysroot_with_core_only(directory: &Path) -> PathBuf {
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"]));
    let version = ask(&["--version", "--verbose"]);
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("a host");
    let libraries = Path::new("lib/rustlib").join(host).join("lib");
    fs::create_dir_all(directory.join(&libraries)).expect("a directory");
    let mut found = 0;
    for entry in fs::read_dir(sysroot.join(&libraries)).expect("the compiler's libraries") {
        let path = entry.expect("a directory entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if name.starts_with("libcore-") || name.starts_with("libcompiler_builtins-") {
            fs::copy(&path, directory.join(&libraries).join(name)).expect("a copy");
            found += 1;
        }
    }
    assert!(found >= 2, "core and compiler_builtins");
    directory.to_owned()
}

fn compile(source: &Path, sysroot: &Path) -> Output {
    rustc()
        .args([
            "--crate-type=lib",
            "--edition=2024",
            "--emit=metadata",
            "--crate-name=compiled",
        ])
        .arg("--sysroot")
        .arg(sysroot)
        .arg("--out-dir")
        .arg(sysroot)
        .arg(source)
        .output()
        .expect("a compiler")
}

#[test]
fn the_library_builds_where_there_is_only_core() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("core-only");
    let sysroot = sysroot_with_core_only(&directory);

    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let output = compile(&library, &sysroot);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    // The directory is what it claims to be: others do not build there.
    for missing in ["alloc", "std"] {
        let source = directory.join("needs_more.rs");
        let text = format!("#![no_std]\nextern crate {missing};\n");
        fs::write(&source, text).expect("a source file");
        let output = compile(&source, &sysroot);
        assert!(!output.status.success(), "{missing} is there");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            message.contains(&format!("can't find crate for `{missing}`")),
            "{message}"
        );
    }
}
