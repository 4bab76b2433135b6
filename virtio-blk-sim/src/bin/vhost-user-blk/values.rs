//! The values of options, of keys of the file, and of arguments of commands. All three have the
//! same parsers.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aio::{Method, MonitorKind, Reset};
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use virtio_blk_sim::blk::backend::ImageFormat;
use virtio_blk_sim::blk::device::MAX_QUEUES;

use crate::access::Owner;

/// Parses a number of bytes with an optional binary suffix.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        Some(b't' | b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes =
        number.and_then(|number| number.checked_mul(1 << shift)).filter(|bytes| *bytes <= i64::MAX as u64);
    bytes.ok_or_else(|| "write a size such as 4096, 64k, 512m or 10g".to_owned())
}

pub(crate) fn bytes_per_second(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("a limit of 0 would stop the disk; for no limit, leave the option out".to_owned()),
        bytes => Ok(bytes),
    }
}

pub(crate) fn block_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("use 512 or 4096".to_owned()),
    }
}

/// When an image is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockTime {
    /// As long as the disk exists.
    Start,
    /// While a guest's queues run.
    Running,
}

pub(crate) fn lock_time(text: &str) -> Result<LockTime, String> {
    match text {
        "start" => Ok(LockTime::Start),
        "running" => Ok(LockTime::Running),
        _ => Err("use start or running".to_owned()),
    }
}

/// How the I/O of an image is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileEngine {
    Auto,
    IoUring,
    Threads,
    LinuxAio,
}

pub(crate) fn engine(text: &str) -> Result<FileEngine, String> {
    match text {
        "auto" => Ok(FileEngine::Auto),
        "io_uring" => Ok(FileEngine::IoUring),
        "threads" => Ok(FileEngine::Threads),
        "linux-aio" => Ok(FileEngine::LinuxAio),
        _ => Err("use auto, io_uring, threads or linux-aio".to_owned()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration
        .filter(|d| *d >= Duration::from_millis(1))
        .ok_or_else(|| "write a number of seconds, at least 0.001".to_owned())
}

pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("use on or off".to_owned()),
    }
}

pub(crate) fn monitor(text: &str) -> Result<MonitorKind, String> {
    let found = MonitorKind::ALL.into_iter().find(|kind| kind.to_string() == text);
    found.ok_or_else(|| "use poll, epoll or io_uring".to_owned())
}

pub(crate) fn reset(text: &str) -> Result<Reset, String> {
    Ok(match text {
        "classic" => Reset::Classic,
        "autoreset" => Reset::Autoreset,
        "edge" => Reset::AutoresetBy(Method::Edge),
        "ring-read" => Reset::AutoresetBy(Method::RingRead),
        "ring-read-multishot" => Reset::AutoresetBy(Method::RingReadMultishot),
        "kernel-flag" => Reset::AutoresetBy(Method::KernelFlag),
        _ => {
            return Err(
                "use classic, autoreset, edge, ring-read, ring-read-multishot or kernel-flag".to_owned()
            );
        }
    })
}

/// A name that is safe in a line of a log, and that needs no quotes in a shell.
pub(crate) fn id(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    match (1..=64).contains(&text.len()) && text.bytes().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err("an id has 1 to 64 characters: letters, digits and any of - _ . :".to_owned()),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err("write a path, without control characters".to_owned()),
        false => Ok(text.into()),
    }
}

/// The bits that connect(2) looks at are those for writing.
pub(crate) fn socket_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "write a mode in octal, such as 660".to_owned())
}

pub(crate) fn socket_owner(text: &str) -> Result<Owner, String> {
    Owner::parse(text).ok_or_else(|| "write a user, a user and a group, or a group: U, U:G or :G".to_owned())
}

fn format(text: &str) -> Result<ImageFormat, String> {
    text.parse()
}

fn placement(text: &str) -> Result<crate::placement::Rule, String> {
    use crate::placement::Rule;
    match text {
        "least-queues" => Ok(Rule::LeastQueues),
        "round-robin" => Ok(Rule::RoundRobin),
        _ => Err("use least-queues or round-robin".to_owned()),
    }
}

/// 0 is no limit. On the command line it is an error, because there leaving the option out is
/// simpler.
fn limit(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "write a number of requests per second, or 0 for no limit".to_owned())
}

fn queues(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_QUEUES).contains(number));
    number.ok_or_else(|| format!("write a number from 1 to {MAX_QUEUES}"))
}

fn loops(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| *number <= MOST_LOOPS);
    number.ok_or_else(|| format!("write a number from 0 to {MOST_LOOPS}"))
}

/// As many as the command line allows.
const MOST_LOOPS: u16 = 256;

/// A text, or a number as text.
struct Text;

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        let negative = || Error::invalid_value(Unexpected::Signed(number), &self);
        u64::try_from(number).map(|number| number.to_string()).map_err(|_| negative())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

/// What serde calls for a field with one of the parsers above. The format adds the place of the
/// value to the error.
pub(crate) mod de {
    use super::*;

    macro_rules! parsed {
        ($($name:ident: $type:ty, $parser:path;)*) => {$(
            pub(crate) fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                let text = from.deserialize_any(Text)?;
                Ok($parser(&text).map_err(Error::custom)?.into())
            }
        )*};
    }

    parsed! {
        id: String, super::id;
        path: Option<PathBuf>, super::path;
        format: Option<ImageFormat>, super::format;
        lock_time: LockTime, super::lock_time;
        engine: FileEngine, super::engine;
        socket_mode: Option<u32>, super::socket_mode;
        socket_owner: Option<Owner>, super::socket_owner;
        size: Option<u64>, super::size;
        limit: Option<u64>, super::limit;
        block_size: Option<u32>, super::block_size;
        queues: u16, super::queues;
        loops: u16, super::loops;
        monitor: Option<MonitorKind>, super::monitor;
        reset: Reset, super::reset;
        seconds: Option<Duration>, super::seconds;
        placement: crate::placement::Rule, super::placement;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_suffixes() {
        let rows = [("4096", 4096), ("64k", 65536), ("2M", 2 << 20), ("10g", 10 << 30), ("1t", 1 << 40)];
        for (text, bytes) in rows {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "1x", "-1", "1.5g", "9999999t", "\u{e9}", "1\u{e9}"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_is_safe_in_a_line() {
        assert!(id("vm1-root_0.b:2").is_ok());
        for text in ["", "a b", "a\nb", "\u{e9}", "a/b", &"x".repeat(65)] {
            assert!(id(text).is_err(), "{text}");
        }
    }
}
