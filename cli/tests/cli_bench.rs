//! `usnap bench` over our servers, over others', over the engine, and over servers that misbehave.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use usnap_test_support::lab::{Untouched, text};
use usnap_test_support::tool::wait;
use usnap_test_support::{Lab, MIB, Need, Scratch, Tool, missing};

#[path = "cli_bench/double.rs"]
mod double;

use double::{Double, Manner};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const SIZE: u64 = 16 * MIB;

fn unix(socket: &Path) -> Result<String> {
    Ok(format!("nbd+unix:///?socket={}", text(socket)?))
}

/// `usnap bench` with short samples.
fn bench(uris: &[&str], words: &[&str]) -> Tool {
    let defaults = [["--seconds", "0.2"], ["--rounds", "2"]];
    let missing = defaults
        .iter()
        .filter(|[option, _]| !words.contains(option));
    LAB.usnap(&["bench"])
        .args(uris)
        .args(missing.flatten())
        .args(words)
}

/// For workloads that end when each block had its turn, on a machine that is busy.
const PATIENT: [&str; 2] = ["--seconds", "60"];

/// Runs it and reads its JSON.
fn measured(uris: &[&str], words: &[&str]) -> Result<Value> {
    let said = bench(uris, words).args(["--json", "-"]).ok()?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let samples = report["samples"].as_array().context("no samples")?;
    ensure!(!samples.is_empty(), "{said}");
    for sample in samples {
        let index = sample["uri_index"]
            .as_u64()
            .and_then(|index| usize::try_from(index).ok());
        let uri = &report["uris"][index.context("no index")?];
        consistent(sample, number(&uri["connections"])?)?;
    }
    Ok(report)
}

fn number(value: &Value) -> Result<f64> {
    value
        .as_f64()
        .with_context(|| format!("{value} is no number"))
}

/// The figures of a sample agree with each other.
fn consistent(sample: &Value, connections: f64) -> Result<()> {
    let told = |key: &str| number(&sample[key]);
    let rate = told("requests")? / told("seconds")?;
    ensure!(
        (rate / told("requests_per_second")? - 1.0).abs() < 1e-6,
        "{sample}"
    );
    let bytes = rate * told("block_size_bytes")?;
    ensure!(
        (bytes / told("bytes_per_second")? - 1.0).abs() < 1e-6,
        "{sample}"
    );
    let latency = &sample["latency"];
    let keys = ["p50_us", "p99_us", "p99_9_us", "max_us"];
    let values = keys.map(|key| number(&latency[key]));
    let values: Vec<f64> = values.into_iter().collect::<Result<_>>()?;
    ensure!(values.is_sorted() && values[0] > 0.0, "{sample}");
    // Little's law: as many are in flight as the depth says, at the most.
    let in_flight = rate * number(&latency["mean_us"])? / 1e6;
    ensure!(
        in_flight <= told("depth")? * connections * 1.02,
        "{in_flight} in flight: {sample}"
    );
    Ok(())
}

fn samples<'a>(report: &'a Value, workload: &str) -> Vec<&'a Value> {
    let samples = report["samples"].as_array().map_or(&[][..], |all| all);
    samples
        .iter()
        .filter(|sample| sample["workload"] == workload)
        .collect()
}

/// A folder with an image of which the first half is random.
fn place(name: &str) -> Result<(Scratch, PathBuf)> {
    let scratch = LAB.scratch(name)?;
    let origin = scratch.sparse_file("disk.img", SIZE)?;
    let mut random = usnap_test_support::Rng::new(1);
    let content: Vec<u8> = (0..SIZE / 16)
        .flat_map(|_| random.next_u64().to_le_bytes())
        .collect();
    std::fs::write(&origin, content)?;
    std::fs::File::options()
        .write(true)
        .open(&origin)?
        .set_len(SIZE)?;
    Ok((scratch, origin))
}

#[test]
fn our_server_counts_what_the_bench_says_it_did() -> Result<()> {
    let (scratch, origin) = place("bench-ours")?;
    let untouched = Untouched::note(&origin)?;
    let cow = scratch.join("a.cow");
    let server = LAB.serve(&origin)?.cow(&cow).start()?;
    let words = ["--write", "--verify", "--workload", "first-write"];
    let first = measured(&[server.uri()], &[&words[..], &PATIENT].concat())?;
    let words = [
        "--write",
        "--verify",
        "--workload",
        "read,overwrite,mix,fsync-32",
    ];
    let report = measured(&[server.uri()], &words)?;
    let all = [&first, &report].map(|report| report["samples"].as_array());
    for sample in all.into_iter().flatten().flatten() {
        let cow = &sample["cow"];
        let requests = number(&sample["requests"])? + number(&sample["flushes"])?;
        let writes = number(&sample["writes"])?;
        let behind = if writes > 0.0 { 1.0 } else { 0.0 };
        ensure!(
            number(&cow["server_requests"])? == requests + behind,
            "{sample}"
        );
        if sample["workload"] == "first-write" {
            ensure!(sample["ended_by"] == "size", "{sample}");
            ensure!(cow["first_writes"] == sample["writes"], "{sample}");
            ensure!(cow["chunks_written_whole"] == sample["writes"], "{sample}");
            ensure!(number(&cow["hit_rate"])? == 0.0, "{sample}");
            let amplification = number(&cow["write_amplification"])?;
            ensure!((1.0..1.2).contains(&amplification), "{sample}");
        }
        if sample["workload"] == "overwrite" {
            ensure!(number(&cow["hit_rate"])? == 1.0, "{sample}");
            ensure!(number(&cow["chunks_copied"])? == 0.0, "{sample}");
            ensure!(number(&cow["write_amplification"])? == 1.0, "{sample}");
        }
    }
    let firsts = samples(&first, "first-write");
    let blocks = SIZE / 4096 / 2;
    ensure!(
        firsts.len() == 2 && firsts[0]["requests"] == blocks,
        "{firsts:?}"
    );
    server.stop()?;
    LAB.check_is_clean(&cow)?;
    untouched.verify()
}

#[test]
fn writes_of_less_than_a_chunk_copy_the_rest_of_it() -> Result<()> {
    let (scratch, origin) = place("bench-copies")?;
    let cow = scratch.join("c.cow");
    let server = LAB
        .serve(&origin)?
        .cow(&cow)
        .args(&["--chunk-size", "16K"])
        .start()?;
    let words = [
        "--write",
        "--workload",
        "first-write",
        "--rounds",
        "1",
        "--seconds",
        "60",
    ];
    let report = measured(&[server.uri()], &words)?;
    let sample = &report["samples"][0];
    // Each of the chunks is copied once, and then written three times more.
    ensure!(sample["cow"]["chunks_copied"] == SIZE / 16384, "{sample}");
    let amplification = number(&sample["cow"]["write_amplification"])?;
    ensure!((1.75..1.8).contains(&amplification), "{sample}");
    server.stop()?;
    Ok(())
}

#[test]
fn several_connections_over_tcp_share_the_work() -> Result<()> {
    let (scratch, origin) = place("bench-tcp")?;
    let log = std::fs::File::create(scratch.join("log"))?;
    let mut server = Command::new(LAB.program())
        .args([
            "serve",
            text(&origin)?,
            "--cow",
            text(&scratch.join("c.cow"))?,
        ])
        .args(["--listen", "127.0.0.1:0", "--exit-with-parent"])
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let out = server.stdout.take().context("no output")?;
    let mut uri = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut uri)?;
    let server = Other(server);
    let words = ["--write", "--verify", "--connections", "3"];
    let first = [&words[..], &["--workload", "first-write"], &PATIENT].concat();
    let report = measured(&[uri.trim()], &first)?;
    let about = report["uris"][0]["about"].as_str().unwrap_or_default();
    ensure!(about == "usnap, 3 connections", "{about}");
    for sample in samples(&report, "first-write") {
        ensure!(sample["requests"] == SIZE / 4096 / 2, "{sample}");
        ensure!(sample["cow"]["first_writes"] == SIZE / 4096 / 2, "{sample}");
    }
    measured(
        &[uri.trim()],
        &[&words[..], &["--workload", "mix"]].concat(),
    )?;
    drop(server);
    Ok(())
}

#[test]
fn the_engine_is_measured_without_a_server_and_its_origin_stays() -> Result<()> {
    let (scratch, origin) = place("bench-engine")?;
    let untouched = Untouched::note(&origin)?;
    let name = text(&origin)?;
    let temporary = scratch.join("tmp");
    std::fs::create_dir(&temporary)?;
    let uris = [
        format!("engine:{name}"),
        format!("engine:{name},transient,chunk-size=16K"),
        format!("engine:{name},cow={}", text(&scratch.join("kept.cow"))?),
    ];
    let uris = uris.each_ref().map(String::as_str);
    let words = [
        "--write",
        "--verify",
        "--workload",
        "all",
        "--seconds",
        "0.05",
        "--json",
        "-",
    ];
    let said = bench(&uris, &words).env("TMPDIR", &temporary).ok()?;
    let report: Value = serde_json::from_str(&said)?;
    let results = report["results"].as_array().context("results")?;
    ensure!(results.len() == 11 * 3, "{}", results.len());
    ensure!(
        std::fs::read_dir(&temporary)?.next().is_none(),
        "a COW was left behind"
    );
    untouched.verify()?;
    LAB.check_is_clean(&scratch.join("kept.cow"))
}

#[test]
fn a_file_is_read_and_with_write_written() -> Result<()> {
    let (_scratch, origin) = place("bench-file")?;
    let untouched = Untouched::note(&origin)?;
    let uri = format!("file:{}", text(&origin)?);
    let report = measured(&[&uri], &["--workload", "read,seq-read"])?;
    ensure!(report["samples"][0]["cow"]["hit_rate"].is_null());
    untouched.verify()?;
    measured(&[&uri], &["--workload", "overwrite", "--write", "--verify"])?;
    ensure!(untouched.verify().is_err(), "nothing was written");
    Ok(())
}

#[test]
fn what_would_be_overwritten_is_not_touched_without_the_word() -> Result<()> {
    let (_scratch, origin) = place("bench-word")?;
    let untouched = Untouched::note(&origin)?;
    let uri = format!("file:{}", text(&origin)?);
    for workload in ["first-write", "half-read", "trim", "read,mix", "all"] {
        let output = bench(&[&uri], &["--workload", workload]).fails_with(2)?;
        ensure!(
            output.stderr.contains("it overwrites what file:"),
            "{output}"
        );
        ensure!(output.stderr.contains("\nhint: --write"), "{output}");
    }
    untouched.verify()?;
    let output = bench(&[&uri], &["--workload", "raed"]).fails_with(2)?;
    ensure!(output.stderr.contains("no such workload"), "{output}");
    ensure!(
        output
            .stderr
            .contains("hint: all, or some of read, seq-read, first-write"),
        "{output}"
    );
    let list = LAB.usnap(&["bench", "--list"]).ok()?;
    ensure!(
        list.lines().count() == 11 && list.contains("fsync-32 "),
        "{list}"
    );
    Ok(())
}

#[test]
fn a_read_only_export_is_not_written_to() -> Result<()> {
    let (_scratch, origin) = place("bench-read-only")?;
    let server = LAB.serve(&origin)?.args(&["--read-only"]).start()?;
    measured(&[server.uri()], &["--workload", "read"])?;
    let output = bench(&[server.uri()], &["--workload", "overwrite", "--write"]).fails_with(1)?;
    ensure!(output.stderr.contains(server.uri()), "{output}");
    ensure!(
        output
            .stderr
            .contains("it is read-only, and overwrite writes"),
        "{output}"
    );
    server.stop()?;
    Ok(())
}

#[test]
fn tables_chart_and_json_tell_of_every_uri() -> Result<()> {
    let (scratch, origin) = place("bench-output")?;
    let file = format!("file:{}", text(&origin)?);
    let engine = format!("engine:{}", text(&origin)?);
    let (json, svg) = (scratch.join("r.json"), scratch.join("r.svg"));
    let words = [
        "--json",
        text(&json)?,
        "--svg",
        text(&svg)?,
        "--depth",
        "1,8",
    ];
    let said = bench(&[&file, &engine], &words).ok()?;
    for line in [
        "4K read q1: requests a second",
        "4K read q8: requests a second",
    ] {
        ensure!(said.contains(line), "{said}");
    }
    ensure!(said.contains(&file) && said.contains(&engine), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    ensure!(
        report["samples"].as_array().map(Vec::len) == Some(8),
        "{report}"
    );
    // The order rotates.
    let order: Vec<_> = samples(&report, "read")
        .iter()
        .map(|s| s["uri_index"].as_u64())
        .collect();
    ensure!(
        order[..4] == [Some(0), Some(1), Some(1), Some(0)],
        "{order:?}"
    );
    if missing(&[Need::PythonModule("xml.dom.minidom")])? {
        return Ok(());
    }
    let script = "import sys, xml.dom.minidom as x\n\
        d = x.parse(sys.argv[1])\n\
        assert d.documentElement.tagName == 'svg'\n\
        print(len(d.getElementsByTagName('rect')))";
    let rects = usnap_test_support::python::python(script, &[text(&svg)?])?;
    // The paper, four panels, and a bar for each of four results.
    ensure!(rects.trim() == "9", "{rects}");
    Ok(())
}

/// Somebody else's server, killed when dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Other {
    /// Starts it and waits for its socket.
    fn start(words: &[&str], socket: &Path) -> Result<Self> {
        let [program, args @ ..] = words else {
            anyhow::bail!("no program")
        };
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let other = Self(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            ensure!(Instant::now() < deadline, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(other)
    }
}

#[test]
fn servers_of_others_are_measured_beside_ours() -> Result<()> {
    if missing(&[Need::Program("nbdkit"), Need::Program("qemu-nbd")])? {
        return Ok(());
    }
    let (scratch, origin) = place("bench-others")?;
    let (one, two) = (scratch.join("n"), scratch.join("q"));
    let _nbdkit = Other::start(&["nbdkit", "-f", "-U", text(&one)?, "memory", "16M"], &one)?;
    let image = scratch.sparse_file("q.img", SIZE)?;
    let words = [
        "qemu-nbd",
        "-t",
        "-f",
        "raw",
        "-k",
        text(&two)?,
        text(&image)?,
    ];
    let _qemu = Other::start(&words, &two)?;
    let ours = LAB.serve(&origin)?.args(&["--transient"]).start()?;
    let uris = [unix(&one)?, unix(&two)?, ours.uri().to_owned()];
    let uris = uris.each_ref().map(String::as_str);
    let workloads = "read,first-write,seq-write,fsync-32,mix,trim,zero";
    let report = measured(&uris, &["--write", "--verify", "--workload", workloads])?;
    for result in report["results"].as_array().context("results")? {
        ensure!(
            number(&result["ratio_to_first"]["median"])? > 0.0,
            "{result}"
        );
        // Nobody tells, not even we ourselves of a server without a COW file.
        ensure!(result["write_amplification"].is_null(), "{result}");
    }
    ours.stop()?;
    Ok(())
}

#[test]
fn a_server_that_misbehaves_is_an_error_with_its_uri_and_never_a_hang() -> Result<()> {
    let scratch = LAB.scratch("bench-hostile")?;
    let table = [
        (Manner::WrongCookie, "server broke the protocol"),
        (Manner::AnswersTwice, "server broke the protocol"),
        (Manner::WrongMagic, "server broke the protocol"),
        (Manner::Refuses, "server answered: "),
        (Manner::Closes, "connection"),
        (Manner::IsSilent, "no answer in 1 seconds"),
        (Manner::ClosesAtOnce, "connection"),
        (Manner::IsSilentAtOnce, "no answer in 1 seconds"),
    ];
    for (manner, said) in table {
        let server = Double::start(&scratch.join(&format!("{manner:?}")), manner)?;
        let uri = unix(server.socket())?;
        let tool = bench(&[&uri], &["--timeout", "1", "--depth", "4"]);
        let output = tool.limit(Duration::from_secs(20)).fails_with(1)?;
        let line = output.stderr.lines().last().unwrap_or_default();
        ensure!(
            line.starts_with(&format!("usnap: cannot bench {uri}: ")),
            "{output}"
        );
        ensure!(line.contains(said), "{manner:?}: {output}");
        ensure!(!output.stderr.contains("panicked"), "{output}");
    }
    let absent = unix(&scratch.join("absent"))?;
    let output = bench(&[&absent], &[]).fails_with(1)?;
    ensure!(output.stderr.contains("No such file"), "{output}");
    Ok(())
}

#[test]
fn a_server_that_loses_what_was_written_is_found_out() -> Result<()> {
    let scratch = LAB.scratch("bench-corrupt")?;
    for (manner, fails) in [(Manner::Honest, false), (Manner::Corrupts, true)] {
        for workload in ["first-write", "mix"] {
            let socket = scratch.join(&format!("{manner:?}-{workload}"));
            let server = Double::start(&socket, manner)?;
            let uri = unix(server.socket())?;
            let tool = bench(&[&uri], &["--write", "--verify", "--workload", workload]);
            if !fails {
                tool.ok()?;
                continue;
            }
            let output = tool.fails_with(1)?;
            ensure!(output.stderr.contains("reads otherwise"), "{output}");
            ensure!(
                output.stderr.contains("\nhint: the server lost or changed"),
                "{output}"
            );
        }
    }
    Ok(())
}

#[test]
fn an_interruption_prints_what_was_measured_so_far() -> Result<()> {
    let (scratch, origin) = place("bench-interrupted")?;
    let out = scratch.join("out");
    let mut child = Command::new(LAB.program())
        .args(["bench", &format!("file:{}", text(&origin)?)])
        .args(["--seconds", "1", "--rounds", "600"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out)?)
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(1500));
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.context("no pid")?, Signal::INT)?;
    let status = wait(&mut child, Duration::from_secs(20))?.context("it goes on")?;
    ensure!(status.code() == Some(130), "{status:?}");
    let said = std::fs::read_to_string(&out)?;
    ensure!(said.contains("4K read q32: requests a second"), "{said}");
    Ok(())
}
