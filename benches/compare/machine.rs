//! What the figures were taken on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use usnap_test_support::Tool;

use crate::contender::Contender;

/// The processor, and how many of them.
pub(crate) fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let count = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    Ok(format!("{model}, {count} processors"))
}

/// The kernel's release.
pub(crate) fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    Ok(release
        .context("cannot read the kernel's release")?
        .trim()
        .to_owned())
}

/// The versions of all programs that take part, as they call themselves.
pub(crate) fn versions(contenders: &[Contender], usnap: &Path) -> Vec<String> {
    let mut programs: Vec<&str> = Vec::new();
    for program in contenders
        .iter()
        .flat_map(|one| one.programs())
        .chain(&["fio"])
    {
        if !programs.contains(program) {
            programs.push(program);
        }
    }
    let mut told: Vec<String> = programs
        .into_iter()
        .filter_map(|name| {
            let flag = if name == "nbd-server" {
                "-V"
            } else {
                "--version"
            };
            version(Tool::new(name).arg(flag))
        })
        .collect();
    if contenders.iter().any(|contender| contender.is_ours()) {
        told.extend(version(Tool::new(usnap).arg("--version")));
    }
    told
}

/// The first line that a program says, without its path.
fn version(tool: Tool) -> Option<String> {
    let said = tool.ok().ok()?;
    Some(named(said.lines().next()?))
}

fn named(line: &str) -> String {
    let line = line.strip_prefix("This is ").unwrap_or(line);
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (_, name) = first.rsplit_once('/').unwrap_or(("", first));
    // Debian tells the package's version in brackets.
    let rest = rest.split(" (").next().unwrap_or(rest);
    let rest = rest.strip_prefix("version ").unwrap_or(rest);
    format!("{name} {rest}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn programs_are_called_by_name_and_version() {
        let table = [
            ("This is nbd-server version 3.24", "nbd-server 3.24"),
            (
                "/usr/bin/qemu-nbd 10.0.2 (Debian 1:10.0)",
                "qemu-nbd 10.0.2",
            ),
            ("qemu-img version 10.0.2 (Debian)", "qemu-img 10.0.2"),
            ("fio-3.33", "fio-3.33"),
        ];
        for (line, name) in table {
            assert_eq!(named(line), name);
        }
    }
}
