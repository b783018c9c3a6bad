//! The committed man pages and completions are what the definition of the command line gives.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use usnap_test_support::{Lab, Tool};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

fn content(folder: &Path) -> Result<BTreeMap<String, String>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read {}: run cargo xtask generate", folder.display()))?;
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.insert(name, std::fs::read_to_string(&path)?);
    }
    Ok(files)
}

#[test]
fn the_committed_man_pages_and_completions_are_current() -> Result<()> {
    let scratch = LAB.scratch("generated")?;
    LAB.usnap(&["generate"]).arg(scratch.path()).ok()?;
    let committed = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["man", "completions"] {
        let (ours, theirs) = (
            content(&scratch.join(folder))?,
            content(&committed.join(folder))?,
        );
        ensure!(
            ours.keys().eq(theirs.keys()),
            "cli/{folder} is old: run cargo xtask generate"
        );
        for (name, text) in &ours {
            let current = Some(text) == theirs.get(name);
            ensure!(
                current,
                "cli/{folder}/{name} is old: run cargo xtask generate"
            );
        }
    }
    Ok(())
}

#[test]
fn the_man_pages_tell_the_exit_codes() -> Result<()> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/usnap.1"))?;
    ensure!(page.contains("3 check found damage"), "{page}");
    Ok(())
}

#[test]
fn bash_takes_the_completions() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("completions/usnap.bash");
    let script = "source \"$0\" && complete -p usnap && COMP_WORDS=(usnap st) COMP_CWORD=1 \
                  && _usnap usnap st usnap && echo \"${COMPREPLY[@]}\"";
    let said = Tool::new("bash").args(["-c", script]).arg(&file).ok()?;
    ensure!(said.lines().last() == Some("status"), "{said}");
    Ok(())
}
