//! A console (virtio 1.2, section 5.3) for a vhost-user frontend. It connects the guest's
//! `/dev/hvc0` to a UNIX socket, which serves one client at a time.
//!
//! ```text
//! vhost-user-console --socket /tmp/console.sock --chardev /tmp/tty.sock
//! qemu-system-x86_64 ... -chardev socket,id=hvc,path=/tmp/console.sock \
//!     -device vhost-user-test-device-pci,chardev=hvc,virtio-id=3,num_vqs=2,config_size=12
//! socat STDIO,raw,echo=0 UNIX:/tmp/tty.sock
//! ```
//!
//! A queue does not take a chain that it cannot complete: rx waits for input, and tx waits for room
//! in the chardev's buffer. So no queue holds a chain when the guest stops. The guest's terminal
//! has the size of the terminal of this program, and is updated when that changes (SIGWINCH).
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aio::{AioContext, BottomHalf};
use clap::Parser;
use virtio_blk_sim::chardev::Chardev;
use virtio_blk_sim::queue::{Device, Handled, Immediate, QueueRef, RING_FEATURES, read_space};
use virtio_blk_sim::vhost_user::{Daemon, Served, bind};
use virtio_blk_sim::virtqueue::Chain;

/// `VIRTIO_CONSOLE_F_SIZE`: the configuration space starts with columns and rows.
const F_SIZE: u64 = 1;
/// The queue from the device to the driver. The other queue is tx, with index 1.
const RX: u16 = 0;

/// The device.
#[derive(Debug, Default)]
pub(crate) struct Console {
    pub(crate) chardev: Arc<Chardev>,
    /// Columns and rows, 16 bits each, in the layout of the configuration space.
    size: AtomicU32,
}

/// The device's side of a queue.
#[derive(Debug)]
pub(crate) struct Port {
    chardev: Arc<Chardev>,
    index: u16,
    /// Wakes the queue; scheduled by the chardev.
    _wake: BottomHalf,
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

impl Size {
    /// Reads the size of the terminal on standard input, if that is a terminal.
    fn of_terminal() -> Option<Self> {
        let size = rustix::termios::tcgetwinsize(io::stdin()).ok()?;
        Some(Self { columns: size.ws_col, rows: size.ws_row })
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse =
            |number: &str| number.parse().map_err(|_| format!("{number:?} is not a number up to 65535"));
        let (columns, rows) = text.split_once('x').ok_or("write COLSxROWS, such as 80x25")?;
        Ok(Self { columns: parse(columns)?, rows: parse(rows)? })
    }
}

impl Console {
    /// Sets the size of the terminal. The caller must notify the frontend.
    pub(crate) fn resize(&self, size: Size) {
        self.size.store(u32::from(size.rows) << 16 | u32::from(size.columns), Ordering::Relaxed);
    }
}

impl Device for Console {
    type Worker = Immediate<Port>;

    fn name(&self) -> &str {
        "vhost-user-console"
    }

    fn queues(&self) -> u16 {
        2
    }

    fn offered(&self) -> u64 {
        RING_FEATURES | F_SIZE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.size.load(Ordering::Relaxed).to_le_bytes(), offset, data);
    }

    fn start(
        self: Arc<Self>,
        index: u16,
        context: &AioContext,
        queue: QueueRef<Self::Worker>,
    ) -> io::Result<Self::Worker> {
        let wake = context.bottom_half(move |_| queue.wake());
        match index {
            RX => self.chardev.on_input(wake.handle()),
            _ => self.chardev.on_room(wake.handle()),
        }
        let chardev = Arc::clone(&self.chardev);
        Ok(Immediate::new(Rc::new(Port { chardev, index, _wake: wake })))
    }
}

impl Handled for Port {
    fn handle(&self, chain: &Chain) -> u32 {
        if self.index == RX {
            return self.chardev.receive(chain.writable());
        }
        self.chardev.send(chain.readable());
        0
    }

    fn may_begin(&self) -> bool {
        if self.index == RX { self.chardev.has_input() } else { self.chardev.has_room() }
    }
}

#[derive(Debug, Parser)]
#[command(about = "Serves the console of a vhost-user guest on a UNIX socket")]
struct Options {
    /// Path of the UNIX socket that frontends connect to
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Path of the UNIX socket that the user of the console connects to
    #[arg(long, value_name = "PATH")]
    chardev: PathBuf,
    /// The size of the terminal until the first SIGWINCH [default: that of standard input]
    #[arg(long, value_name = "COLSxROWS")]
    size: Option<Size>,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let console = Console::default();
    let default = Size { columns: 80, rows: 25 };
    console.resize(options.size.or_else(Size::of_terminal).unwrap_or(default));
    let chardev = Arc::clone(&console.chardev);
    let (listener, _file) = bind(&options.chardev)?;
    let daemon = Daemon::new(Served::new(console), &options.socket, &[libc::SIGWINCH])?;
    let _clients = chardev.listen(daemon.context(), listener)?;
    daemon.run(|server, _winch| {
        if let Some(size) = Size::of_terminal() {
            server.device().resize(size);
        }
        server.config_changed();
    })
}
