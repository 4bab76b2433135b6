#!/usr/bin/env python3
"""Tests of check-words.py."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("check-words.py")
LONG = "word " * 25


def run(name, text):
    """The script's lines about a file of this name and text, without the summary."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / name
        path.write_text(text)
        done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True,
                              check=False)
        lines = done.stdout.replace(f"{path}:", "").splitlines()
        assert done.returncode == (1 if lines else 0), done
        return lines[:-1]


class Words(unittest.TestCase):
    def wide(self, name, text, numbers):
        lines = run(name, text)
        self.assertEqual([int(line.split(":")[0]) for line in lines], numbers, lines)

    def test_rust_comments_are_measured_and_code_is_not(self):
        self.wide("a.rs", f'''//! {LONG}
/// {LONG}
// {LONG}
let a = "{LONG}"; let b = "// {LONG}";
let a = 1; // {LONG}
/* first
{LONG} */
let a = r#"" // {LONG}"#;
/// | {LONG} |
/// [link]: https://example.org/{"a" * 100}
// {"x" * 97}
// {"x " * 48}
''', [1, 2, 3, 5, 7])

    def test_exactly_a_hundred_columns_fit(self):
        self.wide("a.rs", "// ab " + "c" * 94 + "\n// ab " + "c" * 95 + "\n", [2])

    def test_python_comments_and_docstrings_are_measured(self):
        self.wide("a.py", f'"""{LONG}"""\na = "{LONG} # {LONG}"\n# {LONG}\nb = 1  # {LONG}\n', [1, 3, 4])

    def test_shell_and_toml_comments_are_measured(self):
        self.wide("a.sh", f'# {LONG}\necho "{LONG} # {LONG}"\n[ ${{#a}} ] {LONG}\n', [1])
        self.wide("a.toml", f'# {LONG}\na = "{LONG}"\nb = 1 # {LONG}\n', [1, 3])

    def test_markdown_prose_is_measured_outside_tables_and_code(self):
        self.wide("a.md", f"{LONG}\n\n- {LONG}\n| {LONG} |\n```text\n{LONG}\n```\n{LONG}\n\n"
                  f"    {LONG}\n\n[a]: https://example.org/{'a' * 100}\n", [1, 3, 8])

    def test_phrases_are_found_in_comments_messages_and_names(self):
        lines = run("a.rs", '// the choices that there are.\npanic!("it has gone");\n'
                    "fn a_peer_that_has_gone_is_removed() {}\n/// Gives a thing. True if it can.\n")
        self.assertEqual([line.split(" write")[0] for line in lines], [
            "1: 'that there are':", "2: 'has gone':", "3: 'has gone':", "4: 'Gives':",
            "4: '. True if':"])

    def test_plain_sentences_pass(self):
        self.assertEqual(run("a.rs", """//! Checks that there is no cycle, so that there are no surprises.
// The write has gone wrong or has gone to sleep; x = True if y.
let gives = "Gives"; // it says which one
"""), [])


if __name__ == "__main__":
    unittest.main()
