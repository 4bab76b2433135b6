//! The commands of the control socket.

use serde::{Deserialize, Serialize};

use super::message::Command;
use crate::entry::{Entry, Origin};
use crate::host::Host;
use crate::log_file;
use crate::refusal::{Class, Refusal};
use crate::relocate::relocate;
use crate::resize::resize;
use crate::spec::DiskSpec;
use crate::values::de;

/// What happens when the answer was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Continue,
    /// The process ends.
    Stop,
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
               it does not wait, also if an earlier remove-disk waits already.",
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
        help: "The counters of each queue that runs, of one disk or of all.",
    },
    Description {
        name: "quit",
        arguments: "",
        help: "Completes the requests in flight and ends the process.",
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

#[derive(Debug, Serialize)]
struct QueueCounters {
    queue: usize,
    requests: u64,
    drains: u64,
    interrupts: u64,
    submits: u64,
    stalls: u64,
}

/// Carries out a command. Returns a JSON value.
pub(super) async fn execute(host: &Host, command: Command<'_>) -> (Result<String, Refusal>, After) {
    if command.name == "quit" {
        return match command.arguments() {
            Ok(Nothing {}) => (Ok("{}".to_owned()), After::Stop),
            Err(refusal) => (Err(refusal), After::Continue),
        };
    }
    (run(host, command).await, After::Continue)
}

async fn run(host: &Host, command: Command<'_>) -> Result<String, Refusal> {
    match command.name.as_str() {
        "add-disk" => {
            let spec: DiskSpec = command.arguments()?;
            host.add(spec, Origin::Control).await?;
            host.shared.notifier.status(&host.status());
        }
        "remove-disk" => {
            let Remove { id, force } = command.arguments()?;
            host.remove(&id, force).await?;
            host.shared.notifier.status(&host.status());
        }
        "list-disks" => {
            let Nothing {} = command.arguments()?;
            return list(host).await;
        }
        "resize-disk" => {
            let Resize { id, size } = command.arguments()?;
            let sectors = resize(host, &*host.disk(&id)?, size).await?;
            return Ok(format!("{{\"sectors\": {sectors}}}"));
        }
        "set-limits" => {
            let SetLimits { id, iops, bps } = command.arguments()?;
            host.disk(&id)?.served()?.set_limits(iops, bps)?;
        }
        "move-disk" => {
            let Move { id, loops } = command.arguments()?;
            relocate(host, &*host.disk(&id)?, &loops).await?;
        }
        "rotate-log" => {
            let Nothing {} = command.arguments()?;
            log_file::rotate()?;
        }
        "statistics" => {
            let Statistics { id } = command.arguments()?;
            return statistics(host, id.as_deref()).await;
        }
        "help" | "query-commands" => {
            let Nothing {} = command.arguments()?;
            return json(&DESCRIPTIONS);
        }
        other => {
            let why = format!("there is no command {other:?}; help lists the commands");
            return Err(Refusal::new(Class::CommandNotFound, why));
        }
    }
    Ok("{}".to_owned())
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
    for (index, entry) in entries.into_iter().enumerate() {
        let Some(running) = entry.running() else { continue };
        let queues = running.server.query_stats().await.into_iter().map(|(queue, stats)| QueueCounters {
            queue,
            requests: stats.requests,
            drains: stats.drains,
            interrupts: stats.interrupts,
            submits: stats.submits,
            stalls: stats.stalls,
        });
        let queues = json(&queues.collect::<Vec<_>>())?;
        let (id, frontends) = (json(&entry.id())?, running.server.sessions());
        disks.push(format!("{{\"id\": {id}, \"frontends\": {frontends}, \"queues\": {queues}}}"));
        if index % PIECE == PIECE - 1 {
            host.context.yield_now().await;
        }
    }
    Ok(format!("[{}]", disks.join(", ")))
}
