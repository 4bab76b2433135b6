#!/usr/bin/env python3
"""Computes the instructions of a virtio-blk request from runs of `bench virtio-blk` in the lab.

    instructions.py [--json FILE] KERNEL=RUN[,RUN...] ...

RUN is a file with two JSON reports of bench, one after the other; the second has twice as many
requests per sample. The clock of that machine counts instructions, so the N requests of a sample
take N / iops nanoseconds, which are instructions. The difference of the two samples, divided by N,
does not include the fixed cost of a sample. Exits with 1 if the runs of a kernel differ by more
than 0.1 %.
"""
import json
import statistics
import sys

TOLERANCE = 0.001


def reports(path):
    text, decoder, found, at = open(path).read(), json.JSONDecoder(), [], 0
    while (at := text.find("{", at)) >= 0:
        report, at = decoder.raw_decode(text, at)
        found.append(report)
    if len(found) != 2:
        sys.exit(f"{path}: {len(found)} reports instead of two")
    return found


def time_of(report):
    """{arm: (requests, nanoseconds)} of one sample."""
    requests = int(report["workload"].rsplit(", ", 1)[1].removesuffix(" requests"))
    rows = [row for row in report["results"] if row["status"] == "measured" and "iops" in row["metrics"]]
    return {row["case"]: (requests, requests / row["metrics"]["iops"]["median"] * 1e9) for row in rows}


def per_request(path):
    once, twice = map(time_of, reports(path))
    return {arm: (twice[arm][1] - once[arm][1]) / (twice[arm][0] - once[arm][0]) for arm in once}


def main():
    arguments = sys.argv[1:]
    target = None
    if arguments[:1] == ["--json"]:
        target, arguments = arguments[1], arguments[2:]
    counts, worst, kernel_release = {}, 0.0, {}
    for argument in arguments:
        kernel, paths = argument.split("=", 1)
        runs = [per_request(path) for path in paths.split(",")]
        counts[kernel] = {arm: [run[arm] for run in runs] for arm in runs[0]}
        kernel_release[kernel] = reports(paths.split(",")[0])[0]["environment"]["kernel"]
        for values in counts[kernel].values():
            worst = max(worst, (max(values) - min(values)) / statistics.median(values))

    kernels = list(counts)
    arms = list(dict.fromkeys(arm for kernel in kernels for arm in counts[kernel]))
    print("Instructions per request, kernel and user space, guest and device on one CPU:")
    print(f"{'arm':<30}" + "".join(f"{kernel:>12}" for kernel in kernels))
    for arm in arms:
        cells = (counts[kernel].get(arm) for kernel in kernels)
        print(f"{arm:<30}" + "".join(f"{statistics.median(cell):>12,.0f}" if cell else f"{'-':>12}" for cell in cells))
    print()
    savings = []
    for kernel in kernels:
        for arm, values in counts[kernel].items():
            monitor, reset = arm.split("/")
            if reset == "classic" or (reset != "kernel-flag" and kernel != kernels[0]):
                continue
            classic = statistics.median(counts[kernel][f"{monitor}/classic"])
            autoreset = statistics.median(values)
            saved = 100 * (classic - autoreset) / classic
            how = f"EFD_AUTORESET of {kernel}" if reset == "kernel-flag" else reset
            print(f"{monitor}, {how}: classic {classic:,.0f}, autoreset {autoreset:,.0f}, saved {saved:.1f} %")
            savings.append({"kernel": kernel, "monitor": monitor, "reset": reset, "classic": classic,
                            "autoreset": autoreset, "saved_percent": saved})
    runs = max(len(values) for arms in counts.values() for values in arms.values())
    print(f"\n{runs} runs differ by at most {100 * worst:.3f} %.")
    if target:
        document = {
            "schema": "kernel-lab/1",
            "unit": "instructions per request",
            "kernels": {kernel: {"release": kernel_release[kernel], "arms": {
                arm: {"median": statistics.median(values), "values": values}
                for arm, values in counts[kernel].items()}} for kernel in kernels},
            "savings": savings,
            "spread": worst,
        }
        with open(target, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
    if worst > TOLERANCE:
        sys.exit(f"the runs differ by more than {100 * TOLERANCE} %: this clock does not count instructions")


main()
