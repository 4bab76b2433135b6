//! The server as a separate process.
#![expect(
    unsafe_code,
    reason = "kill(2) on a child that has not been waited for; prctl(2) between fork and exec"
)]

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::Watchdog;
use super::server::TempPath;

/// Makes the kernel kill the process of `command` when the thread that starts it ends
/// (PR_SET_PDEATHSIG, which is kept across execve(2)). A hanging test is aborted without running
/// destructors, and a server left behind would keep its output pipes open.
pub(crate) fn leaving_with_us(command: &mut Command) -> &mut Command {
    let parent = std::process::id() as libc::pid_t;
    let before_exec = move || {
        // SAFETY: passes only numbers.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: takes no arguments and cannot fail.
        let still = unsafe { libc::getppid() };
        // Otherwise the parent ended before the prctl, and the signal will not be sent.
        if still == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: `before_exec` makes two system calls that are safe in a child forked from a
    // multithreaded process (signal-safety(7)). It takes no lock and allocates nothing.
    unsafe { command.pre_exec(before_exec) }
}

/// The program, with a descriptor that it inherits as number 3.
pub(crate) fn inheriting(fd: impl Into<OwnedFd>, arguments: &[&str], image: &TempPath) -> Command {
    let mut command = Command::new("sh");
    let script = "exec \"$0\" \"$@\" 3<&0 0</dev/null";
    command.args(["-c", script, env!("CARGO_BIN_EXE_vhost-user-blk")]).args(arguments);
    command.arg("--image").arg(image.as_ref()).stdin(Stdio::from(fd.into())).stderr(Stdio::piped());
    leaving_with_us(&mut command);
    command
}

/// A shell command that becomes the program under strace, which makes system calls fail as
/// `inject` says. Returns None, after printing the reason, if that does not work here.
pub(crate) fn injecting(inject: &str) -> Option<Command> {
    // -D: the program stays our child, and strace is a grandchild.
    let strace = |program: &str| {
        let mut command = Command::new("strace");
        command
            .args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("inject={inject}"))
            .arg(program);
        command
    };
    match strace("true").output() {
        Ok(output) if output.status.success() => Some(strace(env!("CARGO_BIN_EXE_vhost-user-blk"))),
        other => {
            println!("skipped: strace is not installed, or may not trace here: {other:?}");
            None
        }
    }
}

/// A running `vhost-user-blk`. Killed on drop, or when the thread that started it ends.
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
        Self::run(&mut command, socket, Stdio::piped())
    }

    /// Starts a command that becomes the program. Its lines can be read if `stderr` is a pipe.
    pub(crate) fn run(command: &mut Command, socket: &TempPath, stderr: impl Into<Stdio>) -> Self {
        let mut child = leaving_with_us(command).stderr(stderr).spawn().unwrap();
        let (send, lines) = channel();
        if let Some(stderr) = child.stderr.take().map(BufReader::new) {
            std::thread::spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    println!("{line}");
                    if send.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Self { child, socket: socket.as_ref().to_owned(), lines }
    }

    /// Waits until the program accepts connections, without its lines.
    pub(crate) fn wait_for_socket(&mut self) {
        while UnixStream::connect(&self.socket).is_err() {
            assert!(self.is_alive(), "the program ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The rest of the lines, up to the end of the program.
    pub(crate) fn rest_of_lines(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket_mode(&self) -> u32 {
        std::fs::metadata(&self.socket).unwrap().permissions().mode() & 0o777
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: passes only numbers; the child has not been waited for, so its process id has not
        // been reused.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits until the program prints a line that contains `part`.
    pub(crate) fn wait_for_line(&self, part: &str) {
        while !self.lines.recv().expect("the server's stderr is open").contains(part) {}
    }

    /// Waits for a line that contains `part`, and returns it.
    pub(crate) fn next_line(&self, part: &str) -> String {
        let mut lines = self.lines.iter();
        lines.find(|line| line.contains(part)).expect("the server's stderr is open")
    }

    /// Returns what the program prints, if it ends without a line that contains `part`.
    pub(crate) fn lines_before(&self, part: &str) -> Option<String> {
        let mut lines = String::new();
        for line in &self.lines {
            if line.contains(part) {
                return None;
            }
            lines = lines + &line + "\n";
        }
        Some(lines)
    }

    /// Returns whether a line that contains `part` was printed, of those that nobody has read.
    pub(crate) fn has_line(&self, part: &str) -> bool {
        self.lines.try_iter().any(|line| line.contains(part))
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Kills the program with SIGKILL.
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

#[test]
fn a_server_ends_with_the_thread_that_started_it() {
    let _watchdog = Watchdog::new("a_server_ends_with_the_thread_that_started_it");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let start = || Process::start(&socket, &image, &[]);
    let mut server = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    assert_eq!(server.wait().signal(), Some(libc::SIGKILL));
}
