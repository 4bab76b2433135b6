//! The program with a configuration file, and a client of its control socket.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::process::{Process, leaving_with_us};
use super::server::TempPath;

/// A running program with a configuration file.
pub(crate) struct Daemon {
    pub(crate) process: Process,
    pub(crate) config: TempPath,
    pub(crate) control: TempPath,
    sockets: Vec<(String, TempPath)>,
}

/// A connection to the control socket.
pub(crate) struct Control {
    stream: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

pub(crate) fn text(path: &impl AsRef<Path>) -> &str {
    path.as_ref().to_str().unwrap()
}

impl Daemon {
    /// Starts the program. `daemon` are the keys of `[daemon]`, and for each disk its id and its
    /// keys besides the socket.
    pub(crate) fn start(daemon: &str, disks: &[(&str, &str)]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_vhost-user-blk")), daemon, disks)
    }

    /// The same with a command that becomes the program.
    pub(crate) fn run(mut command: Command, daemon: &str, disks: &[(&str, &str)]) -> Self {
        let (config, control) = (TempPath::new("toml"), TempPath::new("ctl"));
        let sockets: Vec<_> = disks.iter().map(|(id, _)| (id.to_string(), TempPath::new("sock"))).collect();
        command.arg("--config").arg(config.as_ref());
        std::fs::write(&config, file(&control, &sockets, daemon, disks)).unwrap();
        let process = Process::run(&mut command, &control, Stdio::piped());
        process.wait_for_line("vhost-user-blk: ready");
        Self { process, config, control, sockets }
    }

    /// Writes the file again. Disks that it had before keep their socket.
    pub(crate) fn write(&mut self, daemon: &str, disks: &[(&str, &str)]) {
        for (id, _) in disks {
            self.socket(id);
        }
        std::fs::write(&self.config, file(&self.control, &self.sockets, daemon, disks)).unwrap();
    }

    /// The socket of a disk, also of one that is to be added.
    pub(crate) fn socket(&mut self, id: &str) -> &TempPath {
        let known = self.sockets.iter().position(|(known, _)| known == id);
        let index = known.unwrap_or_else(|| {
            self.sockets.push((id.to_owned(), TempPath::new("sock")));
            self.sockets.len() - 1
        });
        &self.sockets[index].1
    }

    pub(crate) fn connect(&self) -> Control {
        Control::connect(&self.control)
    }

    /// Reads the file again, and waits for the line that says so.
    pub(crate) fn reload(&self, line: &str) {
        self.process.signal(libc::SIGHUP);
        self.process.wait_for_line(line);
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process.signal(libc::SIGTERM);
        self.process.wait()
    }
}

fn file(control: &TempPath, sockets: &[(String, TempPath)], daemon: &str, disks: &[(&str, &str)]) -> String {
    let mut file = format!("[daemon]\ncontrol = {:?}\n{daemon}\n", text(control));
    for (id, keys) in disks {
        let (_, socket) = sockets.iter().find(|(known, _)| known == id).unwrap();
        write!(file, "[[disk]]\nid = {id:?}\nsocket = {:?}\n{keys}\n", text(socket)).unwrap();
    }
    file
}

impl Control {
    /// Connects, and checks the greeting.
    pub(crate) fn connect(path: impl AsRef<Path>) -> Self {
        let mut this = Self::silent(path);
        let greeting = this.line().unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let wanted = json!({"vhost-user-blk": {"version": version, "capabilities": ["events"]}});
        assert_eq!(serde_json::from_str::<Value>(&greeting).unwrap(), wanted);
        this
    }

    /// Connects, and reads nothing.
    pub(crate) fn silent(path: impl AsRef<Path>) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
        Self { stream: BufReader::new(stream), events: VecDeque::new() }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    /// The next line. None at the end of the stream.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = match self.stream.read_line(&mut line) {
            Ok(count) => count,
            // The server closed a connection with requests that it did not read.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("the control socket: {error}"),
        };
        (count > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// Everything up to the end of the stream.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        match self.stream.read_to_string(&mut rest) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => rest,
        }
    }

    /// The next answer. Events that come before it are kept.
    pub(crate) fn answer(&mut self) -> String {
        loop {
            let line = self.line().expect("the connection is open");
            if !line.starts_with("{\"event\"") {
                return line;
            }
            self.events.push_back(serde_json::from_str(&line).unwrap());
        }
    }

    /// Sends a line and returns its answer.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n").as_bytes()).unwrap();
        self.answer()
    }

    pub(crate) fn start(&mut self, command: &str, arguments: Value) {
        let line = json!({"execute": command, "arguments": arguments});
        self.send(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Executes a command. Returns its result or the description of the error.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.start(command, arguments);
        self.outcome()
    }

    /// The next answer: its result, or the description of the error.
    pub(crate) fn outcome(&mut self) -> Result<Value, String> {
        let answer: Value = serde_json::from_str(&self.answer()).unwrap();
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(answer["error"]["desc"].as_str().unwrap().to_owned()),
        }
    }

    /// What `list-disks` has about a disk.
    pub(crate) fn disk(&mut self, id: &str) -> Value {
        let disks = self.execute("list-disks", json!({})).unwrap();
        let found = disks.as_array().unwrap().iter().find(|disk| disk["id"] == id);
        found.cloned().unwrap_or(Value::Null)
    }

    /// The next event, as its name and its data. Checks that it has a timestamp.
    pub(crate) fn event(&mut self) -> (String, Value) {
        let event = self.events.pop_front().unwrap_or_else(|| {
            let line = self.line().expect("the connection is open");
            serde_json::from_str(&line).unwrap()
        });
        assert!(event["timestamp"]["seconds"].as_u64().unwrap() > 1_700_000_000, "{event}");
        assert!(event["timestamp"]["microseconds"].as_u64().unwrap() < 1_000_000, "{event}");
        (event["event"].as_str().expect("an event").to_owned(), event["data"].clone())
    }

    /// Waits for an event about a disk.
    pub(crate) fn wait_for(&mut self, name: &str, id: &str) -> Value {
        loop {
            let (found, data) = self.event();
            if found == name && data["id"] == id {
                return data;
            }
        }
    }
}

/// Runs the program with a file that it must refuse. Returns what it prints.
pub(crate) fn refused(file: &str) -> String {
    let path = TempPath::new("toml");
    std::fs::write(&path, file).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
    command.arg("--config").arg(path.as_ref()).stdin(Stdio::null());
    let output = leaving_with_us(&mut command).output().unwrap();
    let lines = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{file}: {lines}");
    lines.replace(text(&path), "FILE")
}
