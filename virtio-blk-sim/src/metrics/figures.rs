//! What a queue has counted, in a form that can be sent and added up.

use std::collections::BTreeMap;

use super::latency::BUCKETS;
use crate::queue::QueueStats;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Discard,
    /// A write of zeros.
    WriteZeroes,
    /// The question for the serial number.
    GetId,
    /// A request that was not carried out because of its form, or a chain that cannot be served.
    Refused,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Write, Self::Flush, Self::Discard, Self::WriteZeroes, Self::GetId, Self::Refused];

    /// The value of the label `operation`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes => "write-zeroes",
            Self::GetId => "get-id",
            Self::Refused => "refused",
        }
    }
}

/// The frontends of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frontends {
    /// A frontend is connected.
    pub is_connected: bool,
    /// How many there were, with the present one.
    pub sessions: u64,
    /// How often they had to wait because they sent too many messages.
    pub throttled_messages: u64,
    /// How often they had to wait because they connected too often.
    pub throttled_connections: u64,
}

/// What a queue has counted since its disk was made.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    pub(super) operations: BTreeMap<Kind, OperationFigures>,
    /// By kind and errno.
    pub(super) errors: BTreeMap<(Kind, i32), u64>,
    pub(super) stats: QueueStats,
}

/// What a queue has counted of one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OperationFigures {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    /// The times of all requests together.
    pub(super) total_ns: u64,
    pub(super) buckets: [u64; BUCKETS],
}

impl Figures {
    /// Adds what was counted elsewhere, or at another time.
    pub(super) fn add(&mut self, other: &Self) {
        self.combine(other, u64::wrapping_add);
    }

    /// Takes what is larger, of two looks at the same queue.
    pub(super) fn raise(&mut self, other: &Self) {
        self.combine(other, u64::max);
    }

    fn combine(&mut self, other: &Self, both: fn(u64, u64) -> u64) {
        for (kind, theirs) in &other.operations {
            let ours = self.operations.entry(*kind).or_default();
            ours.requests = both(ours.requests, theirs.requests);
            ours.bytes = both(ours.bytes, theirs.bytes);
            ours.total_ns = both(ours.total_ns, theirs.total_ns);
            for (ours, theirs) in ours.buckets.iter_mut().zip(&theirs.buckets) {
                *ours = both(*ours, *theirs);
            }
        }
        for (error, theirs) in &other.errors {
            let ours = self.errors.entry(*error).or_default();
            *ours = both(*ours, *theirs);
        }
        self.stats.interrupts = both(self.stats.interrupts, other.stats.interrupts);
        self.stats.drains = both(self.stats.drains, other.stats.drains);
        self.stats.stalls = both(self.stats.stalls, other.stats.stalls);
    }
}
