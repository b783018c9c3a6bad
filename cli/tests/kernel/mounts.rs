//! The kernel's NBD client attaches our export and a filesystem lives on it.

use std::time::Duration;

use anyhow::{Result, ensure};
use usnap_test_support::image::ext4_of_installed_files;
use usnap_test_support::lab::{Untouched, sha256_of_bytes, text};
use usnap_test_support::{Guest, Need, RawClient, Tool, missing};

use crate::LAB;

#[test]
fn a_kernel_mounts_the_export_and_finds_its_files_again_after_a_restart() -> Result<()> {
    if missing(&[
        Need::GuestKernel,
        Need::Program("mke2fs"),
        Need::Program("debugfs"),
    ])? {
        return Ok(());
    }
    let scratch = LAB.scratch("mount")?;
    let origin = ext4_of_installed_files(LAB.root())?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.join("changes.cow");
    let guest = Guest::new()
        .variable("USNAP", LAB.program())
        .variable("ORIGIN", text(&origin)?)
        .variable("COW", text(&cow)?)
        .variable("FILES", "/usr/include/linux")
        .variable("REMOVED", &a_directory_in(text(&origin)?)?)
        .limit(Duration::from_secs(400));
    let said = guest.run(&scratch, include_str!("mount.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    assert_eq!(said.value("read-only")?, "0");
    // Without this the kernel would never send a flush, and fsync would promise nothing.
    assert_eq!(said.value("write-cache")?, "write back");
    let files: u64 = said.value("files")?.parse()?;
    ensure!(files > 50, "only {files} files were copied");

    untouched.verify()?;
    LAB.check_is_clean(&cow)?;
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let content = RawClient::connect(&server.socket())?.read_all()?;
    assert_eq!(sha256_of_bytes(&content)?, said.value("sha256")?);
    server.stop()?;
    Ok(())
}

/// Some directory at the top of the filesystem in `image`.
fn a_directory_in(image: &str) -> Result<String> {
    let listing = Tool::new("debugfs").args(["-R", "ls -p /", image]).ok()?;
    // Lines look like /12/040755/0/0/name//
    let directory = listing.lines().find_map(|line| {
        let fields: Vec<&str> = line.split('/').collect();
        let name = *fields.get(5)?;
        let is_directory = fields.get(2)?.starts_with("04");
        (is_directory && !matches!(name, "." | ".." | "lost+found")).then(|| name.to_owned())
    });
    directory.ok_or_else(|| anyhow::anyhow!("no directory in\n{listing}"))
}
