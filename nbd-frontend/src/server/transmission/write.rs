//! Requests that change the device, and the payloads of those that are refused.

use std::time::Duration;

use usnap_engine::Result as DeviceResult;
use usnap_engine::device::ZeroFlags;

use super::pace::LOOK;
use super::{End, Transmission, piece_len};
use crate::proto::Request;
use crate::server::limits::{SPAN_BYTES, WINDOW_BYTES};

impl Transmission<'_> {
    /// Writes the payload that follows, whose end may not have come yet.
    pub(super) fn write(&mut self, request: &Request, len: u32, fua: bool) -> Result<(), End> {
        let block = self.negotiated.export.preferred_block_bytes;
        let mut result = Ok(());
        let mut done = 0;
        while done < u64::from(len) {
            self.answers.check_cut()?;
            let offset = request.offset + done;
            let piece = piece_len(offset, u64::from(len) - done, block) as usize;
            self.receive_payload(piece)?;
            // Behind an error the payload is still to be received, and nothing more written.
            if result.is_ok() {
                result = self
                    .connection
                    .device
                    .write_at(&self.receiver.buffered()[..piece], offset);
            }
            self.receiver.consume(piece);
            done += piece as u64;
        }
        match result {
            Ok(()) => {
                self.answers.tally.written_bytes += u64::from(len);
                self.succeed_with(request, fua)
            }
            Err(error) => {
                self.answers.fail_with(request, &error);
                Ok(())
            }
        }
    }

    pub(super) fn trim(&mut self, request: &Request, len: u64, fua: bool) -> Result<(), End> {
        let device = &self.connection.device;
        match self.in_spans(request.offset, len, |at, len| device.discard_at(at, len))? {
            Ok(()) => self.succeed_with(request, fua),
            Err(error) => {
                self.answers.fail_with(request, &error);
                Ok(())
            }
        }
    }

    pub(super) fn write_zeroes(
        &mut self,
        request: &Request,
        len: u64,
        fua: bool,
        no_hole: bool,
        fast_zero: bool,
    ) -> Result<(), End> {
        let flags = ZeroFlags {
            no_hole,
            fast: fast_zero,
        };
        let device = &self.connection.device;
        let result = if fast_zero && len > 0 {
            // "SHOULD NOT alter the contents of the export when returning an `NBD_ENOTSUP`
            // failure" (proto.md, "Request types"): the device can only see to that if it is asked
            // for all at once.
            device.zero_at(request.offset, len, flags)
        } else {
            self.in_spans(request.offset, len, |at, len| {
                device.zero_at(at, len, flags)
            })?
        };
        match result {
            Ok(()) => self.succeed_with(request, fua),
            Err(error) => {
                self.answers.fail_with(request, &error);
                Ok(())
            }
        }
    }

    /// Has the device do something without payload, in pieces between which a cut ends it. They
    /// end where its blocks do, so that no block is handled in two pieces.
    fn in_spans(
        &self,
        offset: u64,
        len: u64,
        mut call: impl FnMut(u64, u64) -> DeviceResult<()>,
    ) -> Result<DeviceResult<()>, End> {
        let block = u64::from(self.negotiated.export.preferred_block_bytes);
        // Both are powers of two.
        let span = block.max(SPAN_BYTES);
        let mut done = 0;
        while done < len {
            self.answers.check_cut()?;
            let at = offset + done;
            let piece = (span - at % span).min(len - done);
            if let Err(error) = call(at, piece) {
                return Ok(Err(error));
            }
            done += piece;
        }
        Ok(Ok(()))
    }

    /// Receives the payload of a request that is refused, and throws it away.
    #[cold]
    pub(super) fn drain(&mut self, len: u64) -> Result<(), End> {
        let mut left = len;
        while left > 0 {
            let piece = usize::try_from(left)
                .unwrap_or(WINDOW_BYTES)
                .min(WINDOW_BYTES);
            self.receive_payload(piece)?;
            self.receiver.consume(piece);
            left -= piece as u64;
        }
        Ok(())
    }

    /// Receives until `len` bytes of payload are there. What others wait for goes out before: they
    /// may be slow to send the rest, or wait for an answer with it.
    #[inline]
    fn receive_payload(&mut self, len: usize) -> Result<(), End> {
        let missing = len.saturating_sub(self.receiver.buffered().len());
        if missing == 0 {
            return Ok(());
        }
        if !self.deferred.is_empty() && self.connection.channel.available_bytes() < missing as u64 {
            self.settle()?;
        }
        self.answers.send()?;
        // Header and payload often come one shortly after the other.
        let soon = if self.pace.is_quick() {
            LOOK
        } else {
            Duration::ZERO
        };
        self.receiver
            .receive_exact(&self.connection.channel, len, soon)?;
        Ok(())
    }
}
