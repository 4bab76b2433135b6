//! The subscriber of a program: each event becomes one line of text or JSON.

use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

use super::{TARGET, sink};

/// The form of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `device: message`. The events of a program have their target in front instead of the name of
    /// a device. In a [file](super::to_file), the time (UTC) and the level come first; on stderr
    /// they do not, because whoever reads it, such as systemd's journal, adds the time.
    #[default]
    Text,
    /// One JSON object: `timestamp`, `level`, `target`, `message`, and the fields of the event.
    Json,
}

/// Writes events to stderr, or to the file that replaces it, as described for
/// [the module](crate::log): it never waits.
///
/// ```
/// use virtio_blk_sim::log::{Format, Subscriber};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// Subscriber::new(tracing::level_filters::LevelFilter::INFO, Format::Json).install()?;
/// tracing::info!(target: "my-program", "ready");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "install it"]
pub struct Subscriber {
    most: LevelFilter,
    format: Format,
}

impl Subscriber {
    /// Writes events of these levels.
    pub const fn new(most: LevelFilter, format: Format) -> Self {
        Self { most, format }
    }

    /// Makes it the subscriber of all threads that have no other.
    ///
    /// # Errors
    /// The process has one already.
    pub fn install(self) -> Result<(), SetGlobalDefaultError> {
        tracing::subscriber::set_global_default(Registry::default().with(self))
    }

    /// Makes it the subscriber of this thread while `work` runs.
    pub fn within<R>(self, work: impl FnOnce() -> R) -> R {
        tracing::subscriber::with_default(Registry::default().with(self), work)
    }
}

impl<S: tracing::Subscriber> Layer<S> for Subscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.most
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.most)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        match self.format {
            Format::Text => sink::write(fields.text(*metadata.level(), metadata.target()), sink::Note::Text),
            Format::Json => {
                sink::write(fields.json(*metadata.level(), metadata.target()), sink::Note::By(lost));
            }
        }
    }
}

/// The note about lost lines, as JSON.
fn lost(lines: u64, text: &str) -> String {
    let mut fields = Fields { message: text.to_owned(), others: Map::new() };
    fields.others.insert("lost".to_owned(), lines.into());
    fields.json(Level::WARN, TARGET)
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.others.insert(field.name().to_owned(), value.into());
    }

    fn text(self, level: Level, target: &str) -> String {
        let mut line = String::new();
        if sink::is_file() {
            now(&mut line);
            let _ = write!(line, " {level} ");
        }
        match self.others.get("device").and_then(Value::as_str) {
            Some(name) => line.extend([name, ": "]),
            None if target != TARGET => line.extend([target, ": "]),
            None => {}
        }
        line + &self.message
    }

    /// An object that fits into a line: what is too long is cut out of the message.
    fn json(mut self, level: Level, target: &str) -> String {
        let mut time = String::new();
        now(&mut time);
        loop {
            let mut object = Map::new();
            object.insert("timestamp".to_owned(), time.as_str().into());
            object.insert("level".to_owned(), level.as_str().into());
            object.insert("target".to_owned(), target.into());
            object.insert("message".to_owned(), self.message.as_str().into());
            object.extend(self.others.iter().map(|(name, value)| (name.clone(), value.clone())));
            let line = Value::Object(object).to_string();
            let too_long = line.len().saturating_sub(sink::LONGEST - 1);
            if too_long == 0 {
                return line;
            }
            if self.message.is_empty() {
                // The fields of this crate are short, but an event can be of anybody.
                self.others.clear();
            }
            // A character takes at most six bytes.
            let rest = self.message.len().saturating_sub(too_long.div_ceil(6).max(1));
            sink::truncate(&mut self.message, rest);
        }
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.put(field, value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => {
                self.message.clear();
                let _ = write!(self.message, "{value:?}");
            }
            _ => self.put(field, format!("{value:?}")),
        }
    }
}

/// The time in UTC, as in RFC 3339.
fn now(line: &mut String) {
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(line));
}
