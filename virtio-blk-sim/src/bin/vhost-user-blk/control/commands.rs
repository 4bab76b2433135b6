//! The commands of the control socket.

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::message::Command;
use crate::counters::Answering;
use crate::entry::Entry;
use crate::host::Host;
use crate::log_file;
use crate::refusal::{Class, Refusal};
use crate::values::de;

/// What a command leads to.
#[derive(Debug)]
pub(super) enum Step {
    /// An answer: a JSON value.
    Answer(String),
    /// Something that may wait.
    Change(Change),
    /// The process ends when the answer was sent; by force, it waits for nothing.
    Stop { force: bool },
}

/// A command as `help` shows it.
#[derive(Debug, Serialize)]
struct Description {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
}

const DESCRIPTIONS: &[Description] = &[
    Description {
        name: "add-disk",
        arguments: "the keys of a [[disk]] of the configuration file",
        help: "Opens a disk and serves it.",
    },
    Description {
        name: "remove-disk",
        arguments: "id, force = false",
        help: "Disconnects the frontend, waits for the requests in flight, and closes the disk. With force \
               it does not wait, also if an earlier remove-disk waits already, or add-disk for the image.",
    },
    Description { name: "list-disks", arguments: "", help: "Describes all disks." },
    Description {
        name: "resize-disk",
        arguments: "id, size (optional, in bytes)",
        help: "Reads the size of the image again, or makes a raw file larger first. The frontend is notified.",
    },
    Description {
        name: "set-limits",
        arguments: "id, iops (optional), bps (optional)",
        help: "Changes the limits per second that are given; 0 is no limit.",
    },
    Description {
        name: "move-disk",
        arguments: "id, loops (a list)",
        help: "Moves queue n to the n-th loop of the list while it is served. Other queues stay.",
    },
    Description {
        name: "rotate-log",
        arguments: "",
        help: "Opens the log file again, after it was renamed.",
    },
    Description {
        name: "statistics",
        arguments: "id (optional)",
        help: "The counters of each queue that runs, of one disk or of all, and how often frontends had to \
               wait because of too many messages or connections.",
    },
    Description {
        name: "quit",
        arguments: "force = false",
        help: "Completes the requests in flight and ends the process. With force it does not wait, also if \
               an earlier quit waits already.",
    },
    Description { name: "help", arguments: "", help: "Describes all commands. Also: query-commands." },
];

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    DESCRIPTIONS.iter().map(|description| description.name)
}

/// A list of disks, or of their counters, is made in pieces of so many disks, and other handlers
/// get their turn between them.
const PIECE: usize = 32;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quit {
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    id: String,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    id: String,
    #[serde(default, deserialize_with = "de::size")]
    size: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetLimits {
    id: String,
    #[serde(default, deserialize_with = "de::limit")]
    iops: Option<u64>,
    #[serde(default, deserialize_with = "de::size")]
    bps: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    id: String,
    loops: Vec<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statistics {
    #[serde(default)]
    id: Option<String>,
}

/// A disk as `list-disks` describes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ListedDisk<'a> {
    id: &'a str,
    generation: u64,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    null: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    read_only: bool,
    queues: u16,
    queue_size: u16,
    #[serde(flatten)]
    served: Option<ListedState>,
}

/// What only a disk that is served has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ListedState {
    sectors: u64,
    block_size: u32,
    loops: Vec<usize>,
    /// 0 is no limit.
    iops: u64,
    bps: u64,
    connected: bool,
    frontends: u64,
    failed: bool,
}

/// The counters of a disk.
#[derive(Debug, Serialize)]
struct DiskCounters<'a> {
    id: &'a str,
    frontends: u64,
    throttled: ThrottledCounters,
    queues: Vec<QueueCounters>,
    /// `false` if a loop did not answer in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered: Option<bool>,
}

/// How often frontends had to wait.
#[derive(Debug, Serialize)]
struct ThrottledCounters {
    messages: u64,
    connections: u64,
}

#[derive(Debug, Serialize)]
struct QueueCounters {
    queue: usize,
    requests: u64,
    drains: u64,
    interrupts: u64,
    submits: u64,
    stalls: u64,
}

/// Looks a command up, and carries it out if it does not change a disk: then it waits for two
/// seconds at most, for loops that do not answer.
pub(super) async fn execute(host: &Host, command: Command<'_>) -> Result<Step, Refusal> {
    let answer = match command.name.as_str() {
        "add-disk" => return Ok(Step::Change(Change::Add(command.arguments()?))),
        "remove-disk" => {
            let Remove { id, force } = command.arguments()?;
            return Ok(Step::Change(Change::Remove { id, force }));
        }
        "list-disks" => {
            let Nothing {} = command.arguments()?;
            list(host).await?
        }
        "resize-disk" => {
            let Resize { id, size } = command.arguments()?;
            return Ok(Step::Change(Change::Resize { id, size }));
        }
        "set-limits" => {
            let SetLimits { id, iops, bps } = command.arguments()?;
            host.disk(&id)?.served()?.set_limits(iops, bps)?;
            "{}".to_owned()
        }
        "move-disk" => {
            let Move { id, loops } = command.arguments()?;
            return Ok(Step::Change(Change::Move { id, loops }));
        }
        "rotate-log" => {
            let Nothing {} = command.arguments()?;
            log_file::rotate()?;
            "{}".to_owned()
        }
        "statistics" => {
            let Statistics { id } = command.arguments()?;
            statistics(host, id.as_deref()).await?
        }
        "quit" => {
            let Quit { force } = command.arguments()?;
            return Ok(Step::Stop { force });
        }
        "help" | "query-commands" => {
            let Nothing {} = command.arguments()?;
            json(&DESCRIPTIONS)?
        }
        other => {
            let why = format!("there is no command {other:?}; help lists the commands");
            return Err(Refusal::new(Class::CommandNotFound, why));
        }
    };
    Ok(Step::Answer(answer))
}

fn json(value: &impl Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(|error| error.to_string().into())
}

async fn list(host: &Host) -> Result<String, Refusal> {
    let mut disks = Vec::new();
    for (index, entry) in host.disks().into_iter().enumerate() {
        disks.push(json(&describe(&entry))?);
        if index % PIECE == PIECE - 1 {
            host.context.yield_now().await;
        }
    }
    Ok(format!("[{}]", disks.join(", ")))
}

fn describe(entry: &Entry) -> ListedDisk<'_> {
    let spec = &entry.spec;
    let shown = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let served = entry.running().map(|running| {
        let limits = running.limits.get();
        ListedState {
            sectors: running.device().capacity_sectors(),
            block_size: running.device().config().logical_block_size,
            loops: running.loops(),
            iops: limits.iops.unwrap_or(0),
            bps: limits.bps.unwrap_or(0),
            connected: running.server.is_connected(),
            frontends: running.server.sessions(),
            failed: running.image.as_ref().is_some_and(|image| image.has_failed()),
        }
    });
    ListedDisk {
        id: entry.id(),
        generation: entry.generation,
        state: entry.state(),
        socket: shown(&spec.socket),
        image: shown(&spec.image),
        null: spec.null,
        memory: spec.memory,
        read_only: spec.read_only,
        queues: spec.queues,
        queue_size: spec.queue_size,
        served,
    }
}

async fn statistics(host: &Host, id: Option<&str>) -> Result<String, Refusal> {
    let entries = match id {
        Some(id) => vec![host.disk(id)?],
        None => host.disks(),
    };
    let mut disks = Vec::new();
    let mut answering = Answering::find(host).await;
    for (index, entry) in entries.into_iter().enumerate() {
        let Some(running) = entry.running() else { continue };
        let counters = answering.counters(&running).await;
        let answered = if counters.is_none() { Some(false) } else { None };
        let queues = counters.unwrap_or_default().into_iter().map(|(queue, stats)| QueueCounters {
            queue,
            requests: stats.requests,
            drains: stats.drains,
            interrupts: stats.interrupts,
            submits: stats.submits,
            stalls: stats.stalls,
        });
        let queues = queues.collect();
        let throttled = running.server.throttled();
        let throttled =
            ThrottledCounters { messages: throttled.messages, connections: throttled.connections };
        let frontends = running.server.sessions();
        disks.push(json(&DiskCounters { id: entry.id(), frontends, throttled, queues, answered })?);
        if index % PIECE == PIECE - 1 {
            host.context.yield_now().await;
        }
    }
    Ok(format!("[{}]", disks.join(", ")))
}
