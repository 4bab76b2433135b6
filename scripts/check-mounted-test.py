#!/usr/bin/env python3
"""Tests of check-mounted.py, on small packages in a temporary directory."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("check-mounted.py")


def lost(files):
    """The files that the script reports in a package `one` of these files."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {"Cargo.toml": "", **files}.items():
            path = root / "one" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, SCRIPT, "--root", root], text=True,
                              capture_output=True, check=False)
        names = [line.split(":")[0].removeprefix("one/") for line in done.stdout.splitlines()[:-1]]
        assert done.returncode == bool(names) and not done.stderr, done
        return names


class Mounted(unittest.TestCase):
    def test_a_file_that_no_mod_names_is_reported(self):
        self.assertEqual(lost({"src/lib.rs": "mod a;", "src/a.rs": "", "src/b.rs": ""}),
                         ["src/b.rs"])

    def test_a_mod_in_a_comment_or_a_string_mounts_nothing(self):
        text = '// mod a;\nconst A: &str = "mod a; {";\n/* mod a; */'
        self.assertEqual(lost({"src/lib.rs": text, "src/a.rs": ""}), ["src/a.rs"])

    def test_folders(self):
        self.assertEqual(lost({
            "src/main.rs": "#[cfg(test)] mod a; pub(crate) mod b;", "src/a.rs": "mod c;",
            "src/a/c.rs": "", "src/b/mod.rs": "mod d;", "src/b/d.rs": "", "src/c.rs": ""}),
            ["src/c.rs"])

    def test_inline_modules_are_folders(self):
        text = "mod a { fn f() {} mod b; } mod c;"
        self.assertEqual(lost({
            "src/lib.rs": text, "src/a/b.rs": "", "src/c.rs": "", "src/b.rs": ""}), ["src/b.rs"])

    def test_paths_are_relative_to_the_file(self):
        self.assertEqual(lost({
            "src/lib.rs": "mod a;", "src/a.rs": '#[path = "x/y.rs"] mod b; mod c;',
            "src/x/y.rs": "", "src/a/b.rs": "", "src/a/c.rs": ""}), ["src/a/b.rs"])

    def test_roots_that_cargo_finds(self):
        self.assertEqual(lost({
            "tests/a.rs": "mod support;", "tests/support/mod.rs": "", "tests/b/main.rs": "mod c;",
            "tests/b/c.rs": "", "examples/d.rs": "", "build.rs": "", "src/bin/e.rs": "",
            "fuzz_targets/f.rs": "", "tests/b/g.rs": ""}), ["tests/b/g.rs"])

    def test_what_cargo_built_is_left_out(self):
        self.assertEqual(lost({"src/lib.rs": "", "target/a.rs": ""}), [])


if __name__ == "__main__":
    unittest.main()
