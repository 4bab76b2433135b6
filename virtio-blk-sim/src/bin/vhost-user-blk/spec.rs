//! What one disk is: the same for the command line, the configuration file and the control socket.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use virtio_blk_sim::blk::backend::ImageFormat;
use virtio_blk_sim::blk::device::SECTOR_SIZE;

use crate::access::Owner;
use crate::values::{
    FileEngine, LockTime, block_size, bytes_per_second, de, engine, lock_time, size, socket_mode,
    socket_owner,
};

/// A disk to serve. Nothing is open yet.
#[derive(Debug, Clone, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct DiskSpec {
    #[arg(skip)]
    #[serde(deserialize_with = "de::id")]
    pub(crate) id: String,
    /// Where its frontends connect. `None` for an inherited connection.
    #[arg(skip)]
    #[serde(deserialize_with = "de::path")]
    pub(crate) socket: Option<PathBuf>,
    /// Mode of the socket, in octal: who may connect [default: 600]
    #[arg(long, value_name = "MODE", value_parser = socket_mode)]
    #[serde(deserialize_with = "de::socket_mode")]
    pub(crate) socket_mode: Option<u32>,
    /// Give the socket to this user, user:group, or :group (names or numbers). A group alone needs
    /// no root if the server is a member of it
    #[arg(long, value_name = "USER:GROUP", value_parser = socket_owner)]
    #[serde(deserialize_with = "de::socket_owner")]
    pub(crate) socket_owner: Option<Owner>,
    /// Serve this disk image or block device. It is locked as by QEMU: only one program may
    /// write to it, several may read it
    #[arg(long, visible_alias = "blk-file", value_name = "PATH")]
    #[serde(deserialize_with = "de::path")]
    pub(crate) image: Option<PathBuf>,
    /// When the image is locked: from the start of this program to its end, or only while a guest's
    /// queues run. With `running`, the source and the destination of a live migration on one host
    /// can both be started; a queue waits until the other program has given the image back
    #[arg(long, value_name = "start|running", default_value = "start", value_parser = lock_time)]
    #[serde(deserialize_with = "de::lock_time")]
    pub(crate) lock: LockTime,
    /// Format of the image. raw: serve it as it is. qcow2: needs a build with the feature imago.
    /// auto: what the header says; without a header raw, which needs --read-only. By default it is
    /// raw, and refused if it has the header of another format (qcow2, VMDK, VHDX, VHD, VDI, QED,
    /// Parallels, DMG, Bochs, cloop). A guest can write such a header to its raw disk, which is
    /// then refused at the next start unless raw is given
    #[arg(long, value_name = "raw|qcow2|auto")]
    #[serde(deserialize_with = "de::format")]
    pub(crate) format: Option<ImageFormat>,
    /// Let a qcow2 image use the files of this directory as backing files or as its data file; may
    /// be given several times. Without it, no file that the image names is opened
    #[arg(long, value_name = "DIR")]
    pub(crate) allow_backing: Vec<PathBuf>,
    /// Serve a disk of this size that stores nothing, to measure the cost of everything except the
    /// disk
    #[arg(long, value_name = "SIZE", value_parser = size)]
    #[serde(deserialize_with = "de::size")]
    pub(crate) null: Option<u64>,
    /// Serve a disk of this size in memory; its contents are lost at exit
    #[arg(long, value_name = "SIZE", value_parser = size)]
    #[serde(deserialize_with = "de::size")]
    pub(crate) memory: Option<u64>,
    /// Refuse every request that would change the disk
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Serial number of the disk, up to 20 characters
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) serial: String,
    /// Logical block size that the guest sees, in bytes [default: 512, or what --direct requires]
    #[arg(long, value_name = "512|4096", value_parser = block_size)]
    #[serde(deserialize_with = "de::block_size")]
    pub(crate) block_size: Option<u32>,
    /// Number of request queues, 1 to 256
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    #[serde(deserialize_with = "de::queues")]
    pub(crate) queues: u16,
    /// Largest useful queue size in entries, a power of two from 4 to 1024; it sets SEG_MAX, the
    /// maximum number of data segments per request that the guest sees. Requests of up to 1022
    /// segments are served in any case
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) queue_size: u16,
    /// Bypass the page cache (open the image with O_DIRECT)
    #[arg(long)]
    pub(crate) direct: bool,
    /// How the image's I/O is done, as `aio` of QEMU's -blockdev. auto: with --direct io_uring, or
    /// threads if the I/O thread has none; else also calls in the I/O thread, as long as they are
    /// short. io_uring: the I/O thread's. threads: a few for each queue. linux-aio: QEMU's native;
    /// needs --direct
    #[arg(long, value_name = "auto|io_uring|threads|linux-aio", default_value = "auto", value_parser = engine)]
    #[serde(deserialize_with = "de::engine")]
    pub(crate) engine: FileEngine,
    /// I/O thread of each queue, such as 0,0,1; queues beyond the end of the list are assigned
    /// round robin
    #[arg(long = "mapping", value_name = "LIST", value_delimiter = ',')]
    pub(crate) loops: Vec<usize>,
    /// Limit on requests per second, all queues together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(deserialize_with = "de::limit")]
    pub(crate) iops: Option<u64>,
    /// Limit on bytes per second, all queues together
    #[arg(long, value_name = "SIZE", value_parser = bytes_per_second)]
    #[serde(deserialize_with = "de::size")]
    pub(crate) bps: Option<u64>,
}

impl Default for DiskSpec {
    fn default() -> Self {
        Self {
            id: String::new(),
            socket: None,
            socket_mode: None,
            socket_owner: None,
            image: None,
            lock: LockTime::Start,
            format: None,
            allow_backing: Vec::new(),
            null: None,
            memory: None,
            read_only: false,
            serial: String::new(),
            block_size: None,
            queues: 1,
            queue_size: 256,
            direct: false,
            engine: FileEngine::Auto,
            loops: Vec::new(),
            iops: None,
            bps: None,
        }
    }
}

/// How an error names a part of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// `--read-only`, of the command line.
    Options,
    /// `read-only`, of the file and of commands.
    Keys,
}

impl Names {
    pub(crate) fn of(self, key: &str) -> String {
        match self {
            Self::Options => format!("--{key}"),
            Self::Keys => key.to_owned(),
        }
    }
}

impl DiskSpec {
    /// How many descriptors the disk has open while it has no frontend: the `files` of its image,
    /// and its socket with the two by which its name is removed.
    pub(crate) fn descriptors(&self, files: usize) -> u64 {
        files as u64 + if self.socket.is_some() { 3 } else { 0 }
    }

    /// How many files the disk has, as far as that is known before the image is opened: it may name
    /// others.
    pub(crate) fn files(&self) -> usize {
        usize::from(self.image.is_some())
    }

    /// Returns the first key in which the two differ and which cannot change while a disk is
    /// served.
    pub(crate) fn fixed_difference(&self, other: &Self) -> Option<&'static str> {
        let same = [
            ("socket", self.socket == other.socket),
            ("socket-mode", self.socket_mode == other.socket_mode),
            ("socket-owner", self.socket_owner == other.socket_owner),
            ("image", self.image == other.image),
            ("lock", self.lock == other.lock),
            ("format", self.format == other.format),
            ("allow-backing", self.allow_backing == other.allow_backing),
            ("null", self.null == other.null),
            ("memory", self.memory == other.memory),
            ("read-only", self.read_only == other.read_only),
            ("serial", self.serial == other.serial),
            ("block-size", self.block_size == other.block_size),
            ("queues", self.queues == other.queues),
            ("queue-size", self.queue_size == other.queue_size),
            ("direct", self.direct == other.direct),
            ("engine", self.engine == other.engine),
        ];
        same.into_iter().find(|(_, same)| !same).map(|(key, _)| key)
    }

    /// Refuses what cannot be, or would have no effect. `loops` is how many I/O threads there are.
    /// The error is one sentence.
    pub(crate) fn check(&self, names: Names, loops: usize) -> Result<(), String> {
        if names == Names::Keys {
            self.check_keys()?;
        }
        if self.image.is_none() {
            let given = [
                ("direct", self.direct),
                ("engine", self.engine != FileEngine::Auto),
                ("format", self.format.is_some()),
                ("allow-backing", !self.allow_backing.is_empty()),
                ("lock", self.lock != LockTime::Start),
            ];
            if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
                let (option, image) = (names.of(option), names.of("image"));
                return Err(format!("{option} concerns an image, and there is no {image}"));
            }
        }
        if self.engine == FileEngine::LinuxAio && !self.direct {
            let (engine, direct) = (names.of("engine"), names.of("direct"));
            return Err(format!("{engine} linux-aio: io_submit(2) blocks on the page cache; add {direct}"));
        }
        for (option, size) in [("null", self.null), ("memory", self.memory)] {
            let option = names.of(option);
            match size {
                Some(0) => return Err(format!("{option} 0: a disk has at least one sector of 512 bytes")),
                Some(size) if size % SECTOR_SIZE != 0 => {
                    return Err(format!("{option} {size}: a disk consists of whole sectors of 512 bytes"));
                }
                _ => {}
            }
        }
        self.check_loops(names, loops)
    }

    /// What clap checks for the command line.
    fn check_keys(&self) -> Result<(), String> {
        if self.id.is_empty() {
            return Err("a disk needs an id".to_owned());
        }
        let content = [self.image.is_some(), self.null.is_some(), self.memory.is_some()];
        match content.into_iter().filter(|given| *given).count() {
            1 => Ok(()),
            0 => Err(format!("disk {} needs an image, null or memory", self.id)),
            _ => Err(format!("disk {} has more than one of image, null and memory", self.id)),
        }
    }

    /// Each entry of the placement is that of a queue.
    fn check_loops(&self, names: Names, loops: usize) -> Result<(), String> {
        let (queues, given) = (usize::from(self.queues), self.loops.len());
        let (mapping, threads) = match names {
            Names::Options => ("--mapping", "--threads"),
            Names::Keys => ("loops", "loops in [daemon]"),
        };
        if loops == 0 && given > 0 {
            return Err(format!("{mapping} concerns I/O threads, and there are none: give {threads}"));
        }
        if given > queues {
            let queues_are = names.of("queues");
            return Err(format!("{mapping} has {given} entries, but {queues_are} is {queues}"));
        }
        match self.loops.iter().find(|index| **index >= loops) {
            Some(wrong) => {
                Err(format!("{mapping}: there is no thread {wrong}, only 0 to {}", loops.saturating_sub(1)))
            }
            None => Ok(()),
        }
    }
}
