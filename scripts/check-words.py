#!/usr/bin/env python3
"""Checks the width of comments and prose, and looks for phrases that are hard to read.

    scripts/check-words.py [--count] [PATH...]     default: every file that git knows or would add

Comments and doc comments (.rs, .sh, .py, .toml) and Markdown prose have at most 100 columns.
Tables, code blocks of Markdown files, and lines that hold nothing but a link may be wider.
A phrase of the list below fails wherever it stands, in a comment, a message, or a test name; the
plain wording is printed with it. `--count` prints only how many lines there are, by folder.

Exit codes: 0 clean, 1 something to change, 2 wrong use.
"""
import argparse
import collections
import io
import pathlib
import re
import subprocess
import sys
import tokenize

sys.dont_write_bytecode = True
from rust_imports import literals  # noqa: E402

WIDTH = 100

# A pattern and what to write instead. Keep the list short, and each entry free of false alarms.
PHRASES = [
    (r"\bthat there (are|is)(?=[.,;:)]| when\b)", "name the things: 'the options', 'all handlers'"),
    (r"\b(has|have|had) gone\b(?! (wrong|to|through|from))", "'was removed', 'was dropped', 'has ended'"),
    (r"\bwants? (it|them) no longer\b", "'no longer needs it'"),
    (r"\b(is|are|was|were) told\b", "'gets a callback', 'is notified', 'is informed'"),
    (r"\b(is|are) no \w+ but (a|an|the)\b", "'is a Y, not an X'"),
    (r"\b(to|can|could|cannot|may) be had\b", "'available', 'supported'"),
    (r"\banew\b", "'again'"),
    (r"\bsays? why\b", "'reports the reason', 'prints the reason'"),
    (r"\bha(s|ve|d) learn(ed|t)\b", "'the learned value'"),
    (r"^Gives ", "'Returns'"),
    (r"(^|\. )(True|False|None) if\b", "'Returns true if' for a function, 'Whether' for a field"),
]
PHRASES = [(re.compile(pattern), plain) for pattern, plain in PHRASES]
MARKER = re.compile(r"\s*(//[/!]?|#!?|/?\*+)?\s*")
LINK_ONLY = re.compile(r"([-*]\s+|\[[^\]]*\]:\s*)?\S+$")


def rust_comments(text):
    """The numbers of the lines with a comment or a doc comment."""
    for start, end in literals(text):
        if text.startswith(("//", "/*"), start):
            first = text.count("\n", 0, start) + 1
            yield from range(first, first + text.count("\n", start, end) + 1)


def python_comments(text):
    """Comments and docstrings."""
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0]
        elif token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT):
            yield from range(token.start[0], token.end[0] + 1)
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type


def hash_comments(text):
    """Lines with a `#` comment; one behind code is seen if no quote follows it."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"(^\s*|\s)#([ !][^\"'`]*)?$|^\s*#", line):
            yield number


def markdown_prose(text):
    """Lines outside code blocks and tables."""
    fence, blank, code = None, True, False
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if fence or mark:
            fence = (None if mark and mark[1].startswith(fence) else fence) if fence else mark[1]
        else:
            code = line.startswith("    ") and (blank or code) or code and not line.strip()
            if not code:
                yield number
        blank = not line.strip()


def reader(path):
    """The function that knows where prose stands in this file, or None."""
    by_suffix = {".rs": rust_comments, ".py": python_comments, ".md": markdown_prose,
                 ".sh": hash_comments, ".toml": hash_comments, ".yml": hash_comments}
    if path.suffix or not path.is_file():
        return by_suffix.get(path.suffix)
    with path.open("rb") as file:
        return hash_comments if file.read(2) == b"#!" else None


def check(path, prose):
    """Yields (line number, what is wrong)."""
    text = path.read_text()
    prose = set(prose(text))
    own = path.name in ("check-words.py", "check-words-test.py")   # hold the phrases themselves
    for number, line in enumerate(text.splitlines(), 1):
        words = line[MARKER.match(line).end():]
        if number in prose and len(line) > WIDTH and not words.startswith("|") \
                and not LINK_ONLY.match(words):
            yield number, f"{len(line)} columns, {WIDTH} at most"
        if own:
            continue
        at_start = words if number in prose else " " + words
        for pattern, plain in PHRASES:
            if found := pattern.search(at_start.replace("_", " ")):
                yield number, f"'{found[0].strip()}': write {plain}"


def tracked(root):
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=root,
                            capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [root / name for name in listed.stdout.split("\0") if name]
    return [path for path in root.rglob("*") if "target" not in path.relative_to(root).parts]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", type=pathlib.Path, metavar="PATH")
    parser.add_argument("--count", action="store_true", help="print only the counts")
    options = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    files = []
    for path in options.paths:
        if not path.exists():
            parser.error(f"there is no {path}")
        files += [path] if path.is_file() else path.rglob("*")
    failed, wide, phrases = 0, collections.Counter(), collections.Counter()
    for path in sorted(files or tracked(root)):
        prose = reader(path)
        if not prose or not path.is_file():
            continue
        shown = path.resolve().relative_to(root) if path.resolve().is_relative_to(root) else path
        for number, wrong in check(path, prose):
            failed += 1
            folder = shown.parts[0] if len(shown.parts) > 1 else "."
            (phrases if wrong.startswith("'") else wide)[folder] += 1
            if not options.count:
                print(f"{shown}:{number}: {wrong}")
    for folder in sorted(wide.keys() | phrases.keys()):
        print(f"{folder}: {wide[folder]} lines too wide, {phrases[folder]} phrases to change")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
