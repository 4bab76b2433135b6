//! The server as a program.
#![expect(unsafe_code, reason = "kill(2) on a child that has not been waited for")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::server::TempPath;

/// A running `vhost-user-blk`. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    socket: PathBuf,
    lines: Receiver<String>,
}

impl Process {
    /// Starts the program on an image, and waits until it listens.
    pub(crate) fn start(socket: &TempPath, image: &TempPath, more: &[&str]) -> Self {
        let disk = ["--image".as_ref(), image.as_ref().as_os_str()];
        let this = Self::launch(socket, &disk, more);
        this.wait_for_line("listening on");
        this
    }

    /// Starts the program.
    pub(crate) fn launch(socket: &TempPath, disk: &[&OsStr], more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
        command.arg("--socket").arg(socket.as_ref()).args(disk).args(more);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                println!("{line}");
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, socket: socket.as_ref().to_owned(), lines }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket_mode(&self) -> u32 {
        std::fs::metadata(&self.socket).unwrap().permissions().mode() & 0o777
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a number and a number; the child has not been waited for, so its id is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits until the program has said something.
    pub(crate) fn wait_for_line(&self, part: &str) {
        while !self.lines.recv().expect("the server's stderr is open").contains(part) {}
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
