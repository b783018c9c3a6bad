//! Block devices as origin and as COW, where usnap and dm-snapshot can take turns at once.

use anyhow::{Result, ensure};
use usnap_test_support::lab::Untouched;
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, MIB, Need, missing};

use crate::LAB;

#[test]
fn usnap_and_dm_snapshot_take_turns_on_block_devices_and_respect_each_other() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = LAB.scratch("devices")?;
    let origin = scratch.join("origin.img");
    // The last chunk is a partial one.
    random_file(&origin, 24 * MIB + 3 * 512, 4)?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.sparse_file("cow.img", 16 * MIB)?;
    let guest = Guest::new()
        .disk("ORIGIN", &origin)
        .disk("COW", &cow)
        .variable("USNAP", LAB.program());
    let said = guest.run(&scratch, include_str!("devices.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    assert_eq!(said.value("usnap.first")?, said.value("kernel.first")?);
    assert_eq!(said.value("kernel.second")?, said.value("usnap.second")?);
    ensure!(
        said.value("kernel.first")? != untouched.digest(),
        "nothing was written"
    );
    ensure!(
        said.value("kernel.second")? != said.value("kernel.first")?,
        "nothing was written"
    );
    let refused = said.value("refused")?;
    ensure!(
        refused.contains("usnap: cannot ") && refused.contains("busy"),
        "{refused}"
    );
    ensure!(
        said.value("usnap.status")? != said.value("kernel.status")?,
        "no exception was added"
    );
    untouched.verify()
}
