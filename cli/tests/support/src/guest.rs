//! A real Linux kernel that runs as an ordinary process (User-Mode Linux): the judge of what
//! dm-snapshot reads, and a client with filesystems.
//!
//! The guest's root directory is this machine's, so each program and file is there. `/dev`, `/proc`,
//! `/sys` and `/run` are the guest's own: what it needs from here must lie elsewhere. It has one
//! processor and no udev, so a mapped device is `/dev/dm-N`; the shell function `dm NAME` prints it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::text;
use crate::requirements::GUEST_MODULES;
use crate::scratch::Scratch;
use crate::tool::Tool;

/// A boot takes two seconds; the rest is what its script may take.
const DEFAULT_LIMIT: Duration = Duration::from_secs(240);
/// Set for tests that run inside.
const INSIDE_VARIABLE: &str = "USNAP_INSIDE_GUEST";
/// Where the guest can't see this machine's files.
const HIDDEN: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// A boot: its disks, its script's variables.
pub struct Guest {
    disks: Vec<PathBuf>,
    variables: Vec<(String, String)>,
    modules: Vec<&'static str>,
    memory_mib: u32,
    limit: Duration,
}

/// What the guest's script printed.
#[derive(Debug)]
pub struct Said(String);

impl Guest {
    /// A guest without disks.
    #[must_use]
    pub fn new() -> Self {
        let (disks, variables) = (Vec::new(), Vec::new());
        Self {
            disks,
            variables,
            modules: Vec::new(),
            memory_mib: 768,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Adds a disk, `/dev/ubda`, `/dev/ubdb` and so on, and sets `variable` to its device.
    #[must_use]
    pub fn disk(mut self, variable: &str, file: &Path) -> Self {
        let letter = char::from(b'a' + u8::try_from(self.disks.len()).unwrap_or(0));
        self.disks.push(file.to_owned());
        self.variable(variable, &format!("/dev/ubd{letter}"))
    }

    /// Sets a variable for the script.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Loads a module, named by its path below the kernel's drivers: `md/dm-dust`.
    #[must_use]
    pub fn module(mut self, path: &'static str) -> Self {
        self.modules.push(path);
        self
    }

    /// The time that boot and script may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Boots, runs `script` with bash (`set -eu`) in `scratch` and returns what it printed.
    ///
    /// # Errors
    /// The guest did not come up or did not finish, or the script's exit status is not 0.
    pub fn run(&self, scratch: &Scratch, script: &str) -> Result<Said> {
        ensure!(
            self.disks.len() <= 16,
            "the guest has sixteen disks at most"
        );
        let place = Scratch::new(scratch.path(), "guest")?;
        let here = text(place.path())?;
        if let Some(hidden) = HIDDEN.iter().find(|top| place.path().starts_with(top)) {
            bail!("the guest does not see {here}: build to a target directory outside {hidden}");
        }
        fs::write(place.join("script"), format!("set -eu\n{script}"))?;
        let init = place.join("init");
        fs::write(&init, self.init(place.path())?)?;
        make_executable(&init)?;

        let mut boot = Tool::new("linux.uml")
            .limit(self.limit)
            .arg(format!("mem={}M", self.memory_mib));
        for (index, disk) in self.disks.iter().enumerate() {
            boot = boot.arg(format!("ubd{index}={}", text(disk)?));
        }
        let console = boot
            .args([
                "root=/dev/root",
                "rootfstype=hostfs",
                "rootflags=/",
                "rw",
                "quiet",
            ])
            .args(["con=null", "con0=null,fd:1"])
            .arg(format!("uml_dir={here}"))
            .arg(format!("init={}", text(&init)?))
            // Its memory is a file that it maps; a disk below would make it slow.
            .env("TMPDIR", "/dev/shm")
            .run()?;
        let output = fs::read_to_string(place.join("output")).unwrap_or_default();
        let Ok(status) = fs::read_to_string(place.join("status")) else {
            bail!("the guest did not finish:\n{output}\n--- its console\n{console}")
        };
        ensure!(
            status.trim() == "0",
            "the guest's script ended with {status}{output}"
        );
        Ok(Said(output))
    }

    /// Boots and runs the test `name` of this same test program inside, where [`inside_guest`] is
    /// true for it: what drives devices and servers is then Rust, not shell. Returns what it printed.
    ///
    /// # Errors
    /// As [`Guest::run`]; the test failed inside, or there is none of this name.
    pub fn run_test(&self, scratch: &Scratch, name: &str) -> Result<Said> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let program = text(&program)?;
        ensure!(!program.contains('\''), "a quote in {program}");
        let script = format!(
            // Other guests run at the same time, on the same files but for these.
            "mkdir -m 700 /run/own\n\
             export {INSIDE_VARIABLE}=1 TMPDIR=/run XDG_RUNTIME_DIR=/run/own RUST_BACKTRACE=0\n\
             '{program}' --exact '{name}' --nocapture --test-threads 1\n"
        );
        let said = self.run(scratch, &script)?;
        ensure!(
            said.text().contains("test result: ok. 1 passed"),
            "the guest did not run {name}:\n{}",
            said.text()
        );
        Ok(said)
    }

    /// The guest's first process: makes the machine usable, runs the script, turns the guest off.
    fn init(&self, place: &Path) -> Result<String> {
        let place = text(place)?;
        let mut init = String::from(concat!(
            "#!/bin/bash\n",
            "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n",
            "for kind in proc:/proc sysfs:/sys devtmpfs:/dev tmpfs:/run; do\n",
            "  mount -t ${kind%%:*} none ${kind#*:} 2>/dev/null\n",
            "done\n",
            "mkdir -p /dev/shm /dev/pts; mount -t tmpfs none /dev/shm\n",
            "busybox ifconfig lo 127.0.0.1 up\n",
            "dm() { echo /dev/dm-$(dmsetup info -c --noheadings -o minor \"$1\"); }\n",
            "export -f dm\n",
        ));
        writeln!(init, "modules={GUEST_MODULES}/$(uname -r)/kernel/drivers")?;
        let usual = ["md/dm-mod", "md/dm-bufio", "md/dm-snapshot", "block/nbd"];
        for module in usual.iter().chain(&self.modules) {
            writeln!(init, "busybox insmod $modules/{module}.ko")?;
        }
        for (name, value) in &self.variables {
            ensure!(!value.contains('\''), "a quote in the value of {name}");
            writeln!(init, "export {name}='{value}'")?;
        }
        writeln!(init, "cd '{place}/..'")?;
        writeln!(
            init,
            "bash '{place}/script' > '{place}/output' 2>&1 < /dev/null"
        )?;
        writeln!(init, "echo $? > '{place}/status'")?;
        writeln!(init, "sync\nbusybox poweroff -f")?;
        Ok(init)
    }
}

/// Whether this is a test that [`Guest::run_test`] runs, inside the guest.
#[must_use]
pub fn inside_guest() -> bool {
    std::env::var_os(INSIDE_VARIABLE).is_some()
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Said {
    /// What stands behind `name` and a blank, on the one line that begins so.
    ///
    /// # Errors
    /// No such line, or several.
    pub fn value(&self, name: &str) -> Result<&str> {
        let mut lines = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = lines
            .next()
            .with_context(|| format!("no `{name}` in:\n{}", self.0))?;
        ensure!(lines.next().is_none(), "`{name}` twice in:\n{}", self.0);
        Ok(value.trim_end())
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("cannot make executable")
}
