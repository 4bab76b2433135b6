//! The way of a request on a disk that counts its requests.

use std::time::Instant;

use super::device::{FinishedRequest, Operation, Request, RequestSlot, Started};
use super::disk::{BlkWorker, answer, bytes};
use crate::metrics::{Kind, Recorder};
use crate::queue::{Answer, Meter};

impl BlkWorker {
    /// [`Worker::begin`](crate::queue::Worker::begin), with the time that it takes.
    #[inline(never)]
    pub(super) fn begin_metered(
        &self,
        recorder: &Recorder,
        slot: RequestSlot,
        meter: Meter<'_>,
    ) -> Option<Answer<RequestSlot>> {
        let taken_at = recorder.taken_at();
        let mut kind = Kind::Refused;
        let looked = |request: &Request| {
            kind = match request {
                Request::Disk(operation) => kind_of(operation),
                Request::GetId => Kind::GetId,
            }
        };
        match slot.begin_with(&self.device, looked) {
            Started::Finished(finished) => {
                meter.charge(|| 0);
                let took = recorder.read_clock().saturating_duration_since(taken_at);
                recorder.record(kind, 0, took, None);
                Some(answer(finished, &self.name))
            }
            Started::Pending(mut request) => {
                meter.charge(|| bytes(request.operation()));
                request.set_taken_at(taken_at);
                let finished = self.engine.submit(request)?;
                record(recorder, &finished, recorder.read_clock());
                Some(answer(finished, &self.name))
            }
        }
    }
}

/// Records a chain that the queue refused.
#[cold]
pub(super) fn record_refusal(recorder: &Recorder) {
    let taken_at = recorder.taken_at();
    let took = recorder.read_clock().saturating_duration_since(taken_at);
    recorder.record(Kind::Refused, 0, took, None);
}

/// Records requests that the backend has finished later.
pub(super) fn record_batch(recorder: &Recorder, finished: &[FinishedRequest]) {
    let now = Instant::now();
    finished.iter().for_each(|finished| record(recorder, finished, now));
}

fn record(recorder: &Recorder, finished: &FinishedRequest, now: Instant) {
    let operation = finished.operation();
    let moved = match operation {
        Operation::Discard(ranges) => ranges.iter().map(|range| range.len_bytes()).sum(),
        operation => bytes(operation),
    };
    let took = now.saturating_duration_since(finished.taken_at().unwrap_or(now));
    let errno = finished.failure().map(|(_, error)| error.raw_os_error().unwrap_or(0));
    recorder.record(kind_of(operation), moved, took, errno);
}

fn kind_of(operation: &Operation) -> Kind {
    match operation {
        Operation::In { .. } => Kind::Read,
        Operation::Out { .. } => Kind::Write,
        Operation::Flush => Kind::Flush,
        Operation::Discard(_) => Kind::Discard,
        Operation::WriteZeroes { .. } => Kind::WriteZeroes,
    }
}
