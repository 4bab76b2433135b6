//! The options of the log.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use virtio_blk_sim::log::{self, Format, Subscriber};

/// Where the log goes, and what is in it.
#[derive(Debug, Args)]
pub(crate) struct Logging {
    /// Write log messages of this level and of those before it
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,
    /// Write log messages as lines of text, or each as one JSON object with its level, time and
    /// fields (device, queue, sector, errno)
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: Form,
    /// Write log messages to the end of this file instead of stderr
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Text,
    Json,
}

impl Logging {
    /// Sets the log up. Call it before anything is logged. The error is one sentence.
    pub(crate) fn start(&self) -> Result<(), String> {
        let level = match self.log_level {
            Level::Off => LevelFilter::OFF,
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
        };
        let format = match self.log_format {
            Form::Text => Format::Text,
            Form::Json => Format::Json,
        };
        Subscriber::new(level, format).install().map_err(|error| error.to_string())?;
        let Some(path) = &self.log_file else { return Ok(()) };
        log::to_file(path).map_err(|error| {
            format!("--log-file {}: {error}; its directory must exist and be writable", path.display())
        })
    }
}
