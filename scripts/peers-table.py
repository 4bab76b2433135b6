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
    disk, poll, pattern, depth, client, linger = path.stem.split(".")
    report = json.loads(path.read_text())
    rows = {row["case"]: row for row in report["results"] if row["status"] == "measured"}
    cell = {"disk": disk, "poll_ns": int(poll), "rw": pattern, "iodepth": int(depth), "client": client,
            "linger": linger}
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
    cell["fio"] = floor_of(work, disk, pattern, depth)
    return cell


def floor_of(work, disk, pattern, depth):
    """Returns fio's best engine and its IOPS, or None if it was not run."""
    path = work / "fio" / f"{disk}.{pattern}.{depth}"
    lines = path.read_text().splitlines() if path.exists() else []
    best = max((line.split(" ", 1) for line in lines), key=lambda line: float(line[0]), default=None)
    return best and {"engine": best[1], "iops": float(best[0])}


def against_the_floor(cell):
    """Returns ours / fio."""
    ours = cell["servers"].get("ours")
    return cell["fio"] and ours and cell["fio"]["iops"] and {"median": ours["iops"] / cell["fio"]["iops"], "interval": None}


def idle_of(path):
    """Returns what the idle servers did, if they were watched after this cell."""
    disk, poll, *_, linger = path.stem.split(".")
    report = json.loads(path.read_text())
    for row in report["results"]:
        values = {metric.removeprefix(IDLE): median(row, metric) for metric in row["metrics"] if metric.startswith(IDLE)}
        if values:
            yield {"servers": f"{disk}.{poll}.{linger}", "name": row["case"], **values}


def shown(ratio):
    if not ratio:
        return "-"
    text = f"{ratio['median']:.2f}x"
    if ratio["interval"]:
        text += f" ({ratio['interval']['low']:.2f}-{ratio['interval']['high']:.2f})"
    return text


def per_request(calls):
    return f"{calls['total']:.2f}" if calls else "-"


def place(cell):
    return cell["disk"], str(cell["poll_ns"]), cell["rw"], str(cell["iodepth"]), cell["client"]


def table(cells, lacks):
    heading = ["disk", "poll", "rw", "depth", "client", "peer", "IOPS ours", "theirs", "ratio (95%)",
               "p99", "CPU ns ours", "theirs", "CPU ratio", "calls ours", "theirs", "ratio"]
    lines = [heading]
    for cell in cells:
        for name, versus in cell["ours_against"].items():
            ours, theirs = cell["servers"]["ours"], cell["servers"][name]
            lines.append([
                *place(cell), name,
                f"{ours['iops']:,.0f}", f"{theirs['iops']:,.0f}", shown(versus["iops"]), shown(versus["p99_us"]),
                f"{ours['device_cpu_ns']:,.0f}", f"{theirs['device_cpu_ns']:,.0f}", shown(versus["device_cpu_ns"]),
                per_request(ours["syscalls"]), per_request(theirs["syscalls"]), shown(versus["syscalls"]),
            ])
        for disk, name in lacks:
            if disk == cell["disk"]:
                lines.append([*place(cell), name, "", "no such disk", *[""] * 8])
        if cell["fio"]:
            floor, ours = cell["fio"], cell["servers"].get("ours")
            lines.append([*place(cell), f"fio {floor['engine']}", f"{ours['iops']:,.0f}" if ours else "-",
                          f"{floor['iops']:,.0f}", shown(against_the_floor(cell)), *[""] * 7])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    left = 6
    for number, line in enumerate(lines):
        words = [word.ljust(width) if column < left else word.rjust(width)
                 for column, (word, width) in enumerate(zip(line, widths))]
        print("  ".join(words).rstrip())
        if number == 0:
            print("-" * (sum(widths) + 2 * (len(widths) - 1)))


def bars(cells, idle, memory):
    """Returns the measured goals, each as (what, whether it was reached, the figures).

    Each is against the best peer of the cell: the most IOPS, the least of everything else.
    """
    def ratios(metric, **which):
        found = []
        for cell in cells:
            each = [versus[metric] for versus in cell["ours_against"].values() if versus.get(metric)]
            if each and all(cell[key] == value for key, value in which.items()):
                pick = min if metric == "iops" else max
                found.append(pick(each, key=lambda ratio: ratio["median"]))
        return found

    def at_least(what, floor, found, interval=None):
        if not found:
            return None
        worst = min(ratio["median"] for ratio in found)
        lows = [ratio["interval"]["low"] for ratio in found if ratio["interval"]]
        low = min(lows, default=None)
        below = sum(ratio["median"] < floor for ratio in found)
        text = f"{worst:.2f}x, {below} of {len(found)} below (goal: at least {floor}x)"
        good = worst >= floor
        if interval and low is not None:
            text += f"; the lowest end of an interval is {low:.2f}x (goal: above {interval}x)"
            good = good and low > interval
        return what, good, text

    def at_most(what, ceiling, found, pick=max):
        if not found:
            return None
        value = pick(ratio["median"] for ratio in found)
        above = sum(ratio["median"] > ceiling for ratio in found)
        return what, value <= ceiling, f"{value:.2f}x, {above} of {len(found)} above (goal: at most {ceiling}x)"

    def none_at_all(what, metric):
        # Wake-ups and CPU time of a sleeping process: zero is exact, so no tolerance is needed.
        found = [server[metric] for server in idle if server["name"] == "ours"]
        worst = max(found, default=None)
        return worst is not None and (what, worst == 0, f"{worst:,.1f} (goal: 0)")

    def resident():
        worst = max((int(kib) / 1024 for _, name, kib in memory if name == "ours"), default=None)
        return worst is not None and ("memory", worst < 4, f"{worst:.1f} MiB (goal: below 4 MiB)")

    deep = {"disk": "file", "iodepth": 32}
    floors = [ratio for cell in cells if (ratio := against_the_floor(cell))]
    lines = [
        at_least("every cell: IOPS", 1.0, ratios("iops"), interval=0.95),
        at_least("page-cached randwrite, depth 32: IOPS", 1.5, ratios("iops", rw="randwrite", **deep)),
        at_least("page-cached randread, depth 32: IOPS", 1.7, ratios("iops", rw="randread", **deep)),
        at_most("every cell: CPU", 1.0, ratios("device_cpu_ns")),
        at_most("every cell: CPU, median", 0.6, ratios("device_cpu_ns"), pick=statistics.median),
        at_most("every cell: system calls", 1.0, ratios("syscalls")),
        at_most("every cell: p99", 1.1, ratios("p99_us")),
        at_least("against fio's best engine: IOPS", 0.9, floors),
        resident(),
        none_at_all("idle: wake-ups per second", "wakeups_per_s"),
        none_at_all("idle: CPU ns per second", "cpu_ns_per_s"),
    ]
    return [line for line in lines if line]


def of_linger(servers, linger):
    """Whether 'disk.poll.linger' is of this linger time."""
    return servers.rsplit(".", 1)[1] == linger


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
    lacks = [line.split() for line in (work / "lacks").read_text().splitlines()] if (work / "lacks").exists() else []
    lingers = [text.split(" ", 1) for kind, text in facts if kind == "linger"]
    for linger, how in lingers:
        of_this = [cell for cell in cells if cell["linger"] == linger]
        if of_this:
            print(f"\n--linger {linger}: {how}")
            table(of_this, lacks)
    print()
    for cell, name, kib in memory:
        print(f"memory   {cell} {name}: {int(kib) / 1024:.1f} MiB resident, without shared memory")
    for server in idle:
        print(f"idle     {server['servers']} {server['name']}: {server['wakeups_per_s']:,.1f} wake-ups and "
              f"{server['cpu_ns_per_s']:,.0f} ns of CPU per second, a guest attached")
    print()
    reached = []
    for linger, _ in lingers:
        found = bars([cell for cell in cells if cell["linger"] == linger],
                     [server for server in idle if of_linger(server["servers"], linger)],
                     [line for line in memory if of_linger(line[0], linger)])
        reached += [(f"--linger {linger}, {what}", good, numbers) for what, good, numbers in found]
    for what, good, numbers in reached:
        print(f"{'reached' if good else 'SHORT':8} {what}: {numbers}")
    document = {
        "schema": "peers/2",
        "lacks": [{"disk": disk, "name": name} for disk, name in lacks],
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
