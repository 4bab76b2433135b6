//! Reading procfs, sysfs and uname(2). The parsers take text, so that files of other machines can
//! be tested.

use rustix::process::{Resource, getrlimit};
use rustix::system::uname;
use std::fs;
use std::path::Path;

/// Release and machine from uname(2).
pub(super) fn kernel() -> String {
    let name = uname();
    format!("Linux {} {}", name.release().to_string_lossy(), name.machine().to_string_lossy())
}

/// RLIMIT_MEMLOCK's soft limit in bytes; `None` for no limit.
pub(super) fn memlock_limit() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// The first three numbers of /proc/loadavg.
pub(super) fn load_average(text: &str) -> Option<[f64; 3]> {
    let mut numbers =
        text.split_ascii_whitespace().map(|word| word.parse().ok().filter(|n: &f64| n.is_finite()));
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// The value of the first line of /proc/cpuinfo that is called `key`.
fn cpuinfo_value<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key && !value.trim().is_empty()).then(|| value.trim())
    })
}

/// The CPU's name. arm64 has no name in /proc/cpuinfo, but the numbers of its implementer and part.
pub(super) fn cpu_model(cpuinfo: &str) -> Option<String> {
    if let Some(model) = cpuinfo_value(cpuinfo, "model name") {
        return Some(model.to_owned());
    }
    let implementer = cpuinfo_value(cpuinfo, "CPU implementer")?;
    let part = cpuinfo_value(cpuinfo, "CPU part")?;
    Some(format!("implementer {implementer} part {part}"))
}

/// The evidence for a hypervisor: x86's CPUID bit, Xen's sysfs file, or the names in the DMI
/// tables.
pub(super) fn virtualisation(
    cpuinfo: &str,
    hypervisor_type: Option<&str>,
    vendor: Option<&str>,
    product: Option<&str>,
) -> Option<String> {
    let flag =
        cpuinfo_value(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor"));
    let dmi = [vendor, product].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let virtual_names =
        ["qemu", "kvm", "vmware", "virtualbox", "xen", "bochs", "amazon ec2", "virtual machine"];
    let named = virtual_names.iter().any(|name| dmi.to_ascii_lowercase().contains(name));
    if !flag && !named && hypervisor_type.is_none() {
        return None;
    }
    let detail = [hypervisor_type.unwrap_or_default(), &dmi].join(" ");
    Some(match detail.trim() {
        "" => "virtual machine, without a name".to_owned(),
        detail => format!("virtual machine, {detail}"),
    })
}

/// The names of the vulnerabilities that the kernel mitigates according to `directory` (sysfs), in
/// one line.
pub(super) fn mitigations(directory: &Path) -> Option<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let status = fs::read_to_string(entry.path()).unwrap_or_default();
        if status.starts_with("Mitigation") {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Some(if names.is_empty() { "none".to_owned() } else { names.join(" ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const XEON: &str =
        "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\nflags\t\t: fpu sse hypervisor lm\n";
    const LAPTOP: &str = "processor\t: 0\nmodel name\t: AMD Ryzen 7\nflags\t\t: fpu sse lm\n";
    const ARM: &str = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";

    #[test]
    fn the_kernel_has_a_release() {
        assert!(kernel().starts_with("Linux "));
        assert_eq!(kernel().split(' ').count(), 3);
    }

    #[test]
    fn cpus_have_names() {
        assert_eq!(cpu_model(XEON).as_deref(), Some("Intel(R) Xeon(R) Processor"));
        assert_eq!(cpu_model(ARM).as_deref(), Some("implementer 0x41 part 0xd0c"));
        assert_eq!(cpu_model(""), None);
    }

    #[test]
    fn virtual_machines_are_recognised() {
        assert_eq!(virtualisation(LAPTOP, None, Some("LENOVO"), Some("20XW")), None);
        assert_eq!(virtualisation("", None, None, None), None);
        let with = |hypervisor, vendor, product| virtualisation(XEON, hypervisor, vendor, product).unwrap();
        assert_eq!(with(None, None, None), "virtual machine, without a name");
        assert_eq!(with(Some("xen"), None, None), "virtual machine, xen");
        assert_eq!(with(None, Some("QEMU"), Some("Standard PC")), "virtual machine, QEMU Standard PC");
        // arm64 has no CPUID bit, but may have DMI tables.
        let arm = virtualisation(ARM, None, Some("QEMU"), Some("KVM Virtual Machine"));
        assert_eq!(arm.as_deref(), Some("virtual machine, QEMU KVM Virtual Machine"));
    }

    #[test]
    fn load_averages_are_three_numbers() {
        assert_eq!(load_average("0.52 1.00 0.33 2/345 6789\n"), Some([0.52, 1.0, 0.33]));
        for malformed in ["", "0.5 x 1", "1 2", "NaN 1 1"] {
            assert_eq!(load_average(malformed), None);
        }
    }

    #[test]
    fn mitigations_are_those_that_cost_something() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        assert_eq!(mitigations(directory).as_deref(), Some("none"));
        fs::write(directory.join("spectre_v2"), "Mitigation: Retpolines\n").unwrap();
        fs::write(directory.join("meltdown"), "Not affected\n").unwrap();
        fs::write(directory.join("mds"), "Mitigation: Clear CPU buffers\n").unwrap();
        assert_eq!(mitigations(directory).as_deref(), Some("mds spectre_v2"));
        temporary.close().unwrap();
        assert_eq!(mitigations("/nonexistent".as_ref()), None);
    }
}
