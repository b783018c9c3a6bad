//! usnap: a copy-on-write block device in userspace.
fn main() {}
