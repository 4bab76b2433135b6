#!/usr/bin/env python3
"""Tests of check-docs.py, on small repositories in a temporary directory."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("check-docs.py")


def run(architecture, readme="", others=()):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("one/src/a/b.rs", "one/src/a/c.rs", "two/tests/d.rs", "scripts/e.sh"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        (root / "Cargo.toml").write_text('[workspace]\nmembers = ["one", "two"]\n')
        (root / "README.md").write_text(readme)
        for name, text in others:
            (root / name).parent.mkdir(exist_ok=True, parents=True)
            (root / name).write_text(text)
        if architecture is not None:
            (root / "ARCHITECTURE.md").write_text(architecture)
        done = subprocess.run([sys.executable, SCRIPT, "--root", root], capture_output=True,
                              text=True, check=False)
        lines = done.stdout.splitlines()[:-1]
        assert done.returncode == (1 if lines else 0), done
        return lines


class Docs(unittest.TestCase):
    def test_an_alias_names_the_package_of_a_folder(self):
        manifest = ("one/Cargo.toml", '[package]\nname = "one-loop"\n')
        for package, wrong in (("one-loop", []), ("other", ["other has no test called d"])):
            config = (".cargo/config.toml", f'[alias]\nx = "test -p {package} --test d"\n')
            lines = run("x", others=[manifest, ("one/tests/d.rs", ""), config])
            self.assertEqual(len(lines), len(wrong), lines)

    def test_paths_that_exist_pass(self):
        self.assertEqual(run("""`one/src/a/b.rs`, `scripts/e.sh --quick`, `two/tests/`, `/dev/kvm`
## one: the first crate
`a/b.rs` and `src/a/{b,c}.rs` and `a/*.rs` and `c.rs` and `read(2)`, `b.rs:12`
```text
a/b.rs -> c.rs
```
"""), [])

    def test_paths_that_do_not_exist_are_reported(self):
        self.assertEqual(run("""`one/src/a.rs`
`a/b.rs` only stands below the heading of its crate
## one
`a/{b,x}.rs` `d.rs` `z.py`
```text
a/y.rs
```
## two
`c.rs`
"""), ["ARCHITECTURE.md:1: there is no one/src/a.rs", "ARCHITECTURE.md:2: there is no a/b.rs",
       "ARCHITECTURE.md:4: there is no a/x.rs", "ARCHITECTURE.md:4: there is no d.rs",
       "ARCHITECTURE.md:4: there is no z.py", "ARCHITECTURE.md:6: there is no a/y.rs",
       "ARCHITECTURE.md:9: there is no c.rs"])

    def test_the_page_must_exist(self):
        self.assertEqual(run(None), ["ARCHITECTURE.md does not exist"])

    def test_links_and_anchors_are_followed(self):
        self.assertEqual(run("# A page's `head` line\n## Two\n## Two\n", """[a](ARCHITECTURE.md#two-1)
[b](one/src) [c](https://example.org/x) [d](ARCHITECTURE.md#a-pages-head-line) `[e](gone)`
[f](gone.md) [g](ARCHITECTURE.md#three)
[h]: also-gone
"""), ["README.md:3: links to gone.md, which does not exist",
       "README.md:3: links to #three, which is no heading of ARCHITECTURE.md",
       "README.md:4: links to also-gone, which does not exist"])

    def test_scripts_are_looked_for_in_code_too(self):
        self.assertEqual(run("", """    scripts/e.sh --help
    target/release/x && scripts/f.py ; ../scripts/other.sh
"""), ["README.md:2: there is no scripts/f.py"])

    def test_aliases_run_tests_that_exist_and_pages_name_aliases_that_exist(self):
        aliases = '[alias]\nd = "test -p two --test d"\ne = "test -p two --test e"\n'
        self.assertEqual(run("", others=[(".cargo/config.toml", aliases), (
            "CONTRIBUTING.md", "`cargo d`, `cargo test -p two`, `cargo g`")]),
            [".cargo/config.toml: cargo e: two has no test called e",
             "CONTRIBUTING.md: `cargo g` is no command of cargo and no alias"])


if __name__ == "__main__":
    unittest.main()
