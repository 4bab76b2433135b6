#!/usr/bin/env python3
"""Computes what a virtio-blk request costs QEMU, from the runs of `scripts/kernel-lab.sh qemu`.

    qemu-requests.py [--json FILE] --requests N KERNEL:VERSION:RUN ...

RUN.console is what the guest printed: a line `cell MONITOR DISK ARM` and the line of our client
for each cell. RUN.marks has the counters of the plugin (qemu-count.c) at three points of each
cell: after the warm-up, after N requests, and after 2 N more. What the second part adds to the
first, divided by N, is the cost of a request, without what is the same for both parts.

QEMU's instructions are the CPU time of its process, whose clock counts instructions; those outside
the kernel are counted by the plugin. The rest is the client and what belongs to no process.

Exits with 1 if the runs of a cell differ by more than 1 %, or if QEMU does not wait by the monitor
that was asked for. With threads of QEMU or of io_uring the number of wake-ups is not fixed, so
there the difference is only printed.
"""
import argparse
import collections
import json
import re
import statistics
import sys

TOLERANCE = 0.01
THREADED = ("threads", "io_uring")
# The system call that each monitor sleeps in.
SLEEPS_IN = {"ppoll": "ppoll", "epoll": "epoll_wait", "io_uring": "io_uring_enter"}
# The proposal's figures: "1% performance improvement", "Each read(2) takes 1 microsecond".
T_READ_US, ITERATION_US = 1.0, 100.0
# Which line of the table in README.md explains what is seen with 0001.
EXPLAINED_BY = {
    "epoll": "epoll, written to before EPOLL_CTL_ADD",
    "io_uring": "io_uring POLL_ADD, armed again each time",
}
DISKS = {"null": "null-co", "threads": "file, aio=threads", "native": "file, aio=native", "io_uring": "file, aio=io_uring"}

Run = collections.namedtuple("Run", "total user kernel other calls handover")


def marks(path):
    """The counters at each mark, in order."""
    found = []
    for line in open(path):
        words = dict(word.split("=") for word in line.split()[1:])
        found.append(collections.Counter({name: int(count) for name, count in words.items()}))
    return found


def difference(first, second, third, requests):
    return {name: (third[name] - 2 * second[name] + first[name]) / requests for name in third}


def read_run(path, requests):
    """{(monitor, disk, arm): Run, or the words of what went wrong}"""
    seen, cell, points = {}, None, iter(marks(path + ".marks"))
    for line in open(path + ".console"):
        line = line.strip()
        if match := re.fullmatch(r"cell (\S+) (\S+) (\S+)", line):
            cell = match.groups()
            seen[cell] = "no answer"
            continue
        if cell is None or seen[cell] != "no answer":
            continue
        if match := re.match(r"(done|hangs) served=(\d+) lost=(\d+) marks=(\d+)", line):
            word, served, lost, count = match[1], *map(int, match.groups()[1:])
            at = [next(points) for _ in range(count)]
            if word == "hangs":
                seen[cell] = f"hangs after {served:,} requests" + (f", {lost:,} kicks lost before" if lost else "")
            elif lost:
                seen[cell] = f"{lost:,} of {served:,} kicks lost"
            else:
                rest = dict(word.split("=") for word in line.split()[1:])
                cpu = list(map(int, rest["cpu"].split(",")))
                each = difference(*at, requests)
                total = (cpu[2] - 2 * cpu[1] + cpu[0]) / requests
                everything = each["client"] + each["server"] + each["kernel"]
                calls = {name[7:]: count for name, count in each.items() if name.startswith("server:") and count > 0.0005}
                seen[cell] = Run(total, each["server"], total - each["server"], everything - total, calls, rest.get("handover"))
        elif line and not line.startswith("lab:"):
            seen[cell] = line
    if next(points, None) is not None:
        sys.exit(f"{path}: more marks than cells")
    return seen


def calls_in_words(calls):
    return ", ".join(f"{name} {count:.2f}" for name, count in sorted(calls.items(), key=lambda call: -call[1]))


def reads(run):
    return run.calls.get("read", 0.0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("runs", nargs="+")
    arguments = parser.parse_args()
    results = {}
    for argument in arguments.runs:
        kernel, version, path = argument.split(":", 2)
        for cell, run in read_run(path, arguments.requests).items():
            results.setdefault((version, kernel, *cell), []).append(run)

    worst, wrong, medians, failures = {False: 0.0, True: 0.0}, [], {}, {}
    for key, runs in results.items():
        good = [run for run in runs if isinstance(run, Run)]
        if len(good) < len(runs):
            failures[key] = " / ".join(dict.fromkeys(str(run) for run in runs if not isinstance(run, Run)))
            continue
        totals = [run.total for run in good]
        spread = (max(totals) - min(totals)) / statistics.median(totals)
        threaded = key[3] in THREADED
        worst[threaded] = max(worst[threaded], spread)
        medians[key] = sorted(good, key=lambda run: run.total)[len(good) // 2]
        if medians[key].calls.get(SLEEPS_IN[key[2]], 0.0) < 0.5:
            wrong.append(f"{key}: QEMU does not wait by {key[2]}: {calls_in_words(medians[key].calls)}")

    for version in dict.fromkeys(key[0] for key in results):
        print_version(version, medians, failures)
    pairs = compare(medians)
    print_savings(pairs)
    print_failures(failures, medians, pairs)
    runs = max(len(runs) for runs in results.values())
    print(f"\n{runs} runs differ by at most {100 * worst[False]:.3f} % in the instructions of QEMU"
          + (f", and by {100 * worst[True]:.1f} % with {' or '.join(THREADED)}." if worst[True] else "."))
    if arguments.json:
        write_json(arguments.json, medians, failures, pairs, worst[False])
    if wrong:
        sys.exit("\n".join(wrong))
    if worst[False] > TOLERANCE:
        sys.exit(f"the runs differ by more than {100 * TOLERANCE} %")


def print_version(version, medians, failures):
    print(f"\nQEMU {version}, one request: instructions of QEMU (outside and in the kernel), of the client; QEMU's system calls")
    print(f"{'monitor, disk':<30}{'kernel':<7}{'arm':<10}{'QEMU':>8}{'user':>8}{'kernel':>8}{'client':>8}  calls")
    for key, run in medians.items():
        if key[0] == version:
            print(f"{key[2] + ', ' + DISKS[key[3]]:<30}{key[1]:<7}{key[4]:<10}{run.total:>8,.0f}{run.user:>8,.0f}"
                  f"{run.kernel:>8,.0f}{run.other:>8,.0f}  {calls_in_words(run.calls)}")
    for key, words in failures.items():
        if key[0] == version:
            print(f"{key[2] + ', ' + DISKS[key[3]]:<30}{key[1]:<7}{key[4]:<10}{words}")


def compare(medians):
    pairs = []
    for (version, kernel, monitor, disk, arm), run in medians.items():
        classic = medians.get((version, kernel, monitor, disk, "classic"))
        if arm == "autoreset" and classic:
            pairs.append((version, kernel, monitor, disk, classic, run))
    return pairs


def waits(key, run):
    return run.calls.get(SLEEPS_IN[key[2]], 0.0)


def print_savings(pairs):
    print("\nWithout the reads:")
    print(f"{'QEMU':<9}{'monitor, disk':<30}{'kernel':<7}{'classic':>8}{'autoreset':>10}{'saved':>8}{'reads':>7}{'waits':>7}")
    for version, kernel, monitor, disk, classic, autoreset in pairs:
        key = (version, kernel, monitor, disk)
        print(f"{version:<9}{monitor + ', ' + DISKS[disk]:<30}{kernel:<7}{classic.total:>8,.0f}{autoreset.total:>10,.0f}"
              f"{saved_percent(classic, autoreset):>6.1f} %{reads(autoreset) - reads(classic):>+7.2f}"
              f"{waits(key, autoreset) - waits(key, classic):>+7.2f}")
    print()
    for version, kernel, monitor, disk, classic, autoreset in pairs:
        if disk != "null" and (monitor, disk) != ("ppoll", "native"):
            continue
        saved = saved_percent(classic, autoreset)
        in_time = 100 * (reads(classic) - reads(autoreset)) * T_READ_US / ITERATION_US
        print(f"QEMU {version}'s own loop ({monitor}, {DISKS[disk]}) executes {classic.total:,.0f} instructions for a request; "
              f"without the reads, on {kernel}, {autoreset.total:,.0f}, {abs(saved):.1f} % {'less' if saved >= 0 else 'more'}"
              + (f"; in time, with the proposal's t_read of {T_READ_US:.0f} us and an iteration of {ITERATION_US:.0f} us, "
                 f"{in_time:.1f} %." if saved >= 0 else "."))
    if pairs:
        print('The proposal said: "small but measurable 1% performance improvement with QEMU virtio-blk emulation. '
              'Each read(2) takes 1 microsecond".')


def saved_percent(classic, autoreset):
    return 100 * (classic.total - autoreset.total) / classic.total


def print_failures(failures, medians, pairs):
    for (version, kernel, monitor, disk, arm), words in failures.items():
        print(f"QEMU {version} on {kernel}, {monitor}, {DISKS[disk]}, {arm}: {words}{explanation(kernel, monitor)}")
    for version, kernel, monitor, disk, classic, autoreset in pairs:
        key = (version, kernel, monitor, disk)
        more = waits(key, autoreset) - waits(key, classic)
        if disk == "null" and more > 0.5:
            print(f"QEMU {version} on {kernel}, {monitor}: it wakes up {more:.2f} times more for a request, for nothing"
                  f"{explanation(kernel, monitor)}")
    for (version, kernel, monitor, disk, arm), run in medians.items():
        if run.handover not in (None, "delivered"):
            print(f"QEMU {version} on {kernel}, {monitor}, {DISKS[disk]}, {arm}: a kick that came before QEMU watched the "
                  f"descriptor: {run.handover}{explanation(kernel, monitor)}")


def explanation(kernel, monitor):
    """The line of README.md's table that explains what 0001 does with a monitor."""
    if kernel.startswith("0001") and monitor in EXPLAINED_BY:
        return f' (README.md: "{EXPLAINED_BY[monitor]}")'
    return ""


def write_json(path, medians, failures, pairs, spread):
    document = {
        "schema": "kernel-lab-qemu/1",
        "unit": "instructions per request",
        "cells": [{"qemu": key[0], "kernel": key[1], "monitor": key[2], "disk": key[3], "arm": key[4],
                   "instructions": run.total, "user": run.user, "in_kernel": run.kernel, "client": run.other,
                   "calls": run.calls, "handover": run.handover} for key, run in medians.items()],
        "failures": [{"qemu": key[0], "kernel": key[1], "monitor": key[2], "disk": key[3], "arm": key[4], "words": words}
                     for key, words in failures.items()],
        "savings": [{"qemu": version, "kernel": kernel, "monitor": monitor, "disk": disk, "classic": classic.total,
                     "autoreset": autoreset.total, "reads_saved": reads(classic) - reads(autoreset),
                     "saved_percent": saved_percent(classic, autoreset)}
                    for version, kernel, monitor, disk, classic, autoreset in pairs],
        "spread": spread,
    }
    with open(path, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")


main()
