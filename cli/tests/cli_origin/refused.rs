//! What can't be served, added or dropped: said in one line, and nothing is changed.

use anyhow::{Result, ensure};
use usnap_test_support::lab::{self, Untouched};
use usnap_test_support::{RawClient, Server};

use crate::world::{LAB, World, shows};

#[test]
fn what_can_not_be_served_is_refused_and_no_file_is_left_or_changed() -> Result<()> {
    let world = World::new("unserved", 13)?;
    lab::write_file(&world.scratch.join("foreign"), &[b'x'; 100_000])?;
    std::fs::create_dir(world.scratch.join("folder"))?;
    let files = ["o.img", "foreign"];
    let untouched: Vec<_> = files
        .iter()
        .map(|name| Untouched::note(&world.scratch.join(name)))
        .collect::<Result<_>>()?;
    let table: &[(i32, &[&str])] = &[
        (1, &["absent"]),
        (1, &["folder"]),
        (1, &["o.img", "--snapshot", "a=foreign"]),
        (1, &["o.img", "--snapshot", "a=folder"]),
        (1, &["o.img", "--snapshot", "a=folder/b/c"]),
        (1, &["o.img", "--snapshot", "a=o.img"]),
        (
            1,
            &["o.img", "--snapshot", "n=new", "--snapshot", "a=foreign"],
        ),
        (
            1,
            &["o.img", "--snapshot", "n=new", "--snapshot", "a=./new"],
        ),
        (2, &["o.img", "--snapshot", "n=new", "--snapshot", "a=new"]),
        (
            2,
            &["o.img", "--snapshot", "n=new", "--snapshot", "n=other"],
        ),
        (2, &["o.img", "--snapshot", "n=new", "--name", "n"]),
        (2, &["o.img", "--snapshot", "=new"]),
        (2, &["o.img", "--snapshot", "new"]),
        (2, &["o.img", "--snapshot", "n=new,chunk-size=3K"]),
        (2, &["o.img", "--snapshot", "n=new,cow-size=4K"]),
        (2, &["o.img", "--snapshot", "n=new,colour=red"]),
        (2, &["o.img", "--when-full", "perhaps"]),
    ];
    for (code, args) in table {
        let refused = LAB
            .usnap(&["serve-origin"])
            .args(*args)
            .args(["--run", "true"])
            .current_dir(world.scratch.path())
            .fails_with(*code)?;
        ensure!(refused.stderr.contains("usnap: cannot "), "{refused}");
        ensure!(!refused.stderr.contains("panicked"), "{refused}");
        ensure!(
            !world.scratch.join("new").exists(),
            "left behind: {refused}"
        );
    }
    untouched.iter().try_for_each(Untouched::verify)?;
    let left = std::fs::read_dir(world.scratch.path())?.count();
    ensure!(left == 3, "{left} files are in the folder");
    Ok(())
}

/// Expects a request to fail with that code, and the server to go on.
fn refused(world: &World, server: &Server, code: i32, words: &[&str], said: &str) -> Result<()> {
    let (word, args) = (words[0], &words[1..]);
    let output = world.snapshot(word, args)?;
    ensure!(output.status.code() == Some(code), "{output}");
    ensure!(
        output.stderr.contains("usnap: cannot ") && output.stderr.contains(said),
        "{said}: {output}"
    );
    ensure!(output.stdout.is_empty(), "{output}");
    RawClient::connect(&server.socket())?.write_at(0, &[1; 512])
}

#[test]
fn requests_that_make_no_sense_are_refused_and_the_server_goes_on() -> Result<()> {
    let mut world = World::new("unmade", 14)?;
    lab::write_file(&world.scratch.join("foreign.cow"), &[b'x'; 100_000])?;
    let moment = world.bytes.clone();
    let spec = world.spec("one", "");
    let server = world.serve(std::slice::from_ref(&spec), &[])?;
    world.bytes[..512].fill(1);
    let foreign = world.spec("foreign", "");
    let in_use = format!("two={}", world.cow("one").display());
    let itself = format!("two={}", world.origin().display());
    let nowhere = world.spec("no/folder", "");
    let tiny = world.spec("tiny", ",cow-size=4K");
    let long = format!("{}=c", "x".repeat(5000));
    let table: [(i32, &[&str], &str); 11] = [
        (1, &["add", &spec], "export of that name"),
        (1, &["add", &foreign], "foreign.cow"),
        (1, &["add", &in_use], "one.cow"),
        (1, &["add", &itself], "o.img"),
        (1, &["add", &nowhere], "no/folder"),
        (1, &["add", &tiny], "tiny.cow"),
        (2, &["add", "two"], "NAME=COW"),
        (2, &["add", "=c"], "empty"),
        (2, &["add", &long], "4096"),
        (1, &["drop", "two"], "none of that name"),
        (1, &["drop", ""], "none of that name"),
    ];
    for (code, words, said) in table {
        refused(&world, &server, code, words, said)?;
    }
    ensure!(!world.cow("tiny").exists(), "a COW was left behind");
    shows(&server, "one", &moment)?;
    shows(&server, "", &world.bytes)?;
    server.stop()?;
    // Nobody is there to be asked any more.
    for words in [&["list"][..], &["add", &spec], &["drop", "one"]] {
        let output = world.snapshot(words[0], &words[1..])?;
        ensure!(output.status.code() == Some(1), "{output}");
        ensure!(
            output.stderr.contains("\nhint: usnap serve-origin "),
            "{output}"
        );
    }
    Ok(())
}

#[test]
fn an_origin_that_is_written_to_is_nobody_elses() -> Result<()> {
    let world = World::new("alone", 15)?;
    let origin = world.origin();
    let origin = lab::text(&origin)?;
    let server = world.serve(&[], &[])?;
    for args in [
        &["serve", origin, "--transient"][..],
        &["serve-origin", origin],
    ] {
        let refused = LAB.usnap(args).args(["--run", "true"]).fails_with(1)?;
        ensure!(refused.stderr.contains("usnap: cannot "), "{refused}");
    }
    server.stop()?;
    let reader = LAB.serve(&world.origin())?.args(&["--read-only"]).start()?;
    let refused = LAB
        .usnap(&["serve-origin", origin, "--run", "true"])
        .fails_with(1)?;
    ensure!(refused.stderr.contains("usnap: cannot "), "{refused}");
    reader.stop()?;
    Ok(())
}
