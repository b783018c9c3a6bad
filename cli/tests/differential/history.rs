//! A history: the devices' shape and the steps, with a text form that the guest reads and a failure
//! prints.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail, ensure};
use usnap_test_support::Rng;

use crate::SECTOR;

/// The kernel's two persistent modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    P,
    Po,
}

/// What makes the store on our side, and what the COW device held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Without an identity record, on zeros.
    Plain,
    /// With an identity record, on zeros.
    Identity,
    /// Without an identity record, over old bytes that are no store.
    OverGarbage,
}

/// The devices. Sizes in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    pub(crate) chunk: u64,
    pub(crate) origin: u64,
    pub(crate) cow: u64,
    pub(crate) mode: Mode,
    pub(crate) store: Store,
    /// Whether the kernel's table has `discard_zeroes_cow`.
    pub(crate) discards: bool,
}

/// Positions and lengths in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The stamp makes the bytes.
    Write {
        at: u64,
        len: u64,
        stamp: u64,
    },
    Read {
        at: u64,
        len: u64,
    },
    Discard {
        at: u64,
        len: u64,
    },
    Flush,
    /// Deactivate, look at the COW device, activate.
    Reactivate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) shape: Shape,
    pub(crate) steps: Vec<Step>,
}

/// Sectors as a length in memory.
pub(crate) fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR).expect("the devices fit in memory")
}

impl Shape {
    pub(crate) fn origin_content(&self) -> Vec<u8> {
        Rng::new(self.seed ^ 0x0419_0419).bytes(bytes(self.origin))
    }

    /// What the COW device holds before there is a store. To the kernel, and to us where we are
    /// told to make one, four zeros at the beginning are an unused device.
    pub(crate) fn unused_cow(&self) -> Vec<u8> {
        match self.store {
            Store::Plain | Store::Identity => vec![0; bytes(self.cow)],
            Store::OverGarbage => {
                let mut content = vec![0xee; bytes(self.cow)];
                content[..4].fill(0);
                content
            }
        }
    }

    pub(crate) fn payload(&self, stamp: u64, len: u64) -> Vec<u8> {
        Rng::new(self.seed << 16 ^ stamp).bytes(bytes(len))
    }

    /// Sectors of the last chunk, where it is not a whole one.
    pub(crate) fn cut_tail(&self) -> Option<u64> {
        Some(self.origin % self.chunk).filter(|tail| *tail != 0)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P => "P",
            Self::Po => "PO",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { at, len, stamp } => write!(f, "w{at}+{len}#{stamp}"),
            Self::Read { at, len } => write!(f, "r{at}+{len}"),
            Self::Discard { at, len } => write!(f, "d{at}+{len}"),
            Self::Flush => f.write_str("f"),
            Self::Reactivate => f.write_str("a"),
        }
    }
}

impl FromStr for Step {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, rest) = text.split_at_checked(1).context("an empty step")?;
        let (place, stamp) = rest.split_once('#').unwrap_or((rest, "0"));
        let place = place.split_once('+');
        let place = place.map(|(at, len)| Ok::<_, Error>((at.parse()?, len.parse()?)));
        Ok(match (kind, place.transpose()?) {
            ("w", Some((at, len))) => Self::Write {
                at,
                len,
                stamp: stamp.parse()?,
            },
            ("r", Some((at, len))) => Self::Read { at, len },
            ("d", Some((at, len))) => Self::Discard { at, len },
            ("f", None) => Self::Flush,
            ("a", None) => Self::Reactivate,
            _ => bail!("no step: {text}"),
        })
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape {
            seed,
            chunk,
            origin,
            cow,
            mode,
            store,
            discards,
        } = &self.shape;
        let store = match store {
            Store::Plain => "plain",
            Store::Identity => "identity",
            Store::OverGarbage => "garbage",
        };
        let discards = u8::from(*discards);
        write!(f, "{seed} {chunk} {origin} {cow} {mode} {store} {discards}")?;
        self.steps.iter().try_for_each(|step| write!(f, " {step}"))
    }
}

impl FromStr for History {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        ensure!(words.len() >= 7, "no history: {text}");
        let shape = Shape {
            seed: words[0].parse()?,
            chunk: words[1].parse()?,
            origin: words[2].parse()?,
            cow: words[3].parse()?,
            mode: match words[4] {
                "P" => Mode::P,
                "PO" => Mode::Po,
                other => bail!("no mode: {other}"),
            },
            store: match words[5] {
                "plain" => Store::Plain,
                "identity" => Store::Identity,
                "garbage" => Store::OverGarbage,
                other => bail!("no kind of store: {other}"),
            },
            discards: words[6] == "1",
        };
        let steps = words[7..].iter().map(|word| word.parse());
        let steps = steps.collect::<Result<_>>()?;
        Ok(Self { shape, steps })
    }
}
