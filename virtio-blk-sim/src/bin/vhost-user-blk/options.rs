//! The command-line options.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, Builder, BusyPolling, Method, MonitorKind, Reset};
use clap::{ArgAction, ArgGroup, Args, Parser};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::{Backend, FileImage, ImageFormat, LockError, Null};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, SECTOR_SIZE, Serial};
use virtio_blk_sim::queue::RateLimit;
use virtio_blk_sim::vhost_user::{ProtocolFeatures, Served};

/// The disk image, or `None` if the disk is not a file. Shared by the queues and the code that
/// reads the size again.
type Image = Option<Arc<FileImage>>;

const AFTER_HELP: &str = "\
With QEMU (guest memory must be shared):
  vhost-user-blk --socket /run/vm1.sock --image disk.raw
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \\
    -chardev socket,id=blk0,path=/run/vm1.sock,reconnect=1 -device vhost-user-blk-pci,chardev=blk0,num-queues=1 ...

Signals:
  SIGTERM, SIGINT  complete the requests in flight and exit with status 0
  SIGUSR1          print statistics
  SIGHUP           read the size of the image again and notify the guest
When a flush of the image fails, data may be lost, and a later flush would hide that. So all later
writes and flushes fail until the server is started again; reads go on. Check the file system then.

Log messages go to stderr. A message that stderr does not take at once is lost and counted. Errors of
the disk are logged with their sector and reason. Of the messages that a guest or frontend can cause,
ten of a kind are written in ten seconds; SIGUSR1 prints how many were left out.";

/// Serves a disk image to a virtual machine over vhost-user.
#[derive(Debug, Parser)]
#[command(name = "vhost-user-blk", version, after_help = AFTER_HELP)]
#[command(group = ArgGroup::new("disk").required(true).args(["image", "null", "memory"]))]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Serve this disk image or block device. It is locked as by QEMU: only one program may write
    /// to it, several may read it
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// Format of the image. raw: serve it as it is. qcow2: needs a build with the feature imago.
    /// auto: what the header says; without a header raw, which needs --read-only. By default it is
    /// raw, and refused if it has the header of another format (qcow2, VMDK, VHDX, VHD, VDI, QED,
    /// Parallels, DMG, Bochs, cloop). A guest can write such a header to its raw disk, which is
    /// then refused at the next start unless raw is given
    #[arg(long, value_name = "raw|qcow2|auto")]
    format: Option<ImageFormat>,
    /// Let a qcow2 image use the files of this directory as backing files or as its data file; may
    /// be given several times. Without it, no file that the image names is opened
    #[arg(long, value_name = "DIR")]
    allow_backing: Vec<PathBuf>,
    /// Serve a disk of this size that stores nothing, to measure the cost of everything except the
    /// disk
    #[arg(long, value_name = "SIZE", value_parser = size)]
    null: Option<u64>,
    /// Serve a disk of this size in memory; its contents are lost at exit
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Refuse every request that would change the disk
    #[arg(long)]
    read_only: bool,
    /// Serial number of the disk, up to 20 characters
    #[arg(long, value_name = "TEXT", default_value = "")]
    serial: String,
    /// Logical block size that the guest sees, in bytes [default: 512, or what --direct requires]
    #[arg(long, value_name = "512|4096", value_parser = block_size)]
    block_size: Option<u32>,
    /// Number of request queues, 1 to 256
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    queues: u16,
    /// Largest useful queue size in entries, a power of two from 4 to 1024; it sets SEG_MAX, the
    /// maximum number of data segments per request that the guest sees. Requests of up to 1022
    /// segments are served in any case
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue_size: u16,
    /// Bypass the page cache (open the image with O_DIRECT)
    #[arg(long)]
    direct: bool,
    /// System call that the event loops wait in: poll, epoll or io_uring [default: the best one
    /// this kernel supports]
    #[arg(long, value_parser = monitor)]
    pub(crate) monitor: Option<MonitorKind>,
    /// How the eventfds of kicks are reset: classic (one read(2) per kick), autoreset (the best
    /// method available), or one method: edge, ring-read, ring-read-multishot, kernel-flag
    #[arg(long, default_value = "autoreset", value_parser = reset)]
    reset: Reset,
    /// Busy-poll the queues for up to this many nanoseconds before sleeping; QEMU's IOThreads use
    /// 32768
    #[arg(long, value_name = "NS", default_value_t = 0)]
    busy_poll: u64,
    /// After handling requests, keep polling the queues for twice as long as the work took, but at
    /// most this many nanoseconds, before sleeping; 0 turns this off
    #[arg(long, value_name = "NS", default_value_t = 50_000)]
    linger: u64,
    /// Number of I/O threads to spread the queues over, at most one per queue; 0 serves all queues
    /// from the main thread
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub(crate) threads: u16,
    /// I/O thread of each queue, such as 0,0,1; queues beyond the end of the list are assigned
    /// round robin
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) mapping: Vec<usize>,
    /// Limit on requests per second, all queues together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iops: Option<u64>,
    /// Limit on bytes per second, all queues together
    #[arg(long, value_name = "SIZE", value_parser = bytes_per_second)]
    bps: Option<u64>,
    /// Print statistics every this many seconds, if any requests were served in that time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) stats: Option<Duration>,
    /// After start-up, drop all rights that serving does not need: seccomp (any other system call
    /// kills the process), landlock and no_new_privs. Strictest with --monitor epoll, which does
    /// not need the system calls of io_uring
    #[arg(long, value_name = "on|off", default_value = "off", value_parser = switch, action = ArgAction::Set)]
    pub(crate) sandbox: bool,
}

/// How the frontend connects.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Source {
    /// Listen on a Unix socket at this path; only its owner may connect (mode 0600)
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Serve the frontend connected to this inherited file descriptor, and exit when it disconnects
    #[arg(long, value_name = "N")]
    pub(crate) fd: Option<i32>,
}

/// Parses a number of bytes with an optional binary suffix.
fn size(text: &str) -> Result<u64, String> {
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

fn bytes_per_second(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("a limit of 0 would stop the disk; for no limit, leave the option out".to_owned()),
        bytes => Ok(bytes),
    }
}

fn block_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("use 512 or 4096".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration
        .filter(|d| *d >= Duration::from_millis(1))
        .ok_or_else(|| "write a number of seconds, at least 0.001".to_owned())
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("use on or off".to_owned()),
    }
}

fn monitor(text: &str) -> Result<MonitorKind, String> {
    let found = MonitorKind::ALL.into_iter().find(|kind| kind.to_string() == text);
    found.ok_or_else(|| "use poll, epoll or io_uring".to_owned())
}

fn reset(text: &str) -> Result<Reset, String> {
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

impl Options {
    pub(crate) fn builder(&self) -> Builder {
        let polling = BusyPolling::up_to_ns(self.busy_poll).lingering_ns(self.linger);
        let builder = AioContext::builder().reset(self.reset).busy_polling(polling);
        match self.monitor {
            Some(kind) => builder.monitor(kind),
            None => builder,
        }
    }

    /// Refuses what would have no effect. The error is one sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.image.is_none() {
            let given = [
                ("--direct", self.direct),
                ("--format", self.format.is_some()),
                ("--allow-backing", !self.allow_backing.is_empty()),
            ];
            if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
                return Err(format!("{option} concerns an image, and there is no --image"));
            }
        }
        for (option, size) in [("--null", self.null), ("--memory", self.memory)] {
            match size {
                Some(0) => return Err(format!("{option} 0: a disk has at least one sector of 512 bytes")),
                Some(size) if size % SECTOR_SIZE != 0 => {
                    return Err(format!("{option} {size}: a disk consists of whole sectors of 512 bytes"));
                }
                _ => {}
            }
        }
        self.check_threads()
    }

    /// Each thread gets a queue, and each entry of the mapping is that of a queue.
    fn check_threads(&self) -> Result<(), String> {
        let (threads, queues) = (usize::from(self.threads), usize::from(self.queues));
        if threads == 0 && !self.mapping.is_empty() {
            return Err("--mapping concerns I/O threads, and there are none: give --threads".to_owned());
        }
        if threads > queues {
            return Err(format!("--threads {threads}: more threads than queues ({queues}); raise --queues"));
        }
        if self.mapping.len() > queues {
            return Err(format!("--mapping has {} entries, but --queues is {queues}", self.mapping.len()));
        }
        if let Some(wrong) = self.mapping.iter().find(|thread| **thread >= threads) {
            return Err(format!("--mapping: there is no thread {wrong}, only 0 to {}", threads - 1));
        }
        let thread_of = |queue: usize| self.mapping.get(queue).copied().unwrap_or(queue % threads);
        let idle = (0..threads).find(|thread| !(0..queues).any(|queue| thread_of(queue) == *thread));
        match idle {
            Some(thread) => Err(format!("--mapping: thread {thread} has no queue")),
            None => Ok(()),
        }
    }

    /// Opens the disk. The error is one sentence that reports the reason.
    pub(crate) fn disk(&self) -> Result<(Served<Disk>, Image), String> {
        let (backend, config, image) = match (&self.image, self.null, self.memory) {
            (Some(path), ..) => {
                let image =
                    FileImage::open(path, self.read_only, self.direct).map_err(|error| error.to_string())?;
                match image.lock() {
                    Ok(()) => {}
                    Err(error @ LockError::InUse(_)) => {
                        return Err(format!("{}: the image is in use: {error}", path.display()));
                    }
                    Err(error @ LockError::Unsupported(_)) => {
                        say!("the image is not locked, make sure that nothing else uses it: {error}");
                    }
                }
                let opened = Backend::open(image, path, self.format, &self.allow_backing);
                let (backend, config) = opened.map_err(|error| error.to_string())?;
                // Only the size of a raw image can change while it is served.
                let image = if let Backend::File(image) = &backend { Some(Arc::clone(image)) } else { None };
                if let Some(bytes) =
                    image.as_ref().map(|image| image.dropped_bytes()).filter(|bytes| *bytes > 0)
                {
                    say!("the last {bytes} bytes of the image are ignored: they do not fill a sector");
                }
                (backend, config, image)
            }
            (None, Some(size), _) => {
                (Backend::Null(Null::default()), DeviceConfig::new(size / SECTOR_SIZE), None)
            }
            (None, None, size) => {
                let sectors = size.unwrap_or(0) / SECTOR_SIZE;
                let memory = Backend::memory(sectors)
                    .map_err(|_| format!("--memory: not enough memory for {sectors} sectors"))?;
                (memory, DeviceConfig::new(sectors), None)
            }
        };
        let block_size = self.block_size.unwrap_or(config.logical_block_size);
        if block_size < config.logical_block_size {
            let needed = config.logical_block_size;
            return Err(format!("--block-size {block_size}: --direct on this image needs {needed}"));
        }
        let config = DeviceConfig {
            read_only: self.read_only,
            logical_block_size: block_size,
            physical_block_size: block_size.max(config.physical_block_size),
            num_queues: self.queues,
            queue_size: self.queue_size,
            serial: Serial::new(&self.serial).map_err(|error| format!("--serial: {error}"))?,
            ..config
        };
        let device = BlockDevice::new(config).map_err(|error| error.to_string())?;
        let limit = RateLimit::new(self.iops, self.bps);
        let limit = (!limit.is_unlimited()).then(|| Arc::new(limit));
        let device = Arc::new(Disk::new(device, backend));
        Ok((Served { device, limit, reset: self.reset, withheld: ProtocolFeatures::NONE }, image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::try_parse_from(["vhost-user-blk"].iter().chain(arguments)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_disk_and_a_frontend_are_needed() {
        assert!(parse(&["--null", "1g"]).is_err());
        assert!(parse(&["--socket", "s"]).is_err());
        assert!(parse(&["--socket", "s", "--null", "1g", "--memory", "1m"]).is_err());
        assert!(parse(&["--socket", "s", "--fd", "3", "--null", "1g"]).is_err());
        let options = parse(&["--socket", "s", "--null", "1g"]).unwrap();
        assert!(!options.sandbox);
        assert_eq!(options.disk().unwrap().0.device.device.capacity_sectors(), 2 << 20);
    }

    #[test]
    fn a_thread_without_a_queue_is_refused() {
        let check = |threads: &str, queues: &str, mapping: &[&str]| {
            let base = ["--socket", "s", "--null", "1m", "--threads", threads, "--queues", queues];
            parse(&[&base, mapping].concat()).and_then(|options| options.check())
        };
        for (threads, queues, mapping) in [("0", "1", None), ("2", "2", None), ("2", "5", Some("1"))] {
            let mapping: Vec<&str> = mapping.iter().flat_map(|list| ["--mapping", list]).collect();
            assert_eq!(check(threads, queues, &mapping), Ok(()), "{threads} {queues} {mapping:?}");
        }
        // Queue 0 is on thread 1, and queue 1 is there by the round robin.
        assert_eq!(check("2", "2", &["--mapping", "1"]).unwrap_err(), "--mapping: thread 0 has no queue");
    }
}
