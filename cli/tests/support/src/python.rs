//! Scripts for the system's Python, where Debian's libnbd binding lives.

use std::path::Path;

use anyhow::Result;

use crate::tool::Tool;

/// The system's interpreter: another one that is first in `PATH` lacks its modules.
pub const PYTHON: &str = "/usr/bin/python3";

/// Runs `script` with these arguments (`sys.argv[1]` on) and returns what it prints. An exception or
/// a failed `assert` in it fails the test with its traceback.
///
/// # Errors
/// The script ended with an exit status other than 0.
pub fn python(script: &str, args: &[&str]) -> Result<String> {
    Tool::new(Path::new(PYTHON))
        .arg("-")
        .args(args)
        .input(script)
        .ok()
}
