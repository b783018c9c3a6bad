//! What a refusal must look like: the exit code, one line that says what can't be done and why,
//! perhaps a hint, and nothing else.

use anyhow::{Result, bail, ensure};
use usnap_test_support::Tool;
use usnap_test_support::tool::Output;

/// The exit code of what failed.
pub(crate) const FAILED: i32 = 1;

/// Runs `tool`, expects exit code 1 and one error line that contains each of `words`.
pub(crate) fn refused(tool: Tool, words: &[&str]) -> Result<()> {
    is_refusal(&tool.run()?, words)
}

/// The same of a program that has ended.
pub(crate) fn is_refusal(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(
        output.status.code() == Some(FAILED),
        "exit code 1 was expected: {output}"
    );
    let error_and_hint = error_and_hint(output)?;
    for word in words {
        ensure!(
            error_and_hint.contains(word),
            "the message lacks `{word}`: {output}"
        );
    }
    ensure!(
        output.stdout.is_empty(),
        "a result in spite of the failure: {output}"
    );
    Ok(())
}

/// The one error line and its hint, which nothing follows; the log may have said something before.
pub(crate) fn error_and_hint(output: &Output) -> Result<String> {
    let lines = output
        .stderr
        .lines()
        .skip_while(|line| !line.starts_with("usnap: "));
    let lines: Vec<&str> = lines.collect();
    match lines[..] {
        [error] if error.starts_with("usnap: cannot ") => Ok(error.to_owned()),
        [error, hint] if error.starts_with("usnap: cannot ") && hint.starts_with("hint: ") => {
            Ok(format!("{error}\n{hint}"))
        }
        _ => bail!("one error line was expected, and perhaps a hint: {output}"),
    }
}
