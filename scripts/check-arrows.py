#!/usr/bin/env python3
"""Checks that the imports of each crate run one way: no file imports a file above it.

    scripts/check-arrows.py [--root DIR] [CRATE...]     checks these crates (default: all members)
    scripts/check-arrows.py --graph CRATE               prints the imports, file by file

Two rules:

1. No cycle. Files that import each other, directly or through others, are reported as
   `FILE:LINE -> FILE:LINE -> FILE`; each line is one cycle, and removing an import breaks it.
2. Rooms. The top-level modules of a crate have an order, written in ARCHITECTURE.md in a code
   block tagged `text rooms CRATE`: one level per line, top first. No file imports a room above
   its own, and rooms on the same line do not import each other.

What counts as an import: a `use`, or a path in the code, that resolves to an item defined in
another file of the crate. Re-exports are followed to the file that defines the item, and a glob
import counts where the file uses one of its names. `mod x;` is no import. Neither is a re-export
of something in the file's own subtree (a door), unless the file uses the name itself. Test code
(`#[cfg(test)]`, and modules named tests, loom_tests, or test_rig) is left out.

Exit codes: 0 clean, 1 violations, 2 wrong use.
"""
import argparse
import pathlib
import re
import sys
import tomllib
from collections import deque

sys.dont_write_bytecode = True
from rust_imports import Crate  # noqa: E402


def shortest_cycle(edges, start):
    """The shortest way from `start` back to it, as a list of files, or None."""
    came, queue = {}, deque([start])
    while queue:
        file = queue.popleft()
        for target in sorted(edges.get(file, ())):
            if target == start:
                way = [file]
                while way[0] != start:
                    way.insert(0, came[way[0]])
                return way
            if target not in came:
                came[target] = file
                queue.append(target)
    return None


def components(edges):
    """The strongly connected components of more than one file."""
    def reach(graph, start):
        seen, todo = {start}, [start]
        while todo:
            for target in graph.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return seen

    back = {}
    for file, targets in edges.items():
        for target in targets:
            back.setdefault(target, set()).add(file)
    found, done = [], set()
    for file in edges:
        if file not in done:
            component = reach(edges, file) & reach(back, file)
            done |= component
            found += [component] if len(component) > 1 else []
    return found


def cycles(edges, level):
    """Cycles to break, short ones first: after each, one of its imports is taken out."""
    edges = {file: dict(targets) for file, targets in edges.items()}
    for longest in (2, sys.maxsize):
        for start in sorted(edges):
            while (way := shortest_cycle(edges, start)) and len(way) <= longest:
                hops = list(zip(way, way[1:] + way[:1]))
                yield [(file, edges[file][target]) for file, target in hops]
                # An import of a higher room, else the import of a parent, else the last one.
                wrong = max(hops, key=lambda hop: (level(hop[0]) - level(hop[1]),
                                                   hop[1].parent in hop[0].parents))
                del edges[wrong[0]][wrong[1]]


def rooms(page, crate):
    """The levels of a crate from ARCHITECTURE.md: a list of lists of names; None if missing."""
    text = page.read_text() if page.exists() else ""
    block = re.search(rf"^```text rooms {re.escape(crate)}\n(.*?)^```", text, re.S | re.M)
    return [line.split() for line in block[1].splitlines() if line.strip()] if block else None


def check(root, name):
    """Returns the violations of one crate, one line each, and a summary."""
    crate = Crate(root / name)
    levels = rooms(root / "ARCHITECTURE.md", name)
    show = lambda file: file.relative_to(root).as_posix()
    room = lambda file: file.relative_to(crate.source).parts[0].removesuffix(".rs")
    level_of = {room: at for at, line in enumerate(levels or []) for room in line}
    level_of |= {root: -1 for root in ("lib", "main") if root not in level_of}   # the top
    level = lambda file: level_of.get(room(file), -1)
    wrong = []
    if levels is None:
        wrong.append(f"ARCHITECTURE.md: no code block `text rooms {name}`")
    existing = {room(m.file) for m in crate.modules} - {"lib", "main"}
    for missing in sorted(existing - level_of.keys()) if levels else []:
        wrong.append(f"ARCHITECTURE.md: {name} has a module `{missing}` that is not in its rooms")
    for gone in sorted(level_of.keys() - existing - {"lib", "main"}):
        wrong.append(f"ARCHITECTURE.md: {name} has no module `{gone}`, but its rooms name it")
    wrong += [f"{show(file)}:{line}: cannot find `{path}`" for file, line, path in crate.unresolved]
    arrows = 0
    for file, targets in sorted(crate.edges.items()):
        for target, uses in sorted(targets.items()):
            arrows += 1
            here, there = room(file), room(target)
            if here != there and {here, there} <= level_of.keys() and level(target) <= level(file):
                where = "beside" if level(target) == level(file) else "above"
                wrong += [f"{show(file)}:{line}: `{path}` is in {show(target)}, and {there} "
                          f"stands {where} {here}" for line, path in uses]
    found = 0
    for way in cycles(crate.edges, level):
        found += 1
        hops = " -> ".join(f"{show(file)}:{uses[0][0]} ({uses[0][1]}"
                           f"{f' and {len(uses) - 1} more' if uses[1:] else ''})"
                           for file, uses in way)
        wrong.append(f"cycle: {hops} -> {show(way[0][0])}")
    tangled = components(crate.edges)
    knots = f", {sum(map(len, tangled))} files in {len(tangled)} knots" if tangled else ""
    files = len({module.file for module in crate.modules})
    return wrong, f"{name}: {files} files, {arrows} imports, {found} cycles to break{knots}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("crates", nargs="*", metavar="CRATE", help="default: all members")
    parser.add_argument("--graph", metavar="CRATE", help="print the imports of a crate")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent)
    options = parser.parse_args()
    root = options.root.resolve()
    members = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]
    for name in options.crates + ([options.graph] if options.graph else []):
        if name not in members:
            parser.error(f"{name} is not a member of the workspace")
    if options.graph:
        for file, targets in sorted(Crate(root / options.graph).edges.items()):
            for target, uses in sorted(targets.items()):
                for line, path in uses:
                    print(f"{file.relative_to(root)}:{line} -> {target.relative_to(root)} ({path})")
        return 0
    failed = False
    for name in options.crates or members:
        wrong, summary = check(root, name)
        failed |= bool(wrong)
        print("\n".join([*wrong, summary]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
