//! The sample of a rig.

use super::device::DeviceCounts;
use super::guest::GuestRun;
use crate::measure::{Encoded, quantile_us, sample};

sample! {
    /// The result of one visit. Per request unless the name says otherwise.
    pub(crate) struct RequestSample {
        iops: "1/s" Higher,
        p01_us: "us" Lower,
        p10_us: "us" Lower,
        p25_us: "us" Lower,
        p50_us: "us" Lower,
        p75_us: "us" Lower,
        p90_us: "us" Lower,
        p99_us: "us" Lower,
        p999_us: "us" Lower,
        p9999_us: "us" Lower,
        device_cpu_ns: "ns" Lower,
        kicks: "" Lower,
        kicks_held: "" Lower,
        interrupts: "" Lower,
        reads: "" Lower,
        reads_per_wakeup: "" Lower,
        waits: "" Lower,
        writes: "" Lower,
        enters: "" Lower,
        submits: "" Lower,
        syscalls: "" Lower,
        /// NaN without KVM, or if KVM does not count them.
        vm_exits: "" Lower,
    }
    with latencies_ns
}

impl RequestSample {
    pub(super) fn of(run: &GuestRun, device: &DeviceCounts) -> Self {
        let guest = &run.report;
        let requests = guest.requests.max(1) as f64;
        let each = |count: u64| count as f64 / requests;
        let latency_us = |quantile| quantile_us(&guest.latency_ns, quantile);
        let stats = device.stats;
        // The loop's own notifier is written by whoever wakes it; an interrupt is a write of the
        // device.
        let syscalls = stats.syscalls_wait
            + stats.syscalls_enter
            + stats.syscalls_read
            + stats.syscalls_ctl
            + device.dose_reads
            + device.queue.submits
            + device.queue.interrupts;
        Self {
            iops: guest.requests as f64 / guest.elapsed.as_secs_f64().max(1e-9),
            p01_us: latency_us(0.01),
            p10_us: latency_us(0.1),
            p25_us: latency_us(0.25),
            p50_us: latency_us(0.5),
            p75_us: latency_us(0.75),
            p90_us: latency_us(0.9),
            p99_us: latency_us(0.99),
            p999_us: latency_us(0.999),
            p9999_us: latency_us(0.9999),
            device_cpu_ns: each(device.cpu_ns),
            kicks: each(guest.kicks),
            kicks_held: each(guest.kicks_held),
            interrupts: each(device.queue.interrupts),
            reads: each(stats.syscalls_read + device.dose_reads),
            reads_per_wakeup: stats.syscalls_read as f64 / stats.wakeups.max(1) as f64,
            waits: each(stats.syscalls_wait),
            writes: each(device.queue.interrupts),
            enters: each(stats.syscalls_enter),
            submits: each(device.queue.submits),
            syscalls: each(syscalls),
            vm_exits: run.vm_exits.map_or(f64::NAN, each),
            latencies_ns: Encoded::of(&guest.latency_ns),
        }
    }
}
