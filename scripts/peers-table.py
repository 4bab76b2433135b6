#!/usr/bin/env python3
"""Makes the table and the JSON of scripts/peers.sh from the JSON of 'bench vhost-user' per cell.

    peers-table.py WORK OUT.json

The benchmark's baseline is our server, so its ratios are peer / ours. They are inverted here: the
median of ours / peer is one over the median of peer / ours, and the ends of a percentile interval
are swapped.
"""

import json
import pathlib
import statistics
import sys

PERF_KINDS = "syscalls:sys_enter_"
# Measured once for each disk and polling, after a cell's samples; not per request.
IDLE = "idle_"


def inverted(ratio):
    """Converts a ratio peer / ours to ours / peer. Returns None without a ratio."""
    if not ratio or not ratio["median"]:
        return None
    interval = ratio["interval"]
    if interval and interval["low"] > 0:
        interval = {"low": 1 / interval["high"], "high": 1 / interval["low"]}
    else:
        interval = None
    return {"median": 1 / ratio["median"], "interval": interval}


def median(row, name):
    return row["metrics"][name]["median"]


def counts(path):
    """System calls by name, and all of them as 'total', from perf stat -x, or strace -c."""
    calls = {}
    for line in path.read_text().splitlines():
        fields = line.split(",")
        if len(fields) > 3 and not line.startswith("#"):
            number = int(fields[0]) if fields[0].isdigit() else 0
            calls["total" if fields[2].startswith("raw_") else fields[2].removeprefix(PERF_KINDS)] = number
            continue
        # strace: % time, seconds, usecs/call, calls, [errors,] syscall
        words = line.split()
        if len(words) in (5, 6) and words[3].isdigit():
            calls[words[-1]] = int(words[3])
    return calls


def syscalls_of(work, cell, name):
    """Returns the system calls per request by kind, or None if they were not counted.

    The calls that set up the session are included.
    """
    base = work / "syscalls" / f"{cell}.{name}"
    report, counted = base.with_name(base.name + ".json"), base.with_name(base.name + ".counts")
    if not report.exists() or not counted.exists():
        return None
    row = json.loads(report.read_text())["results"][0]
    # One round of 200 ms has two samples, and before them there is half a sample of warm-up.
    requests = median(row, "iops") * 0.2 * 2.5
    calls = counts(counted)
    return {kind: number / requests for kind, number in calls.items()} if calls.get("total") else None


def cell_of(work, path):
    disk, poll, pattern, depth, client = path.stem.split(".")
    report = json.loads(path.read_text())
    rows = {row["case"]: row for row in report["results"] if row["status"] == "measured"}
    cell = {"disk": disk, "poll_ns": int(poll), "rw": pattern, "iodepth": int(depth), "client": client}
    cell["complete"], cell["command"] = report["complete"], report["command"]
    cell["servers"], cell["ours_against"] = {}, {}
    for name, row in rows.items():
        metrics = {metric: body for metric, body in row["metrics"].items() if not metric.startswith(IDLE)}
        values = {metric: median(row, metric) for metric in metrics}
        values["syscalls"] = syscalls_of(work, path.stem, name)
        cell["servers"][name] = values
        if name != "ours":
            versus = {metric: inverted(body["versus"] and body["versus"]["ratio"]) for metric, body in metrics.items()}
            cell["ours_against"][name] = versus
    ours = cell["servers"].get("ours", {}).get("syscalls")
    for name, versus in cell["ours_against"].items():
        theirs = cell["servers"][name]["syscalls"]
        versus["syscalls"] = {"median": ours["total"] / theirs["total"], "interval": None} if ours and theirs else None
    return cell


def idle_of(path):
    """Returns what the idle servers did, if they were watched after this cell."""
    disk, poll = path.stem.split(".")[:2]
    report = json.loads(path.read_text())
    for row in report["results"]:
        values = {metric.removeprefix(IDLE): median(row, metric) for metric in row["metrics"] if metric.startswith(IDLE)}
        if values:
            yield {"servers": f"{disk}.{poll}", "name": row["case"], **values}


def shown(ratio):
    if not ratio:
        return "-"
    text = f"{ratio['median']:.2f}x"
    if ratio["interval"]:
        text += f" ({ratio['interval']['low']:.2f}-{ratio['interval']['high']:.2f})"
    return text


def per_request(calls):
    return f"{calls['total']:.2f}" if calls else "-"


def table(cells):
    heading = ["disk", "poll", "rw", "depth", "client", "peer", "IOPS ours", "theirs", "ratio (95%)",
               "p99", "CPU ns ours", "theirs", "CPU ratio", "calls ours", "theirs", "ratio"]
    lines = [heading]
    for cell in cells:
        for name, versus in cell["ours_against"].items():
            ours, theirs = cell["servers"]["ours"], cell["servers"][name]
            lines.append([
                cell["disk"], str(cell["poll_ns"]), cell["rw"], str(cell["iodepth"]), cell["client"], name,
                f"{ours['iops']:,.0f}", f"{theirs['iops']:,.0f}", shown(versus["iops"]), shown(versus["p99_us"]),
                f"{ours['device_cpu_ns']:,.0f}", f"{theirs['device_cpu_ns']:,.0f}", shown(versus["device_cpu_ns"]),
                per_request(ours["syscalls"]), per_request(theirs["syscalls"]), shown(versus["syscalls"]),
            ])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    left = 6
    for number, line in enumerate(lines):
        words = [word.ljust(width) if column < left else word.rjust(width)
                 for column, (word, width) in enumerate(zip(line, widths))]
        print("  ".join(words).rstrip())
        if number == 0:
            print("-" * (sum(widths) + 2 * (len(widths) - 1)))


def against_the_faster(cell):
    """Returns the peer with the most IOPS, and the ratios of ours to it."""
    peers = {name: cell["servers"][name]["iops"] for name in cell["ours_against"]}
    name = max(peers, key=peers.get)
    return name, cell["ours_against"][name]


def bars(cells, idle):
    """Returns the measured goals, each as (what, whether it was reached, the figures)."""
    def ratios(metric, **which):
        found = []
        for cell in cells:
            values = {**cell, "deep": cell["iodepth"] >= 32}
            ratio = cell["ours_against"] and against_the_faster(cell)[1].get(metric)
            if ratio and all(values[key] == value for key, value in which.items()):
                found.append(ratio)
        return found

    def at_least(what, floor, found):
        worst = min((ratio["median"] for ratio in found), default=None)
        return worst is not None and (what, worst >= floor, f"{worst:.2f}x (goal: at least {floor}x)")

    def at_most(what, ceiling, found, pick=max):
        value = pick(ratio["median"] for ratio in found) if found else None
        return value is not None and (what, value <= ceiling, f"{value:.2f}x (goal: at most {ceiling}x)")

    def none_below(what, found, floor=0.97):
        lows = [ratio["interval"]["low"] for ratio in found if ratio["interval"]]
        medians = [ratio["median"] for ratio in found]
        below = sum(median < 1.0 for median in medians)
        worst = min(lows, default=None)
        return worst is not None and (what, below == 0 and worst > floor,
                                      f"{below} of {len(medians)} below 1.0x; the lowest end of an interval is {worst:.2f}x")

    def none_at_all(what, metric):
        # Wake-ups and CPU time of a sleeping process: zero is exact, so no tolerance is needed.
        found = [server[metric] for server in idle if server["name"] == "ours"]
        worst = max(found, default=None)
        return worst is not None and (what, worst == 0, f"{worst:,.1f} (goal: 0)")

    one = {"iodepth": 1, "client": "sleeping"}
    p99 = [{"median": 1 / r["median"], "interval": None} for r in ratios("p99_us", **one)]
    lines = [
        at_least("null, depth 32, spinning: IOPS", 1.8, ratios("iops", disk="null", deep=True, client="spinning")),
        at_most("null, depth 32, spinning: CPU", 0.45, ratios("device_cpu_ns", disk="null", deep=True, client="spinning")),
        at_least("null, depth 32, sleeping: IOPS", 1.5, ratios("iops", disk="null", deep=True, client="sleeping")),
        at_least("page-cached file, depth 32: IOPS", 2.5, ratios("iops", disk="file", deep=True)),
        at_most("page-cached file, depth 32: CPU", 0.4, ratios("device_cpu_ns", disk="file", deep=True)),
        at_least("O_DIRECT file: IOPS", 1.0, ratios("iops", disk="direct")),
        at_most("O_DIRECT file: CPU", 0.75, ratios("device_cpu_ns", disk="direct")),
        none_below("depth 1, sleeping: IOPS", ratios("iops", **one)),
        at_least("depth 1, sleeping: p99, theirs / ours", 1.0, p99),
        at_most("depth 1, sleeping: system calls", 0.6, ratios("syscalls", **one)),
        at_least("every cell: IOPS", 1.0, ratios("iops")),
        at_most("every cell: system calls, median", 0.6, ratios("syscalls"), pick=statistics.median),
        none_at_all("idle: wake-ups per second", "wakeups_per_s"),
        none_at_all("idle: CPU ns per second", "cpu_ns_per_s"),
    ]
    return [line for line in lines if line]


def main():
    work, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    facts = [line.split(" ", 1) for line in (work / "facts").read_text().splitlines()]
    paths = sorted((work / "cells").glob("*.json"))
    cells = [cell_of(work, path) for path in paths]
    idle = [server for path in paths for server in idle_of(path)]
    # As they ran: null first, and no polling before polling.
    idle.sort(key=lambda server: (not server["servers"].startswith("null."), server["servers"].split(".")[0],
                                  int(server["servers"].split(".")[1])))
    cells.sort(key=lambda cell: (cell["disk"] != "null", cell["disk"], cell["poll_ns"], cell["rw"], cell["client"], cell["iodepth"]))
    environment = json.loads(paths[0].read_text())["environment"] if paths else {}

    for kind, text in facts:
        print(f"{kind:8} {text}")
    print(f"{'machine':8} {environment.get('kernel')}, {environment.get('cpu_model')}")
    memory = [line.split() for line in (work / "memory").read_text().splitlines()] if (work / "memory").exists() else []
    print()
    table(cells)
    print()
    for cell, name, kib in memory:
        print(f"memory   {cell} {name}: {int(kib) / 1024:.1f} MiB resident, without shared memory")
    for server in idle:
        print(f"idle     {server['servers']} {server['name']}: {server['wakeups_per_s']:,.1f} wake-ups and "
              f"{server['cpu_ns_per_s']:,.0f} ns of CPU per second, a guest attached")
    print()
    reached = bars(cells, idle)
    for what, good, numbers in reached:
        print(f"{'reached' if good else 'SHORT':8} {what}: {numbers}")
    document = {
        "schema": "peers/1",
        "facts": [{"kind": kind, "text": text} for kind, text in facts],
        "environment": environment,
        "cells": cells,
        "memory": [{"servers": cell, "name": name, "resident_kib": int(kib)} for cell, name, kib in memory],
        "idle": idle,
        "bars": [{"bar": what, "reached": good, "numbers": numbers} for what, good, numbers in reached],
    }
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
