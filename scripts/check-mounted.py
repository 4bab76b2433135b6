#!/usr/bin/env python3
"""Checks that each Rust file is part of a target: that a `mod` leads to it from a root.

    scripts/check-mounted.py [--root DIR]

A file of tests that no `mod` names is not compiled, and nothing else reports it. Roots are the
files that Cargo finds by itself: src/lib.rs, src/main.rs, src/bin, build.rs, and the files and
folders with a main.rs of tests, examples and benches; in a fuzz package, those of fuzz_targets.
Whatever `cfg` stands before a `mod`, the file counts as mounted.

Exit codes: 0 clean, 1 files that no target has.
"""
import argparse
import pathlib
import re
import sys

sys.dont_write_bytecode = True
from rust_imports import strip  # noqa: E402

ROOTS = ("src/lib.rs", "src/main.rs", "src/bin/*.rs", "src/bin/*/main.rs", "build.rs",
         *(f"{folder}/{name}" for folder in ("tests", "examples", "benches", "fuzz_targets")
           for name in ("*.rs", "*/main.rs")))
PATH = re.compile(r'#\[path\s*=\s*"([^"]*)"\]')
# The N-th path, a `mod`, or a brace.
MARK = re.compile(r"@path (\d+)@|\bmod\s+(?:r#)?(\w+)\s*([;{])|[{}]")


def children(file, is_root):
    """The files that the `mod`s of a file name, whether they exist or not."""
    text, found = file.read_text(), []
    paths = PATH.findall(text)
    numbers = iter(range(len(paths)))
    text = strip(PATH.sub(lambda _: f"@path {next(numbers)}@", text))
    folder = file.parent if is_root or file.name == "mod.rs" else file.with_suffix("")
    folders, path = [folder], None
    for mark in MARK.finditer(text):
        number, name, opening = mark.groups()
        if number:
            path = paths[int(number)]
            continue
        if mark[0] == "}":
            folders.pop()
        elif mark[0] == "{":
            folders.append(folders[-1])
        elif opening == "{":
            folders.append(folders[-1] / (path or name))
        elif path:
            # Relative to the file, or inside an inline module to its folder.
            found.append((file.parent if len(folders) == 1 else folders[-1]) / path)
        else:
            found += [folders[-1] / f"{name}.rs", folders[-1] / name / "mod.rs"]
        path = None
    return [child.resolve() for child in found]


def mounted(package):
    """All files that the targets of a package have."""
    seen = set()
    todo = [(file.resolve(), True) for pattern in ROOTS for file in package.glob(pattern)]
    while todo:
        file, is_root = todo.pop()
        if file not in seen and file.exists():
            seen.add(file)
            todo += [(child, False) for child in children(file, is_root)]
    return seen


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).parents[1])
    root = arguments.parse_args().root.resolve()

    def walk(pattern):
        # What Cargo builds is in folders called target.
        return [file for file in root.rglob(pattern)
                if not {"target", ".git"} & set(file.relative_to(root).parts)]

    seen = set().union(*(mounted(manifest.parent) for manifest in walk("Cargo.toml")))
    files = walk("*.rs")
    lost = sorted(set(files) - seen)
    for file in lost:
        print(f"{file.relative_to(root)}: not compiled: no `mod` leads to it from a target")
    print(f"{len(files)} Rust files, {len(lost)} that no target has")
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
