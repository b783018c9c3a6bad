//! libnbd's Python binding: the session from a client's side, and requests that no polite client
//! would send.

use anyhow::Result;
use usnap_test_support::lab::{Untouched, text};
use usnap_test_support::python::python;
use usnap_test_support::{Need, missing};

use crate::LAB;
use crate::data::{ORIGIN_BYTES, origin_with_a_hole};

const NEEDS: [Need; 1] = [Need::PythonModule("nbd")];

#[test]
fn a_session_of_libnbd_keeps_every_promise() -> Result<()> {
    if missing(&NEEDS)? {
        return Ok(());
    }
    let scratch = LAB.scratch("session")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let untouched = Untouched::note(&origin)?;
    let server = LAB.serve(&origin)?.cow(&scratch.join("c.cow")).start()?;
    let said = python(include_str!("session.py"), &[server.uri(), text(&origin)?])?;
    assert_eq!(said.trim(), "done");
    server.stop()?;
    untouched.verify()
}

#[test]
fn illegal_requests_get_their_error_and_the_session_goes_on() -> Result<()> {
    if missing(&NEEDS)? {
        return Ok(());
    }
    let scratch = LAB.scratch("illegal")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let untouched = Untouched::note(&origin)?;
    let writable = LAB.serve(&origin)?.cow(&scratch.join("c.cow")).start()?;
    let read_only = LAB.serve(&origin)?.args(&["--read-only"]).start()?;
    let size = ORIGIN_BYTES.to_string();
    let said = python(
        include_str!("illegal.py"),
        &[writable.uri(), read_only.uri(), &size],
    )?;
    assert_eq!(said.trim(), "done");
    writable.stop()?;
    read_only.stop()?;
    untouched.verify()
}

#[test]
fn a_client_starts_the_server_itself_and_finds_its_changes_again() -> Result<()> {
    if missing(&NEEDS)? {
        return Ok(());
    }
    let scratch = LAB.scratch("started")?;
    let (origin, _) = origin_with_a_hole(&scratch)?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.join("c.cow");
    let arguments = [LAB.program(), text(&origin)?, text(&cow)?];
    let said = python(include_str!("started.py"), &arguments)?;
    // The servers print their URIs before it.
    assert_eq!(said.lines().last(), Some("done"), "{said}");
    LAB.check_is_clean(&cow)?;
    untouched.verify()
}
