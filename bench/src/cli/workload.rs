//! The workload of a guest, in fio's terms.

use super::value;
use crate::error::Error;
use clap::{Args, ValueEnum};
use virtio_blk_sim::guest::{Pattern, Stop, Workload};

/// Bytes that one guest may have in flight.
const MOST_IN_FLIGHT: u64 = 256 << 20;
/// 64 GiB in blocks of 4 KiB; the guest keeps nine bytes for each.
const MOST_VERIFIED: u64 = 1 << 24;

/// The workload, as given.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkloadArgs {
    /// Kind and order of requests: read, write, randread, randwrite, randrw. Writes overwrite the
    /// disk of a server or of --backend file:PATH
    #[arg(long, value_name = "PATTERN", default_value = "randread")]
    pub(crate) rw: Pattern,
    /// Bytes of a request: a multiple of 512 up to 1m
    #[arg(long, value_name = "BYTES", default_value = "4k", value_parser = block_bytes)]
    pub(crate) bs: u32,
    /// Requests in flight, 1 to 1024
    #[arg(long, value_name = "N", default_value = "1", value_parser = iodepth)]
    pub(crate) iodepth: u16,
    /// Whether to negotiate VIRTIO_F_EVENT_IDX
    #[arg(long, value_name = "on|off", default_value = "on")]
    event_idx: Switch,
    /// Write recognisable blocks and check what is read; costs time on the guest's side
    #[arg(long)]
    pub(crate) verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl WorkloadArgs {
    /// Returns the workload without its length. A usage error names what is not possible.
    pub(crate) fn workload(&self) -> Result<Workload, Error> {
        let &Self { rw: pattern, bs, iodepth, verify, .. } = self;
        if verify && !pattern.writes() {
            return Err(Error::Usage(format!(
                "--verify: --rw {pattern} writes nothing that could be verified"
            )));
        }
        if u64::from(bs) * u64::from(iodepth) > MOST_IN_FLIGHT {
            return Err(Error::Usage(format!(
                "--iodepth {iodepth} of --bs {bs} is more than 256m in flight; lower one of them"
            )));
        }
        Ok(Workload { pattern, iodepth, stop: Stop::Requests(0), verify, seed: 1 })
    }

    /// Returns true if the guest should negotiate VIRTIO_F_EVENT_IDX.
    pub(crate) fn event_idx(&self) -> bool {
        self.event_idx == Switch::On
    }

    /// Returns the start of the workload's title, and a suffix with the options that differ from
    /// the usual.
    pub(crate) fn title(&self) -> [String; 2] {
        let event_idx = if self.event_idx() { "" } else { ", no EVENT_IDX" };
        let verify = if self.verify { ", verified" } else { "" };
        [format!("{} bs={} iodepth={}", self.rw, self.bs, self.iodepth), format!("{event_idx}{verify}")]
    }
}

/// Checks whether the guest can remember all blocks of a disk, if it verifies them. The error is
/// one sentence.
pub(crate) fn check_verify(workload: &Workload, blocks: u64) -> Result<(), String> {
    if workload.verify && blocks > MOST_VERIFIED {
        return Err(format!(
            "--verify remembers every block, and the disk has {blocks}, more than {MOST_VERIFIED}"
        ));
    }
    Ok(())
}

fn block_bytes(text: &str) -> Result<u32, String> {
    let bytes = value::size(text)?;
    if bytes == 0 || bytes > 1 << 20 || bytes % 512 != 0 {
        return Err("must be a multiple of 512 up to 1m".to_owned());
    }
    Ok(bytes as u32)
}

fn iodepth(text: &str) -> Result<u16, String> {
    value::within(text, 1, 1024).map(|depth| depth as u16)
}
