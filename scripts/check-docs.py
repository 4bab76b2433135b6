#!/usr/bin/env python3
"""Checks that what the pages point to exists.

    scripts/check-docs.py [--root DIR]

- Each path that ARCHITECTURE.md names in backticks (it has a `/`, or ends in .rs, .sh, .py, .toml
  or .md), and each name ending in .rs, .sh or .py in its pictures. A path starts at the top of the
  repository or, below a heading that begins with the name of a crate, in that crate or its src. A
  name without a `/` is a file anywhere in it. `{a,b}` and `*` are understood.
- Each relative link of each Markdown file, with its anchor, and each script that it names as
  `scripts/...` in text or code.
- Each test that an alias in .cargo/config.toml runs, and each alias that CONTRIBUTING.md names.

Exit codes: 0 clean, 1 something is missing, 2 wrong use.
"""
import argparse
import itertools
import pathlib
import re
import sys
import tomllib

SUFFIXES = (".rs", ".sh", ".py", ".toml", ".md")
PATH = re.compile(r"[\w.{},*/+-]+$")
CARGO = {"bench", "build", "check", "clippy", "doc", "fmt", "fuzz", "install", "package", "publish",
         "run", "test", "yank"}
LINK = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s+<?([^\s>]+)")


def lines_outside_code(text):
    """Yields (number, line, whether it is in a code block)."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = None if fence else mark[1]
        else:
            yield number, line, fence is not None


def expand(name):
    """`a/{b,c}.rs` as a list of names."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    inside = [options if at % 2 else [",".join(options)] for at, options in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*inside)]


def named_paths(root, page, members):
    """Yields (line number, name, the folders that it may start in)."""
    crate = None
    for number, line, code in lines_outside_code(page.read_text()):
        if heading := re.match(r"##? +`?([\w-]+)", line):
            crate = heading[1] if heading[1] in members else None
        bases = [root] + ([root / crate, root / crate / "src"] if crate else [])
        if code:
            words = [w for w in re.findall(r"[\w./{},*-]+", line) if w.endswith(SUFFIXES[:3])]
        else:   # the first word: an example of a command may have arguments
            words = [quoted.split()[0] for quoted in re.findall(r"`([^`\s][^`]*)`", line)]
        for word in words:
            word = re.sub(r":\d+$", "", word)
            if PATH.match(word) and not word.startswith(("/", "*", "-", ".rs", ".sh", ".py")) \
                    and ("/" in word or word.endswith(SUFFIXES)):
                for name in expand(word):
                    yield number, name, bases


def exists(name, bases):
    for base in bases:
        if next(base.glob(name.rstrip("/") + "/" * name.endswith("/")), None):
            return True
    if "/" in name:
        return False
    return any("target" not in path.parts for path in bases[-1].rglob(name))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for _, line, code in lines_outside_code(page.read_text()):
        if not code and (heading := re.match(r"#+ +(.*)", line)):
            slug = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            repeated = sum(a == slug or re.match(re.escape(slug) + r"-\d+$", a) is not None
                           for a in found)
            found.add(f"{slug}-{repeated}" if repeated else slug)
    return found


def broken_links(page):
    for number, line, code in lines_outside_code(page.read_text()):
        if code:
            continue
        for match in LINK.finditer(re.sub(r"`[^`]*`", "``", line)):
            target, _, anchor = (match[1] or match[2]).partition("#")
            if re.match(r"[a-z][a-z+.-]*:", target):
                continue
            file = page.parent / target if target else page
            if not file.exists():
                yield number, f"links to {target}, which does not exist"
            elif anchor and file.suffix == ".md" and anchor not in anchors(file):
                yield number, f"links to #{anchor}, which is no heading of {file.name}"


def missing_scripts(root, page):
    for number, line in enumerate(page.read_text().splitlines(), 1):
        for name in re.findall(r"(?<![\w/.])scripts/[\w./-]*\.(?:sh|py)\b", line):
            if not (root / name).exists():
                yield number, f"there is no {name}"


def package(root, member):
    """The name of a member's package; the folder's, if it has no manifest."""
    manifest = root / member / "Cargo.toml"
    return tomllib.loads(manifest.read_text())["package"]["name"] if manifest.exists() else member


def aliases(root, members):
    """What is wrong with the cargo aliases."""
    config, page = root / ".cargo/config.toml", root / "CONTRIBUTING.md"
    found = tomllib.loads(config.read_text()).get("alias", {}) if config.exists() else {}
    folders = {package(root, member): member for member in members}
    for name, command in found.items():
        test = re.search(r"-p ([\w-]+) --test ([\w-]+)", command)
        folder = test and folders.get(test[1], test[1])
        if test and not any((root / folder / "tests" / file).exists()
                            for file in (f"{test[2]}.rs", f"{test[2]}/main.rs")):
            yield f".cargo/config.toml: cargo {name}: {test[1]} has no test called {test[2]}"
    for name in re.findall(r"`cargo ([\w-]+)", page.read_text()) if page.exists() else []:
        if name not in CARGO | found.keys():
            yield f"CONTRIBUTING.md: `cargo {name}` is no command of cargo and no alias"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent)
    root = parser.parse_args().root.resolve()
    members = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]
    wrong, paths = [], 0
    architecture = root / "ARCHITECTURE.md"
    if not architecture.exists():
        wrong.append("ARCHITECTURE.md does not exist")
    else:
        for number, name, bases in named_paths(root, architecture, members):
            paths += 1
            if not exists(name, bases):
                wrong.append(f"ARCHITECTURE.md:{number}: there is no {name}")
    pages = [page for page in sorted(root.rglob("*.md"))
             if not {"target", "node_modules"} & set(page.relative_to(root).parts)]
    for page in pages:
        found = [*broken_links(page), *missing_scripts(root, page)]
        wrong += [f"{page.relative_to(root)}:{number}: {what}" for number, what in found]
    wrong += aliases(root, members)
    print("\n".join([*wrong, f"{paths} paths of ARCHITECTURE.md and the links of {len(pages)} pages"]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
