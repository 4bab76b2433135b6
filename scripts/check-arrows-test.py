#!/usr/bin/env python3
"""Tests of check-arrows.py, on small crates in a temporary directory."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("check-arrows.py")


def run(files, rooms="top\nmiddle\nbottom\n", *arguments):
    """Runs the script on a crate of these files; returns its exit code and its lines."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "Cargo.toml").write_text('[workspace]\nmembers = ["made-up"]\n')
        if rooms is not None:
            (root / "ARCHITECTURE.md").write_text(f"```text rooms made-up\n{rooms}```\n")
        for name, text in files.items():
            path = root / "made-up/src" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, SCRIPT, "--root", root, *arguments], text=True,
                              capture_output=True, check=False)
        return done.returncode, (done.stdout + done.stderr).replace("made-up/src/", "").splitlines()


CLEAN = {
    "lib.rs": "mod top; mod middle;\nmod bottom; pub use top::Top;",
    "top.rs": "use crate::middle::Middle;\npub struct Top(Middle);",
    "middle.rs": "use crate::bottom::{self, Bottom};\npub struct Middle(Bottom, bottom::Other);",
    "bottom.rs": "pub struct Bottom;\npub struct Other;",
}


class Arrows(unittest.TestCase):
    def clean(self, changed, rooms="top\nmiddle\nbottom\n"):
        code, lines = run({**CLEAN, **changed}, rooms)
        self.assertEqual((code, len(lines)), (0, 1), lines)

    def wrong(self, changed, expected, rooms="top\nmiddle\nbottom\n"):
        code, lines = run({**CLEAN, **changed}, rooms)
        self.assertEqual((code, lines[:-1]), (1, expected))

    def test_imports_downwards_are_clean(self):
        self.clean({})

    def test_an_import_of_a_higher_room_is_reported_with_each_line(self):
        self.wrong({"top.rs": "pub struct Top;\npub struct Two;", "middle.rs": "pub struct Middle;",
                    "bottom.rs": "use crate::top::Top;\nfn f(_: Top) {\n crate::top::Two; }"},
                   ["bottom.rs:1: `crate::top::Top` is in top.rs, and top stands above bottom",
                    "bottom.rs:3: `crate::top::Two` is in top.rs, and top stands above bottom"])

    def test_the_crate_root_is_above_every_room(self):
        self.wrong({"lib.rs": CLEAN["lib.rs"] + "pub struct Root;", "bottom.rs":
                    "use crate::Root; pub struct Bottom(Root); pub struct Other;"},
                   ["bottom.rs:1: `crate::Root` is in lib.rs, and lib stands above bottom"])

    def test_rooms_on_one_line_do_not_import_each_other(self):
        self.wrong({}, ["top.rs:1: `crate::middle::Middle` is in middle.rs, and middle stands "
                        "beside top"], rooms="top middle\nbottom\n")

    def test_a_re_export_in_the_root_is_followed_to_its_file(self):
        self.wrong({"middle.rs": "pub struct Middle;", "bottom.rs": "use crate::Top;"},
                   ["bottom.rs:1: `crate::Top` is in top.rs, and top stands above bottom"])

    def test_a_cycle_through_a_re_export_is_found(self):
        self.wrong({"middle.rs": "mod a; mod b;\npub use a::A; pub use b::B; pub struct Middle;",
                    "middle/a.rs": "use super::B; pub struct A(B);",
                    "middle/b.rs": "\nuse super::A; pub struct B(A);"},
                   ["cycle: middle/a.rs:1 (super::B) -> middle/b.rs:2 (super::A) -> middle/a.rs"])

    def test_a_door_is_no_import(self):
        self.clean({"middle.rs": "mod a;\npub use a::A;\npub struct Middle;",
                    "middle/a.rs": "use super::Middle; pub struct A(Middle);"})

    def test_a_door_whose_name_the_file_uses_is_an_import(self):
        self.wrong({"middle.rs": "mod a;\npub use a::A;\npub struct Middle(Option<A>);",
                    "middle/a.rs": "use super::Middle; pub struct A(Middle);"},
                   ["cycle: middle/a.rs:1 (super::Middle) -> middle.rs:2 (a::A) -> middle/a.rs"])

    def test_a_cycle_of_three_is_one_line(self):
        code, lines = run({
            "lib.rs": "mod a; mod b; mod c;", "a.rs": "use crate::b::B; pub struct A(B);",
            "b.rs": "use crate::c::C; pub struct B(C);", "c.rs": "pub struct C(crate::a::A);"},
            "a\nb\nc\n")
        self.assertEqual((code, lines[:-1]), (1, [
            "c.rs:1: `crate::a::A` is in a.rs, and a stands above c",
            "cycle: a.rs:1 (crate::b::B) -> b.rs:1 (crate::c::C) -> c.rs:1 (crate::a::A) -> a.rs"]))

    def test_test_code_is_left_out(self):
        self.clean({"bottom.rs": """pub struct Bottom; pub struct Other;
            #[cfg(test)] use crate::top::Top;
            impl Bottom { #[cfg(test)] fn f(t: crate::top::Top) { g(); } fn g(&self) {} }
            #[cfg(all(test, loom))] mod loom_tests;
            #[cfg(test)]
            #[expect(clippy::all)]
            mod tests { use super::*; use crate::top::Top; }"""})

    def test_code_that_is_not_for_tests_alone_is_checked(self):
        for condition in ("not(test)", 'any(test, feature = "rig")', 'feature = "test"'):
            self.wrong({"middle.rs": "pub struct Middle;",
                        "bottom.rs": f"#[cfg({condition})]\nuse crate::top::Top;"},
                       ["bottom.rs:2: `crate::top::Top` is in top.rs, and top stands above bottom"])

    def test_comments_and_literals_are_left_out(self):
        self.clean({"bottom.rs": """//! [`crate::top::Top`]
            /* /* nested */ use crate::top::Top; */
            pub struct Bottom; pub struct Other;
            const A: &str = "\\" use crate::top::Top;"; const B: char = '"';
            const C: &str = r#"" use crate::top::Top; "#; fn f<'a>(x: &'a u8) -> &'a u8 { x }
            const D: u8 = b'\\''; // use crate::top::Top;"""})

    def test_a_glob_import_counts_where_a_name_is_used(self):
        self.wrong({"middle.rs": "pub struct Middle;",
                    "bottom.rs": "use crate::top::*;\nfn f(_: Top) {}"},
                   ["bottom.rs:1: `crate::top::Top` is in top.rs, and top stands above bottom"])
        self.clean({"bottom.rs": "use crate::top::*; pub struct Bottom; pub struct Other;"})

    def test_a_path_through_an_imported_module_is_an_import(self):
        self.wrong({"middle.rs": "pub struct Middle;", "top.rs": "pub fn top() {}",
                    "lib.rs": "mod top; mod middle; mod bottom;",
                    "bottom.rs": "use crate::top;\nfn f() { top::top(); }"},
                   ["bottom.rs:2: `top::top` is in top.rs, and top stands above bottom"])

    def test_macros_and_what_they_define_are_items(self):
        self.wrong({"top.rs": "macro_rules! make { ($n:ident) => { pub struct $n; } }\nmake!(Top);\n"
                    "pub(crate) use make;", "middle.rs": "pub struct Middle;",
                    "bottom.rs": "use crate::top::Top;\ncrate::top::make!(X);"},
                   ["bottom.rs:1: `crate::top::Top` is in top.rs, and top stands above bottom",
                    "bottom.rs:2: `crate::top::make` is in top.rs, and top stands above bottom"])

    def test_a_name_of_another_crate_belongs_to_the_file_that_passes_it_on(self):
        self.wrong({"middle.rs": "pub struct Middle;", "top.rs": "pub use std::sync::Arc;",
                    "lib.rs": "mod top; mod middle; mod bottom;",
                    "bottom.rs": "use crate::top::Arc;"},
                   ["bottom.rs:1: `crate::top::Arc` is in top.rs, and top stands above bottom"])

    def test_a_binary_reaches_the_library_by_its_name(self):
        self.clean({"bin/tool/main.rs": "mod a; use made_up::Top; use a::A; fn main() {}",
                    "bin/tool/a.rs": "use made_up::Top; pub struct A(Top);"},
                   rooms="bin\ntop\nmiddle\nbottom\n")
        self.wrong({"bin/tool/main.rs": "use made_up::Top; fn main() {}"},
                   ["bin/tool/main.rs:1: `made_up::Top` is in top.rs, and top stands above bin"],
                   rooms="top\nbin\nmiddle\nbottom\n")

    def test_the_rooms_on_the_page_and_in_the_crate_are_the_same(self):
        self.wrong({}, ["ARCHITECTURE.md: made-up has a module `bottom` that is not in its rooms",
                        "ARCHITECTURE.md: made-up has no module `cellar`, but its rooms name it",
                        ], rooms="top\nmiddle\ncellar\n")
        self.wrong({}, ["ARCHITECTURE.md: no code block `text rooms made-up`"], rooms=None)

    def test_a_name_that_cannot_be_found_is_reported(self):
        self.wrong({"bottom.rs": "pub struct Bottom; pub struct Other; use crate::Gone;"},
                   ["bottom.rs:1: cannot find `crate::Gone`"])

    def test_the_graph_lists_every_import(self):
        code, lines = run(CLEAN, "top\n", "--graph", "made-up")
        self.assertEqual((code, lines), (0, [
            "middle.rs:1 -> bottom.rs (crate::bottom::Bottom)",
            "middle.rs:2 -> bottom.rs (bottom::Other)",
            "top.rs:1 -> middle.rs (crate::middle::Middle)"]))

    def test_an_unknown_crate_is_wrong_use(self):
        self.assertEqual(run(CLEAN, "top\n", "other")[0], 2)


if __name__ == "__main__":
    unittest.main()
