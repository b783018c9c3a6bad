//! The processor time of a server, with all its threads and children, also of those that ended.
//!
//! A control group of its own tells that to the microsecond. Where none can be made (it takes root, or
//! a delegated group), `/proc/PID/stat` is added up over the process and its children: ticks of 10 ms.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Meters one server.
#[derive(Debug)]
pub(crate) struct Meter {
    group: Option<Group>,
    /// The process that serves.
    process: u32,
}

/// A control group that is removed at the end.
#[derive(Debug)]
struct Group {
    directory: PathBuf,
    /// Version 2 tells microseconds among other things, version 1 nanoseconds alone.
    is_v2: bool,
}

impl Meter {
    /// A meter at zero.
    pub(crate) fn new() -> Self {
        Self {
            group: Group::create(),
            process: 0,
        }
    }

    /// The same command, begun inside what is metered.
    pub(crate) fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = match &self.group {
            // A shell that enters and then becomes the server, since only a process can move itself
            // before it has used any time.
            Some(group) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
                    .arg(group.directory.join("cgroup.procs"))
                    .arg(command.get_program());
                shell
            }
            None => Command::new(command.get_program()),
        };
        wrapped.args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(name, value);
            }
        }
        wrapped
    }

    /// Tells which process serves, for the case that there is no group.
    pub(crate) fn watch(&mut self, process: u32) {
        self.process = process;
    }

    /// User and system time up to now.
    pub(crate) fn used(&self) -> Result<Duration> {
        match &self.group {
            Some(group) => group.used(),
            None => used_by_tree(self.process),
        }
    }
}

/// In words, how exact the figures of this machine are.
pub(crate) fn source() -> &'static str {
    match Group::create() {
        Some(group) if group.is_v2 => "control group, version 2, microseconds",
        Some(_) => "control group, version 1, nanoseconds",
        None => "/proc/PID/stat, ticks of 10 ms",
    }
}

impl Group {
    /// `None` where the system gives none.
    fn create() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("usnap-compare-{}-{count}", std::process::id());
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let parents = group_directories(&mounts, &own);
        parents.into_iter().find_map(|(parent, is_v2)| {
            let directory = parent.join(&name);
            fs::create_dir(&directory).ok()?;
            let group = Self { directory, is_v2 };
            // To be there is not enough: processes must be let in, and the figure must be told.
            let entered = Command::new("sh")
                .args(["-c", r#"echo $$ > "$0""#])
                .arg(group.directory.join("cgroup.procs"))
                .stderr(std::process::Stdio::null())
                .status();
            (entered.ok()?.success() && group.used().is_ok()).then_some(group)
        })
    }

    fn used(&self) -> Result<Duration> {
        let file = if self.is_v2 {
            "cpu.stat"
        } else {
            "cpuacct.usage"
        };
        let path = self.directory.join(file);
        let said =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let used = if self.is_v2 {
            let line = said
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec "));
            line.and_then(|text| text.trim().parse().ok())
                .map(Duration::from_micros)
        } else {
            said.trim().parse().ok().map(Duration::from_nanos)
        };
        used.with_context(|| format!("cannot make sense of {}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is busy until its last process is gone.
        let deadline = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir(&self.directory).is_err()
            && self.directory.exists()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Where a group of ours could be, the better way first: below our own group in each hierarchy that
/// counts processor time.
fn group_directories(mounts: &str, own: &str) -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    for (kind, is_v2) in [("cgroup2", true), ("cgroup", false)] {
        for mount in mounts.lines() {
            let mut fields = mount.split(' ').skip(1);
            let (Some(at), Some(found_kind), Some(options)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let counts = is_v2 || options.split(',').any(|option| option == "cpuacct");
            if found_kind != kind || !counts {
                continue;
            }
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let matches = if is_v2 {
                    controllers.is_empty()
                } else {
                    controllers.split(',').any(|name| name == "cpuacct")
                };
                matches.then_some(path)
            });
            let below = path.unwrap_or("/").trim_start_matches('/');
            found.push((Path::new(at).join(below), is_v2));
        }
    }
    found
}

/// The time of a process, of its children that live, and of those that it has waited for.
fn used_by_tree(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut used = used_of_stat(&stat).with_context(|| format!("cannot make sense of {path}"))?;
    for task in fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|id| id.parse().ok()) {
            // One that ends at this moment is counted by its parent from now on.
            used += used_by_tree(child).unwrap_or_default();
        }
    }
    Ok(used)
}

/// Fields 14 to 17 of `/proc/PID/stat`, in ticks of 10 ms: user and system time, and that of children
/// that were waited for; the name in field 2 may hold blanks.
fn used_of_stat(stat: &str) -> Option<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    let (_, behind_name) = stat.rsplit_once(')')?;
    let fields = behind_name.split_whitespace().skip(11).take(4);
    let ticks: Vec<u32> = fields
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    (ticks.len() == 4).then(|| TICK * ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_blanks_and_brackets() {
        let stat = "17 (a) b) S 1 17 17 0 -1 4194560 1 0 0 0 250 50 7 8 20 0 1 0 5 0 0";
        assert_eq!(used_of_stat(stat), Some(Duration::from_millis(3150)));
        assert_eq!(used_of_stat("17 (a"), None);
    }

    #[test]
    fn groups_are_looked_for_below_our_own() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /c/memory cgroup rw,memory 0 0\n\
                      cgroup2 /c/unified cgroup2 rw 0 0\n";
        let own = "4:memory:/a\n3:cpu,cpuacct:/b\n0::/d/e\n";
        let expected = [
            (PathBuf::from("/c/unified/d/e"), true),
            (PathBuf::from("/c/cpu,cpuacct/b"), false),
        ];
        assert_eq!(group_directories(mounts, own), expected);
        assert!(group_directories("", own).is_empty());
    }

    #[test]
    fn the_time_of_a_child_that_ended_is_counted() -> Result<()> {
        // The shell's own child does the work and is gone when the meter is read.
        let script = "i=0; (while [ $i -lt 100000 ]; do i=$((i+1)); done); read x";
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut meter = Meter::new();
        let mut child = meter
            .wrap(&command)
            .stdin(std::process::Stdio::piped())
            .spawn()?;
        meter.watch(child.id());
        let deadline = Instant::now() + Duration::from_secs(30);
        while meter.used()? < Duration::from_millis(20) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(meter.used()? >= Duration::from_millis(20));
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}
