//! How much memory changes may take when nobody says.

use std::fs;
use std::path::Path;

/// Half of what the machine has, or of what our control groups are allowed where that is less:
/// enough for tests and sandboxes, and when it is used up everything else lives on.
pub(crate) fn default_limit_bytes() -> u64 {
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let allowed = allowed_bytes(Path::new("/sys/fs/cgroup"), &group);
    allowed.unwrap_or(u64::MAX).min(machine_bytes()) / 2
}

#[expect(
    clippy::useless_conversion,
    reason = "the field has 32 bits on some machines"
)]
fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit))
}

/// The least `memory.max` of our group and those above it; `group` is /proc/self/cgroup, of which
/// only the unified hierarchy (version 2) counts.
fn allowed_bytes(root: &Path, group: &str) -> Option<u64> {
    let group = group.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |group: &Path| fs::read_to_string(root.join(group).join("memory.max"));
    // "max" is no number, and the topmost group of the machine has no such file.
    let limit = |group: &Path| limit(group).ok()?.trim().parse::<u64>().ok();
    Path::new(group).ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let (outer, inner) = (root.path().join("a"), root.path().join("a/b"));
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(allowed_bytes(root.path(), "0::/a/b\n"), None);
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(outer.join("memory.max"), "4096\n").unwrap();
        assert_eq!(allowed_bytes(root.path(), "0::/a/b\n"), Some(4096));
        fs::write(inner.join("memory.max"), "1024\n").unwrap();
        assert_eq!(
            allowed_bytes(root.path(), "1:memory:/x\n0::/a/b\n"),
            Some(1024)
        );
        fs::write(root.path().join("memory.max"), "512\n").unwrap();
        assert_eq!(allowed_bytes(root.path(), "0::/\n"), Some(512));
        assert_eq!(allowed_bytes(root.path(), ""), None);
    }

    #[test]
    fn there_is_some_memory_and_half_of_it_is_left() {
        let limit = default_limit_bytes();
        assert!(limit > 0 && limit <= machine_bytes() / 2);
    }
}
