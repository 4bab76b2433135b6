//! Events as lines.

use std::time::UNIX_EPOCH;

use super::message::quoted;
use crate::events::{Event, Stamped};

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
    let of = |id: &str| format!("\"id\": {}", quoted(id));
    match event {
        Event::DiskAdded { id } => ("disk-added", of(id)),
        Event::DiskRemoved { id } => ("disk-removed", of(id)),
        Event::DiskResized { id, sectors } => ("disk-resized", format!("{}, \"sectors\": {sectors}", of(id))),
        Event::DiskFailed { id, error } => {
            ("disk-failed", format!("{}, \"error\": {}", of(id), quoted(error)))
        }
        Event::FrontendConnected { id } => ("frontend-connected", of(id)),
        Event::FrontendDisconnected { id } => ("frontend-disconnected", of(id)),
        Event::EventsLost { count } => ("events-lost", format!("\"count\": {count}")),
    }
}
