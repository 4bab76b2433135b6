//! The way of a request on a disk that counts its requests.

use std::time::Instant;

use super::backend::Engine;
use super::device::{BlockDevice, FinishedRequest, Operation, Request, RequestSlot, Started};
use crate::metrics::{Kind, Recorder};
use crate::queue::Meter;

/// [`Worker::begin`](crate::queue::Worker::begin), with the time that it takes.
#[inline(never)]
pub(super) fn begin_metered(
    recorder: &Recorder,
    device: &BlockDevice,
    engine: &Engine,
    slot: RequestSlot,
    meter: Meter<'_>,
) -> Option<FinishedRequest> {
    let taken_at = recorder.taken_at();
    match slot.begin(device) {
        Started::Finished(finished) => {
            meter.charge(|| 0);
            let kind = match finished.parse_again(device) {
                Some(Request::Disk(operation)) => kind_of(&operation),
                Some(Request::GetId) => Kind::GetId,
                None => Kind::Refused,
            };
            let took = recorder.read_clock().saturating_duration_since(taken_at);
            recorder.record(kind, 0, took, None);
            Some(finished)
        }
        Started::Pending(mut request) => {
            meter.charge(|| request.operation().moved_bytes());
            request.set_taken_at(taken_at);
            let finished = engine.submit(request)?;
            record(recorder, &finished, recorder.read_clock());
            Some(finished)
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

/// Records a request that the backend has finished at the end of its batch.
#[inline(never)]
pub(super) fn record_now(recorder: &Recorder, finished: &FinishedRequest) {
    record(recorder, finished, recorder.read_clock());
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
        operation => operation.moved_bytes(),
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
