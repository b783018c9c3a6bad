//! Which jobs run over which servers.

use clap::ValueEnum;

use crate::claim::CLAIMS;
use crate::contender::Contender;
use crate::job::Job;

/// A choice of jobs and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Set {
    /// A look: the servers of the README, at depth 32 and 256K
    Quick,
    /// What the claims need and nothing more
    Claims,
    /// What the README shows: the claims, and its servers at depth 1, depth 32 and 256K
    Main,
    /// Every job over every server that can do it
    All,
}

/// A job and the servers it runs over, back to back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) job: Job,
    pub(crate) servers: Vec<Contender>,
}

/// The jobs that the README's tables and chart show.
pub(crate) const SHOWN: [&str; 11] = [
    "4K read q1",
    "4K first write q1",
    "4K overwrite q1",
    "4K 70/30 mix q1",
    "4K read q32",
    "4K first write q32",
    "4K overwrite q32",
    "4K 70/30 mix q32",
    "256K read q4",
    "256K first write q4",
    "256K overwrite q4",
];

/// The steps of a set, in order, cut down to the jobs and servers that a word of `only` chooses; words
/// that choose no job leave the jobs alone, and the same for servers.
pub(crate) fn steps(set: Set, only: &[String]) -> Vec<Step> {
    let has_word = |name: &str| only.iter().any(|word| name.contains(word.as_str()));
    let all = Job::all();
    let jobs_named = all.iter().any(|job| has_word(&job.to_string()));
    let servers_named = Contender::ALL.iter().any(|one| has_word(&one.to_string()));
    let mut steps = Vec::new();
    for job in all {
        let name = job.to_string();
        if jobs_named && !has_word(&name) {
            continue;
        }
        let chosen = |server: &Contender| {
            (!servers_named || has_word(&server.to_string()))
                && job.suits(*server)
                && set.has(&name, *server)
        };
        let servers: Vec<Contender> = Contender::ALL.into_iter().filter(chosen).collect();
        if !servers.is_empty() {
            steps.push(Step { job, servers });
        }
    }
    steps
}

impl Set {
    fn has(self, job: &str, server: Contender) -> bool {
        let is_shown = || SHOWN.contains(&job) && Contender::MAIN.contains(&server);
        let is_claimed = || {
            CLAIMS
                .iter()
                .flat_map(|claim| claim.cells())
                .any(|cell| cell.job == job && cell.server == server)
        };
        match self {
            Self::Quick => is_shown() && !job.contains(" q1"),
            Self::Claims => is_claimed(),
            Self::Main => is_shown() || is_claimed(),
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(set: Set) -> usize {
        steps(set, &[]).iter().map(|step| step.servers.len()).sum()
    }

    #[test]
    fn each_set_holds_the_smaller_ones() {
        assert!(count(Set::Quick) < count(Set::Main));
        assert!(count(Set::Claims) < count(Set::Main));
        assert!(count(Set::Main) < count(Set::All));
        let has = |step: &Step, set| {
            let found = steps(set, &[]);
            let same = found.into_iter().find(|other| other.job == step.job);
            same.is_some_and(|other| step.servers.iter().all(|one| other.servers.contains(one)))
        };
        for set in [Set::Quick, Set::Claims] {
            assert!(steps(set, &[]).iter().all(|step| has(step, Set::Main)));
        }
        assert!(steps(Set::Main, &[]).iter().all(|step| has(step, Set::All)));
    }

    #[test]
    fn all_has_every_job_and_every_server() {
        let steps = steps(Set::All, &[]);
        assert_eq!(steps.len(), Job::all().len());
        for server in Contender::ALL {
            assert!(steps.iter().any(|step| step.servers.contains(&server)));
        }
    }

    #[test]
    fn what_is_shown_is_there() {
        let names: Vec<String> = Job::all().iter().map(Job::to_string).collect();
        for shown in SHOWN {
            assert!(names.iter().any(|name| name == shown), "{shown}");
        }
    }

    #[test]
    fn a_word_chooses_servers_or_jobs_and_leaves_the_other_kind_alone() {
        let word = |word: &str| steps(Set::All, &[word.to_owned()]);
        let ours = word("usnap");
        assert_eq!(ours.len(), Job::all().len());
        assert!(
            ours.iter()
                .all(|step| step.servers.iter().all(|one| one.is_ours()))
        );
        let cold = word("cold");
        assert_eq!(cold.len(), 2);
        assert!(cold.iter().any(|step| step.servers.len() > 4));
        assert!(word("nothing is called that").len() == Job::all().len());
    }
}
