//! Our side as people use it: the built program, its server, and a client over NBD.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use usnap_test_support::lab::text;
use usnap_test_support::raw_client::command;
use usnap_test_support::{RawClient, Serve, Server};

use crate::history::{Shape, Store};
use crate::ours::Files;
use crate::play::{Device, Side};
use crate::{LAB, SECTOR};

pub(crate) struct Served {
    files: Files,
    discard: &'static str,
    active: Option<(Server, RawClient)>,
}

impl Served {
    /// With a store made by `usnap create`.
    pub(crate) fn create(root: &Path, shape: &Shape) -> Result<Self> {
        let files = if shape.store == Store::OverGarbage {
            // The program refuses to make a store over old bytes.
            Files::create(root, shape)?
        } else {
            let files = Files::new(root, shape)?;
            let (cow, size) = (files.cow(), (shape.cow * SECTOR).to_string());
            let chunk_size = (shape.chunk * SECTOR).to_string();
            let mut arguments = vec!["create", text(&cow)?, "--size", &size];
            arguments.extend(["--chunk-size", &chunk_size]);
            if shape.store == Store::Plain {
                arguments.push("--no-identity");
            }
            LAB.usnap(&arguments).ok()?;
            files
        };
        Ok(Self {
            files,
            discard: if shape.discards { "zeroes" } else { "punch" },
            active: None,
        })
    }

    fn client(&mut self) -> Result<&mut RawClient> {
        let (_, client) = self.active.as_mut().context("it is not active")?;
        Ok(client)
    }

    fn call(&mut self, command: u16, offset: u64, len: u64, payload: &[u8]) -> Result<i32> {
        let len = u32::try_from(len)?;
        let error = self.client()?.call(command, offset, len, payload)?;
        Ok(i32::try_from(error)?)
    }
}

impl Device for Served {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<i32> {
        self.call(command::WRITE, offset, data.len() as u64, data)
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Result<Vec<u8>, i32>> {
        let mut found = vec![0; len];
        let error = self.client()?.read_or_error(offset, &mut found)?;
        Ok(if error == 0 {
            Ok(found)
        } else {
            Err(i32::try_from(error)?)
        })
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<i32> {
        self.call(command::TRIM, offset, len, &[])
    }

    fn flush(&mut self) -> Result<i32> {
        self.call(command::FLUSH, 0, 0, &[])
    }
}

impl Side for Served {
    fn activate(&mut self) -> Result<()> {
        let program = Path::new(LAB.program());
        let serve = Serve::new(program, self.files.root(), &self.files.origin())?;
        let server = serve
            .cow(&self.files.cow())
            .args(&["--durability", "every-write"])
            .args(&["--discard", self.discard])
            .start()?;
        let client = RawClient::connect(&server.socket())?;
        self.active = Some((server, client));
        Ok(())
    }

    fn deactivate(&mut self) -> Result<()> {
        let (server, client) = self.active.take().context("it is not active")?;
        client.disconnect()?;
        server.stop().map(drop)
    }

    fn status(&mut self) -> Result<String> {
        LAB.status_line(&self.files.cow())
    }

    fn cow(&self) -> Result<Vec<u8>> {
        fs::read(self.files.cow()).context("no COW file")
    }
}
