//! A merge that was served and ended half-way, by SIGTERM and by SIGKILL: dm-snapshot takes it from
//! there, and what clients wrote meanwhile is there.

use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use usnap_test_support::lab::{sha256_of_bytes, text};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, KIB, MIB, Need, RawClient, Rng, missing};

use crate::LAB;

const ORIGIN_BYTES: u64 = 48 * MIB;
const CHUNK: u64 = 4 * KIB;

#[test]
fn the_kernel_finishes_a_merge_that_was_served_half_way() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    for is_killed in [false, true] {
        let scratch = LAB.scratch("merge-online")?;
        let (origin, cow) = (scratch.join("origin.img"), scratch.join("c.cow"));
        random_file(&origin, ORIGIN_BYTES, 1)?;
        let mut content = fs::read(&origin)?;
        let mut rng = Rng::new(4);
        let mut write = |client: &mut RawClient, chunk: u64| -> Result<()> {
            let data = rng.bytes(usize::try_from(CHUNK)?);
            let at = usize::try_from(chunk * CHUNK)?;
            content[at..at + data.len()].copy_from_slice(&data);
            client.write_at(chunk * CHUNK, &data)
        };
        let order = Rng::new(5).permutation(ORIGIN_BYTES / CHUNK);
        let server = LAB.serve(&origin)?.cow(&cow).start()?;
        let mut client = RawClient::connect(&server.socket())?;
        for chunk in &order[..9000] {
            write(&mut client, *chunk)?;
        }
        client.disconnect()?;
        server.stop()?;

        let server = LAB.serve(&origin)?.cow(&cow).args(&["--merge"]).start()?;
        let mut client = RawClient::connect(&server.socket())?;
        for chunk in order.iter().step_by(200) {
            write(&mut client, *chunk)?;
        }
        let left = || -> Result<u64> {
            let said = LAB.usnap(&["status", "--json", text(&cow)?]).ok()?;
            let status: serde_json::Value = serde_json::from_str(&said)?;
            let left = status["exceptions_committed"].as_u64();
            left.context("no figure")
        };
        while left()? == 9000 {
            thread::sleep(Duration::from_millis(5));
        }
        if is_killed {
            server.kill()?;
        } else {
            client.disconnect()?;
            server.stop()?;
        }
        let left = left()?;
        ensure!(0 < left && left < 9000, "not half-way: {left}");

        let guest = Guest::new().disk("ORIGIN", &origin).disk("COW", &cow);
        let said = guest.run(&scratch, include_str!("merge_online.sh"))?;
        assert_eq!(said.value("done")?, "yes", "{}", said.text());
        assert_eq!(said.value("origin")?, sha256_of_bytes(&content)?);
        ensure!(fs::read(&origin)? == content, "the origin, from outside");
        ensure!(LAB.status_line(&cow)?.ends_with(" 16"), "something is left");
        LAB.check_is_clean(&cow)?;
    }
    Ok(())
}
