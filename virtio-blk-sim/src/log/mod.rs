//! Lines for the operator: events of the crate [`tracing`], and where they are written.
//!
//! Each line is an event with the target `virtio_blk_sim`, a level (error, warn or info) and those
//! of these fields that it has:
//!
//! | field | content |
//! |---|---|
//! | `message` | what happened |
//! | `device` | the [name](crate::queue::Device::name) of the device |
//! | `queue` | the index of the queue |
//! | `sector` | the first sector of the request |
//! | `errno` | the number of the error, if it came from the kernel |
//! | `left_out` | how many lines were left out, see below |
//!
//! **A program without a subscriber** still has a log: in a thread in which no subscriber of
//! `tracing` is set, a line is written to stderr, after the name of the device. An error of a disk
//! does not disappear because nobody has set a log up. A program with a subscriber decides itself
//! what to write; `Subscriber` (feature `cli`) writes lines of text or JSON.
//!
//! **The log stops nothing.** A line that cannot be written is lost and counted, and nothing else
//! happens: stderr may be closed, full, or a pipe that nobody reads. A line is written only if
//! poll(2) says that this does not wait, so that a log that is not read does not stop the guest's
//! disk. (If another process writes to the same pipe, it may fill it in between.) The number of
//! lost lines comes before the next line. This holds for stderr and for the [file](to_file) that
//! replaces it. Subscribers of others have their own way to write.
//!
//! **A line that a guest or a peer can cause is limited**, before it becomes an event and so for
//! each subscriber: each place of the code that writes such lines may write ten of them in ten
//! seconds. The rest is counted. The count is an event before the next line of the same place, and
//! [`left_out`] makes one of all.

mod limit;
mod sink;
#[cfg(feature = "cli")]
mod subscriber;

use std::error::Error;
use std::fmt::{self, Arguments};
use std::panic::Location;

use limit::Verdict;
pub use sink::{file, to_file};
#[cfg(feature = "cli")]
pub use subscriber::{Format, Subscriber};
use tracing::Level;
use tracing::subscriber::NoSubscriber;

/// The target of all events of this crate.
const TARGET: &str = "virtio_blk_sim";

/// A line of the log, before it is written.
#[derive(Debug, Clone, Copy)]
#[must_use = "write it, or have its rate limited"]
pub struct Line<'a> {
    level: Level,
    text: Arguments<'a>,
    device: Option<&'a str>,
    queue: Option<u64>,
    sector: Option<u64>,
    errno: Option<i32>,
    left_out: Option<u64>,
}

impl<'a> Line<'a> {
    const fn new(level: Level, text: Arguments<'a>) -> Self {
        Self { level, text, device: None, queue: None, sector: None, errno: None, left_out: None }
    }

    /// A line about data that is lost, or a service that ends.
    pub const fn error(text: Arguments<'a>) -> Self {
        Self::new(Level::ERROR, text)
    }

    /// A line about something that does not work, or a mistake of a guest or a peer.
    pub const fn warn(text: Arguments<'a>) -> Self {
        Self::new(Level::WARN, text)
    }

    /// A line about what the program does.
    pub const fn info(text: Arguments<'a>) -> Self {
        Self::new(Level::INFO, text)
    }

    /// Which device the line is about. As text, the name stands in front of the line.
    pub const fn device(mut self, name: &'a str) -> Self {
        self.device = Some(name);
        self
    }

    /// Which queue the line is about.
    pub fn queue(mut self, index: impl Into<u64>) -> Self {
        self.queue = Some(index.into());
        self
    }

    /// Which sector the line is about.
    pub const fn sector(mut self, sector: u64) -> Self {
        self.sector = Some(sector);
        self
    }

    /// Takes the errno of an error, or of what caused it, if it has one. The text does not change.
    pub fn caused_by(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let Some(io_error) = error.downcast_ref::<std::io::Error>() else {
                next = error.source();
                continue;
            };
            if let Some(errno) = io_error.raw_os_error() {
                self.errno = Some(errno);
                break;
            }
            // Its source is that of the error inside.
            next = io_error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        }
        self
    }

    const fn left_out(mut self, lines: u64) -> Self {
        self.left_out = Some(lines);
        self
    }

    /// Writes the line. For lines that only the operator can cause.
    pub fn write(self) {
        if nobody_listens() {
            return sink::write(self.to_string(), sink::Note::Text);
        }
        // The metadata of an event is static, so each level needs an event of its own.
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(
                    target: TARGET,
                    Level::$level,
                    device = self.device,
                    queue = self.queue,
                    sector = self.sector,
                    errno = self.errno,
                    left_out = self.left_out,
                    "{}",
                    self.text
                )
            };
        }
        match self.level {
            Level::ERROR => event!(ERROR),
            Level::WARN => event!(WARN),
            _ => event!(INFO),
        }
    }

    /// Writes a line that a guest or a peer can cause, unless its place in the code has written too
    /// many of late. The place is that of the caller.
    #[track_caller]
    pub fn limited(self) {
        let place = Location::caller();
        if !self.is_wanted() {
            return;
        }
        match limit::judge(place) {
            Verdict::Write { left_out: 0 } => self.write(),
            Verdict::Write { left_out } => {
                let text = format_args!("({left_out} lines like the next one were left out)");
                self.note(text).left_out(left_out).write();
                self.write();
            }
            Verdict::Announce => {
                self.write();
                let seconds = limit::PERIOD.as_secs();
                let text = format_args!("(more lines like this one are left out for up to {seconds} s)");
                self.note(text).write();
            }
            Verdict::Drop => {}
        }
    }

    /// A note about lines like this one: not about what they say.
    const fn note<'b>(&self, text: Arguments<'b>) -> Line<'b> {
        Line::new(self.level, text)
    }

    /// Returns false if no subscriber would see it: then it does not count as left out, either.
    fn is_wanted(&self) -> bool {
        nobody_listens()
            || match self.level {
                Level::ERROR => tracing::enabled!(target: TARGET, Level::ERROR),
                Level::WARN => tracing::enabled!(target: TARGET, Level::WARN),
                _ => tracing::enabled!(target: TARGET, Level::INFO),
            }
    }
}

/// The text form: the name of the device, if there is one, and the text.
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Some(name) => write!(f, "{name}: {}", self.text),
            None => fmt::Display::fmt(&self.text, f),
        }
    }
}

/// Returns true if no subscriber is set, neither for the process nor for this thread.
fn nobody_listens() -> bool {
    tracing::dispatcher::get_default(|dispatch| dispatch.is::<NoSubscriber>())
}

/// Writes a line of level info. For lines that only the operator can cause.
pub fn line(text: Arguments<'_>) {
    Line::info(text).write();
}

/// Writes a line of level warn that a guest or a peer can cause, unless its place in the code has
/// written too many of late.
#[track_caller]
pub fn limited(text: Arguments<'_>) {
    Line::warn(text).limited();
}

/// Opens the [file](to_file) of the log again, by its name: to call after it was renamed. Does
/// nothing if the log goes to stderr. No line is lost, whichever threads write meanwhile: a line is
/// in the old file or in the new one.
///
/// # Errors
/// Those of open(2). Then the log stays in the old file, and has a line about it.
pub fn reopen() -> std::io::Result<()> {
    sink::reopen().map_err(|(path, error)| {
        let path = path.display();
        let line = format_args!("the log file {path} cannot be opened, so the old one stays in use: {error}");
        Line::error(line).caused_by(&error).write();
        error
    })
}

/// Prints how many lines were left out, if that was not printed yet.
pub fn left_out() {
    let total = limit::take_left_out();
    if total > 0 {
        let text = format_args!("({total} lines of the log were left out: there were too many of a kind)");
        Line::warn(text).left_out(total).write();
    }
}
