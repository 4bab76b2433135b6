//! What the numbers were measured on: kernel, CPU, virtualisation, load, noise, and the command
//! itself.

mod noise;
mod proc;

pub(crate) use noise::Noise;

use crate::machine::CpuSet;
use serde::Serialize;
use std::{env, fs};

/// A description of the machine. Facts that cannot be read are absent, never guessed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Environment {
    /// When the run began: RFC 3339, in UTC.
    pub(crate) date: String,
    /// Release and architecture, as uname -r and -m print them.
    pub(crate) kernel: String,
    pub(crate) cpu_model: Option<String>,
    /// The evidence for a virtual machine, and its name.
    pub(crate) virtualisation: Option<String>,
    /// CPUs online in the machine, in the kernel's list format.
    pub(crate) cpus_online: String,
    /// CPUs that this process may use, in the same format.
    pub(crate) cpus_allowed: String,
    #[serde(skip)]
    pub(crate) allowed: CpuSet,
    /// Mean length of the run queue over 1, 5 and 15 minutes.
    pub(crate) load_average: Option<[f64; 3]>,
    /// cpufreq governor of the first allowed CPU.
    pub(crate) governor: Option<String>,
    /// The clock source of clock_gettime(2). Some cannot be read through the vDSO and cost a system
    /// call.
    pub(crate) clocksource: Option<String>,
    /// kernel.io_uring_disabled: 0 allowed, 1 only for a group, 2 for nobody.
    pub(crate) io_uring_disabled: Option<u8>,
    /// RLIMIT_MEMLOCK, in bytes; absent when unlimited.
    pub(crate) memlock_limit_bytes: Option<u64>,
    /// CPU vulnerabilities that the kernel mitigates in software, by their names in sysfs.
    pub(crate) mitigations: Option<String>,
    pub(crate) bench_version: &'static str,
    pub(crate) rustc: Option<&'static str>,
    /// The command line, quoted for a shell.
    pub(crate) command: String,
    pub(crate) noise: Noise,
    /// Reasons to trust these numbers less than usual, one sentence each.
    pub(crate) warnings: Vec<String>,
}

impl Environment {
    /// Gathers the facts. Blocks for about 50 ms, for the noise estimate.
    pub(crate) fn gather() -> Self {
        let allowed = CpuSet::allowed().unwrap_or_else(|_| CpuSet::parse_list("0"));
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let first_cpu = allowed.iter().next().unwrap_or(0);
        let load_average = read("/proc/loadavg").as_deref().and_then(proc::load_average);
        let noise = Noise::estimate();
        Self {
            date: format!("{:.0}", jiff::Timestamp::now()),
            kernel: proc::kernel(),
            cpu_model: proc::cpu_model(&cpuinfo),
            virtualisation: proc::virtualisation(
                &cpuinfo,
                read("/sys/hypervisor/type").as_deref(),
                read("/sys/class/dmi/id/sys_vendor").as_deref(),
                read("/sys/class/dmi/id/product_name").as_deref(),
            ),
            cpus_online: read("/sys/devices/system/cpu/online").unwrap_or_else(|| allowed.to_string()),
            cpus_allowed: allowed.to_string(),
            load_average,
            governor: read(&format!("/sys/devices/system/cpu/cpu{first_cpu}/cpufreq/scaling_governor")),
            clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled")
                .and_then(|value| value.parse().ok()),
            memlock_limit_bytes: proc::memlock_limit(),
            mitigations: proc::mitigations("/sys/devices/system/cpu/vulnerabilities".as_ref()),
            bench_version: env!("CARGO_PKG_VERSION"),
            rustc: option_env!("BENCH_RUSTC"),
            command: command_line(env::args_os().map(|argument| argument.to_string_lossy().into_owned())),
            warnings: warnings(load_average, allowed.len(), &noise),
            noise,
            allowed,
        }
    }

    /// The header of a report: one line per fact, each with its name.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("command", self.command.clone()),
            ("date", self.date.clone()),
            ("kernel", self.kernel.clone()),
        ];
        let cpus = format!("{} online, {} allowed", self.cpus_online, self.cpus_allowed);
        let model = self.cpu_model.as_deref().unwrap_or("unknown model");
        lines.push(("CPU", format!("{model}; CPUs {cpus}")));
        let machine = self.virtualisation.as_deref().unwrap_or("no sign of a hypervisor");
        lines.push(("machine", machine.to_owned()));
        let mut state = Vec::new();
        if let Some([one, five, fifteen]) = self.load_average {
            state.push(format!("load {one:.2} {five:.2} {fifteen:.2}"));
        }
        state.push(format!("noise {}", self.noise));
        state.extend(self.governor.as_ref().map(|governor| format!("governor {governor}")));
        state.extend(self.clocksource.as_ref().map(|clocksource| format!("clocksource {clocksource}")));
        lines.push(("state", state.join(", ")));
        let mut limits = Vec::new();
        limits.extend(self.io_uring_disabled.map(|value| format!("io_uring_disabled {value}")));
        limits.push(match self.memlock_limit_bytes {
            Some(bytes) => format!("memlock {} KiB", bytes / 1024),
            None => "memlock unlimited".to_owned(),
        });
        lines.push(("limits", limits.join(", ")));
        lines.extend(self.mitigations.clone().map(|mitigations| ("mitigations", mitigations)));
        let rustc = self.rustc.map(|rustc| format!(", {rustc}")).unwrap_or_default();
        lines.push(("versions", format!("bench {}{rustc}", self.bench_version)));
        lines
    }
}

/// Reads a sysfs or procfs file without its final newline. `None` if it cannot be read or is empty.
fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

fn warnings(load_average: Option<[f64; 3]>, cpus: usize, noise: &Noise) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some([one, ..]) = load_average
        && one > 0.5 * cpus as f64
    {
        warnings.push(format!(
            "the load average is {one:.2} on {cpus} CPUs: something else is running, and the times below include it"
        ));
    }
    if noise.is_high() {
        warnings.push(format!(
            "the times of one busy loop differ by {noise}: this machine is noisy, expect wide intervals"
        ));
    }
    warnings
}

/// Joins the arguments to one line that a shell would split into the same arguments.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    let quoted = arguments.map(|argument| {
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_described() {
        let environment = Environment::gather();
        assert!(!environment.kernel.is_empty());
        assert!(environment.allowed.len() >= 1);
        let lines = environment.lines();
        assert_eq!([lines[0].0, lines[1].0], ["command", "date"]);
        // To the second, in UTC: 2026-01-31T12:34:56Z.
        let date = environment.date.as_str();
        assert!(date > "2025-01-01T00:00:00Z" && date.len() == 20 && date.ends_with('Z'), "{date}");
        assert!(lines.iter().all(|(_, text)| !text.is_empty() && !text.contains('\n')), "{lines:?}");
    }

    #[test]
    fn a_command_line_survives_a_shell() {
        let quoted = |arguments: &[&str]| command_line(arguments.iter().map(|&argument| argument.to_owned()));
        assert_eq!(quoted(&["bench", "--pin", "0,1"]), "bench --pin 0,1");
        assert_eq!(quoted(&["bench", "--json", "it's here", ""]), r"bench --json 'it'\''s here' ''");
    }

    #[test]
    fn load_and_noise_are_warned_about() {
        let (quiet, loud) = (Noise { spread: 0.001 }, Noise { spread: 0.5 });
        assert!(warnings(Some([0.9, 9.0, 9.0]), 2, &quiet).is_empty());
        assert!(warnings(None, 2, &quiet).is_empty());
        let busy = warnings(Some([1.1, 0.0, 0.0]), 2, &quiet);
        assert!(busy.len() == 1 && busy[0].contains("1.10 on 2 CPUs"), "{busy:?}");
        let noisy = warnings(Some([0.0; 3]), 2, &loud);
        assert!(noisy.len() == 1 && noisy[0].contains("differ by 50.0%"), "{noisy:?}");
    }
}
