//! Events as lines.

use std::time::UNIX_EPOCH;

use super::message::quoted;
use crate::events::{Event, Stamped, Subject};

/// The line of an event.
pub(super) fn line(stamped: &Stamped) -> String {
    let since = stamped.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, microseconds) = (since.as_secs(), since.subsec_micros());
    let (name, data) = name_and_data(&stamped.event);
    format!(
        "{{\"event\": \"{name}\", \"data\": {{{data}}}, \"timestamp\": {{\"seconds\": {seconds}, \
         \"microseconds\": {microseconds}}}}}\n"
    )
}

fn name_and_data(event: &Event) -> (&'static str, String) {
    let of = |disk: &Subject| format!("\"id\": {}, \"generation\": {}", quoted(&disk.id), disk.generation);
    match event {
        Event::DiskAdded { disk } => ("disk-added", of(disk)),
        Event::DiskRemoved { disk } => ("disk-removed", of(disk)),
        Event::DiskResized { disk, sectors } => {
            ("disk-resized", format!("{}, \"sectors\": {sectors}", of(disk)))
        }
        Event::DiskFailed { disk, error } => {
            ("disk-failed", format!("{}, \"error\": {}", of(disk), quoted(error)))
        }
        Event::FrontendConnected { disk } => ("frontend-connected", of(disk)),
        Event::FrontendDisconnected { disk } => ("frontend-disconnected", of(disk)),
        Event::LoopEnded { index, thread, error } => {
            let (thread, error) = (quoted(thread), quoted(error));
            ("loop-ended", format!("\"loop\": {index}, \"thread\": {thread}, \"error\": {error}"))
        }
        Event::EventsLost { count } => ("events-lost", format!("\"count\": {count}")),
    }
}
