//! The options of the metrics, and where they are served.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, IoThread};
use clap::Args;
use virtio_blk_sim::metrics::{Exporter, Scrapers, Written};
use virtio_blk_sim::vhost_user::{self, SocketFile};

use crate::values::seconds;

/// Where the metrics go.
#[derive(Debug, Args)]
pub(crate) struct Monitoring {
    /// Serve metrics as OpenMetrics text on a Unix socket at this path (mode 0600), to HTTP clients
    /// (curl --unix-socket PATH http://vub/metrics) and to those that send an empty line
    #[arg(long, value_name = "PATH")]
    metrics: Option<PathBuf>,
    /// Write metrics as OpenMetrics text to this file now and then, for the textfile collector of
    /// node_exporter. The file is replaced by rename(2)
    #[arg(long, value_name = "PATH")]
    metrics_file: Option<PathBuf>,
    /// How often --metrics-file is written
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    metrics_interval: Duration,
}

/// The metrics of this process, while they are served.
#[derive(Debug)]
pub(crate) struct Metrics {
    _served: Option<(Scrapers, SocketFile)>,
    _written: Option<Written>,
}

impl Monitoring {
    /// Refuses what cannot work. The error is one sentence.
    pub(crate) fn check(&self, sandbox: bool) -> Result<(), String> {
        match sandbox && self.metrics_file.is_some() {
            true => Err("--metrics-file needs files that --sandbox on forbids; use --metrics".to_owned()),
            false => Ok(()),
        }
    }

    /// Opens the socket, if there is one. The error is one sentence.
    pub(crate) fn open(&self) -> Result<Option<(UnixListener, SocketFile)>, String> {
        let bind = |path: &PathBuf| {
            vhost_user::bind(path).map_err(|error| format!("--metrics {}: {error}", path.display()))
        };
        self.metrics.as_ref().map(bind).transpose()
    }

    /// The exporter, which knows these loops; `None` if nobody wants metrics.
    pub(crate) fn exporter(&self, context: &AioContext, threads: &[Arc<IoThread>]) -> Option<Rc<Exporter>> {
        if self.metrics.is_none() && self.metrics_file.is_none() {
            return None;
        }
        let exporter = Exporter::new(context);
        threads.iter().for_each(|thread| exporter.add_loop(thread));
        Some(exporter)
    }

    /// Serves what the exporter knows.
    pub(crate) fn serve(
        &self,
        exporter: &Rc<Exporter>,
        context: &AioContext,
        socket: Option<(UnixListener, SocketFile)>,
    ) -> std::io::Result<Metrics> {
        let served = match socket {
            Some((listener, file)) => Some((exporter.listen(context, listener)?, file)),
            None => None,
        };
        if let Some(path) = &self.metrics {
            say!("metrics socket {}", path.display());
        }
        let write = |path: &PathBuf| exporter.write_to(context, path.clone(), self.metrics_interval);
        Ok(Metrics { _served: served, _written: self.metrics_file.as_ref().map(write) })
    }
}
