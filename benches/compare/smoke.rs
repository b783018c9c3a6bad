//! Each server runs each kind of job that it can, over very small images: the calls still fit the
//! programs that are installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use usnap_test_support::{Need, missing};

use crate::address::Transport;
use crate::chart;
use crate::contender::Contender;
use crate::measure::{Places, measure};
use crate::options::Options;
use crate::report::Report;

/// The jobs that are tried, each over one transport: every way to start a server, to fill it, to have
/// several connections, and to flush.
const RUN: [(&str, Transport); 5] = [
    ("4K first write q32", Transport::Unix),
    ("4K half-written read q32", Transport::Unix),
    ("4K overwrite q32 x4", Transport::Unix),
    ("4K first write q1 fsync 1", Transport::Unix),
    ("4K read q32", Transport::Tcp),
];

/// usnap, built the way these tests are.
fn usnap() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "-p", "usnap"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
    ensure!(built.success(), "cargo can't build usnap");
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent);
    let program = folder.context("a folder for tests")?.join("usnap");
    ensure!(program.is_file(), "cargo put no usnap beside the tests");
    Ok(program)
}

#[test]
fn every_server_can_be_started_metered_and_compared() -> Result<()> {
    let programs = ["fio", "nbdkit", "qemu-nbd", "qemu-img", "nbd-server"];
    if missing(&programs.map(Need::Program))? {
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let json = scratch.path().join("compare.json");
    let json = json.to_str().context("a plain path")?;
    let disk = scratch.path().to_str().context("a plain path")?;
    let options = Options::parse_from([
        "compare",
        "--set",
        "all",
        "--size-mib",
        "16",
        "--transport",
        "both",
        "--json",
        json,
        "--directory",
        disk,
        "--disk-directory",
        disk,
    ]);
    let mut steps = options.steps()?;
    steps.retain(|step| RUN.iter().any(|(name, _)| *name == step.job.to_string()));
    assert_eq!(steps.len(), RUN.len());
    let usnap = usnap()?;
    let places = Places::make(&options, &steps, &usnap)?;
    let mut report = Report::new(&options, &Contender::ALL, &steps, &usnap)?;
    for &transport in options.transports() {
        for step in &steps {
            let name = step.job.to_string();
            if !RUN.contains(&(name.as_str(), transport)) {
                continue;
            }
            for &server in &step.servers {
                let sample = measure(&places, (transport, server, &step.job, 0), 1)?;
                assert!(sample.requests > 0 && sample.iops > 0.0, "{sample:?}");
                report.add(sample);
            }
        }
    }
    report.save(&options.json)?;
    let told = report.markdown();
    assert!(told.contains("nbd-server copyonwrite"), "{told}");
    assert!(chart::draw(&report).to_svg().ends_with("</svg>\n"));
    let mut again = Report::new(&options, &Contender::ALL, &steps, &usnap)?;
    again.resume(&options.json)?;
    assert_eq!(again.markdown(), told);
    Ok(())
}
