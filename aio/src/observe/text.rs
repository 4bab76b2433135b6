//! A dump as text.

use super::dump::{BottomHalfState, Dump, TaskState};
use crate::monitor::Interest;
use crate::profile::{CallbackKind, Figures};
use crate::timer::Clock;
use std::fmt;

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (monitor, stats, workers) = (self.monitor(), self.stats(), self.workers());
        writeln!(f, "monitor {} ({})", monitor.kind, monitor.reason)?;
        writeln!(f, "{} turns, {} system calls, {} wake-ups", stats.turns, stats.syscalls(), stats.wakeups)?;
        for handler in self.handlers() {
            let state = if handler.ready { "ready" } else { "waits" };
            let interest = handler.interest.map_or("", interest);
            write!(f, "{} fd {} {state}{interest}", handler.kind, handler.fd)?;
            finish(f, handler.name(), handler.figures)?;
        }
        for timer in self.timers() {
            let clock = match timer.clock {
                Clock::Realtime => "",
                Clock::Virtual => " on the virtual clock",
            };
            match timer.deadline_ns {
                None => write!(f, "timer idle{clock}")?,
                Some(at_ns) => match at_ns.checked_sub(self.now_ns(timer.clock)) {
                    Some(left_ns) => write!(f, "timer in {left_ns} ns{clock}")?,
                    None => write!(f, "timer expired{clock}")?,
                },
            }
            finish(f, timer.name(), timer.figures)?;
        }
        for half in self.bottom_halves() {
            f.write_str(match half.state {
                BottomHalfState::Idle => "bottom half idle",
                BottomHalfState::ScheduledIdle => "bottom half scheduled idle",
                BottomHalfState::Scheduled => "bottom half scheduled",
            })?;
            finish(f, half.name(), half.figures)?;
        }
        writeln!(f, "{} closures wait", self.closures())?;
        for task in self.tasks() {
            f.write_str(match task.state {
                TaskState::Waiting => "task waits",
                TaskState::Ready => "task ready",
                TaskState::Running => "task running",
            })?;
            finish(f, task.name(), task.figures)?;
        }
        for ended in self.ended() {
            write!(f, "ended {}", ended.kind)?;
            finish(f, Some(ended.name()), ended.figures)?;
        }
        for operation in self.operations() {
            let state = if operation.in_flight { "in flight" } else { "completed" };
            let multishot = if operation.multishot { ", multishot" } else { "" };
            writeln!(f, "operation {} {state}{multishot}", operation.slot)?;
        }
        writeln!(
            f,
            "{} worker threads, {} jobs running, {} queued",
            workers.threads, workers.running, workers.queued
        )?;
        for kind in CallbackKind::ALL {
            let figures = self.figures(kind);
            if figures.calls != 0 {
                write!(f, "all callbacks of kind {kind}")?;
                finish(f, None, figures)?;
            }
        }
        Ok(())
    }
}

fn interest(interest: Interest) -> &'static str {
    match (interest.contains(Interest::READABLE), interest.contains(Interest::WRITABLE)) {
        (true, true) => " to read and write",
        (true, false) => " to read",
        (false, true) => " to write",
        (false, false) => " for errors only",
    }
}

/// The end of a line: name and figures. A name is quoted and escaped, so that each entry is one
/// line.
fn finish(f: &mut fmt::Formatter<'_>, name: Option<&str>, figures: Figures) -> fmt::Result {
    if let Some(name) = name {
        write!(f, " {name:?}")?;
    }
    let Figures { calls, total, longest, own, longest_own } = figures;
    if calls != 0 {
        write!(f, ": {calls} calls, {own:?}, longest {longest_own:?}")?;
    }
    if own != total {
        write!(f, ", with nested turns {total:?}, longest {longest:?}")?;
    }
    writeln!(f)
}
