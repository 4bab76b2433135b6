//! Names of metrics for people.

/// The name without its unit, and the unit if the name does not imply it: `p999_us`, `us` becomes
/// `p99.9`, `us`.
pub(crate) fn heading<'a>(name: &str, unit: &'a str) -> (String, Option<&'a str>) {
    let bare = match unit {
        "ns" | "us" | "ms" | "bytes" => name.strip_suffix(unit).and_then(|name| name.strip_suffix('_')),
        _ => None,
    };
    let bare = bare.unwrap_or(name);
    let implied = |unit: &&str| {
        unit.is_empty()
            || bare.ends_with(*unit)
            || ["ratio", "ns/s"].contains(unit)
            || bare.ends_with("_per_s")
    };
    let unit = Some(unit).filter(|unit| !implied(unit));
    let name = match bare {
        "iops" => "IOPS".to_owned(),
        _ if spelled(bare).is_some() => spelled(bare).unwrap_or(bare).to_owned(),
        _ => match (percent_of(bare), bare.strip_prefix("intended_").and_then(percent_of)) {
            (Some(percent), _) => format!("p{percent}"),
            (None, Some(percent)) => format!("intended p{percent}"),
            (None, None) => bare.replace('_', " ").replace("io uring", "io_uring"),
        },
    };
    (name, unit)
}

/// Names that are too short to be understood, in words.
fn spelled(bare: &str) -> Option<&'static str> {
    Some(match bare {
        "device_cpu" => "device CPU time",
        "server_cpu" => "server CPU time",
        "unread_cpu" => "device CPU time without the read",
        "wcpu" => "CPU time of the writer",
        "rcpu" => "CPU time of the reader",
        "eagain" => "EAGAIN",
        "idle_cpu_ns_per_s" => "idle CPU time per second, ns",
        "idle_wakeups_per_s" => "idle wake-ups per second",
        "reads_per_wakeup" => "reads per wake-up",
        "kicks_held" => "kicks that waited",
        "vm_exits" => "VM exits",
        "avg_batch" => "events per read, mean",
        "syscalls_per_event" => "system calls per event",
        "syscalls" | "device_syscalls" => "system calls",
        "handler" => "memory per handler",
        "device" => "memory per device",
        "disk" => "memory per idle disk",
        "start" => "time to start",
        "start_s" => "time to start",
        "latency_max_over_median" => "slowest latency / median",
        "aio_epoll" => "aio on epoll",
        "aio_io_uring" => "aio on io_uring",
        _ => return None,
    })
}

/// The quantile of a latency metric: `p999_us` is 0.999.
pub(crate) fn quantile(name: &str) -> Option<f64> {
    let digits = name.strip_prefix('p')?.strip_suffix("_us")?;
    let number: f64 = digits.parse().ok().filter(|_| digits.len() >= 2)?;
    Some(number / 10f64.powi(digits.len() as i32))
}

/// `p999` is 99.9: the digits are the decimals of a share.
fn percent_of(bare: &str) -> Option<String> {
    let digits = bare.strip_prefix('p')?;
    if digits.len() < 2 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (whole, rest) = digits.split_at(2);
    let whole = whole.trim_start_matches('0');
    Some(if rest.is_empty() { whole.to_owned() } else { format!("{whole}.{rest}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_unit_and_quantiles_their_point() {
        let of = |name, unit| {
            let (name, unit) = heading(name, unit);
            format!("{name}|{}", unit.unwrap_or("-"))
        };
        assert_eq!(
            [of("p999_us", "us"), of("p50_us", "us"), of("p01_us", "us")],
            ["p99.9|us", "p50|us", "p1|us"]
        );
        assert_eq!([of("time_ns", "ns"), of("device_cpu_ns", "ns")], ["time|ns", "device CPU time|ns"]);
        assert_eq!(
            [of("iops", "1/s"), of("reads", "reads"), of("device_reads", "reads")],
            ["IOPS|1/s", "reads|-", "device reads|-"]
        );
        assert_eq!(of("intended_p999_us", "us"), "intended p99.9|us");
        assert_eq!(of("aio_io_uring_ns", "ns"), "aio on io_uring|ns");
        assert_eq!(
            [of("handler_bytes", "bytes"), of("kicks_held", "")],
            ["memory per handler|bytes", "kicks that waited|-"]
        );
        assert_eq!(
            [of("latency_max_over_median", "ratio"), of("ppoll", "")],
            ["slowest latency / median|-", "ppoll|-"]
        );
    }

    #[test]
    fn quantiles_are_read_from_names() {
        assert_eq!(
            [quantile("p50_us"), quantile("p01_us"), quantile("p999_us")],
            [Some(0.5), Some(0.01), Some(0.999)]
        );
        assert_eq!([quantile("iops"), quantile("p_us"), quantile("p5_us"), quantile("pxx_us")], [None; 4]);
    }
}
