"""Reads which files of a Rust crate import which: the part of check-arrows.py that knows Rust.

A tokenizer and a reader of items and `use` trees, enough to resolve names the way rustc does for
code that compiles. Method calls and `impl` blocks are not followed.
"""
import re
import sys

TEST_MODULES = {"tests", "loom_tests", "test_rig"}
ITEMS = {"fn", "struct", "enum", "union", "trait", "type", "const", "static"}
LITERALS = re.compile(
    r'//[^\n]*|(?P<block>/\*)|\b[bc]?r(?P<raw>#*)"|\b[bc]?"(?:\\.|[^"\\])*"|"(?:\\.|[^"\\])*"'
    r"|\bb?'(?:\\.[^']*|[^'\\])'|'(?:\\.[^']*|[^'\\])'", re.S)
TOKEN = re.compile(r"(?:r#)?[A-Za-z_]\w*|\d\w*|::|\.\.|\n|\S")
IDENTIFIER = re.compile(r"(?:r#)?[A-Za-z_]\w*$")


def literals(text):
    """Yields the start and the end of each comment and literal."""
    at = 0
    while found := LITERALS.search(text, at):
        at = found.end()
        if found["block"]:
            depth = 1
            while depth and (mark := re.compile(r"/\*|\*/").search(text, at)):
                depth, at = depth + (1 if mark[0] == "/*" else -1), mark.end()
            at = len(text) if depth else at
        elif found["raw"] is not None:
            close = text.find('"' + found["raw"], at)
            at = len(text) if close < 0 else close + 1 + len(found["raw"])
        yield found.start(), at


def strip(text):
    """Returns the text without comments and literals; newlines stay."""
    out, kept = [], 0
    for start, end in literals(text):
        out += [text[kept:start], " ", "\n" * text.count("\n", start, end)]
        kept = end
    return "".join(out) + text[kept:]


def tokenize(text):
    tokens, line = [], 1
    for found in TOKEN.finditer(strip(text)):
        if found[0] == "\n":
            line += 1
        else:
            tokens.append((found[0], line))
    return tokens


class Module:
    """One module: what it defines, declares and imports. Inline modules share their file."""

    def __init__(self, file, parent):
        self.file, self.parent = file, parent
        self.root = parent.root if parent else self
        self.items, self.children = set(), {}
        self.guesses = set()             # names in macro calls, which may be items
        self.uses, self.globs = [], []   # (path, name, line, is a re-export), (path, line, same)
        self.body = []                   # tokens outside `use` declarations and test code

    def within(self, other):
        """Whether this module is `other` or below it."""
        return self is other or bool(self.parent and self.parent.within(other))


class Parser:
    """Reads the modules of one target (library or binary) from its root file."""

    def __init__(self, root_file):
        self.modules = []
        self.root = self.read(root_file, None, root_file.parent)

    def read(self, file, parent, folder):
        module = Module(file, parent)
        self.modules.append(module)
        self.tokens = tokenize(file.read_text())
        self.parse(module, self.tokens, 0, len(self.tokens), folder)
        return module

    def parse(self, module, tokens, at, end, folder, inside=False):
        """Items from `at` to `end`. `inside`: the inside of a body, where nothing is defined."""
        public, text = False, lambda i: tokens[i][0] if i < end else ""
        while at < end:
            token = text(at)
            if token == "#" and text(at + 1) in ("[", "!"):
                close = skip_group(tokens, at + 1 + (text(at + 1) == "!"), end)
                attribute = "".join(t for t, _ in tokens[at:close])
                at = close
                if re.match(r"#!?\[cfg\(", attribute) and is_test(attribute):
                    at = end if attribute[1] == "!" else item_end(tokens, at, end)
            elif token == "pub":
                public, at = True, at + 1
                if text(at) == "(":
                    at = skip_group(tokens, at, end)
            elif token == "use" and IDENTIFIER.match(text(at + 1) or "-") or \
                    token == "use" and text(at + 1) in ("::", "{"):
                close = next((i for i in range(at, end) if text(i) == ";"), end)
                use_tree(module, tokens, at + 1, close, (), public)
                public, at = False, close + 1
            elif token == "mod" and not inside and text(at + 2) in (";", "{"):
                at = self.child(module, tokens, at, end, folder)
                public = False
            elif not inside and (token in ITEMS or token == "impl" or text(at + 1) in ("!", "{")):
                at = self.item(module, tokens, at, end, folder)
                public = False
            else:
                module.body.append(tokens[at])
                at += 1

    def child(self, module, tokens, at, end, folder):
        name, opening = tokens[at + 1][0].removeprefix("r#"), tokens[at + 2][0]
        close = at + 3 if opening == ";" else skip_group(tokens, at + 2, end)
        if name in TEST_MODULES:
            return close
        if opening == "{":
            child = Module(module.file, module)
            self.modules.append(child)
            self.parse(child, tokens, at + 3, close - 1, folder / name)
        else:
            file = next((f for f in (folder / f"{name}.rs", folder / name / "mod.rs")
                         if f.exists()), None)
            if file is None:
                sys.exit(f"{module.file}:{tokens[at][1]}: no file for `mod {name}`")
            child = self.read(file, module, folder / name)
        module.children[name] = child
        return close

    def item(self, module, tokens, at, end, folder):
        keyword = tokens[at][0]
        close = item_end(tokens, at, end)
        if keyword in ITEMS:
            if tokens[at + 1][0] in ("fn", "unsafe", "async", "extern"):   # const fn
                return at + 1
            named = [at + 2 if tokens[at + 1][0] == "mut" else at + 1]
        elif keyword == "impl":
            named = []
        else:   # a macro, a call such as thread_local!, or an extern block may define items
            named = [at + 2] if keyword == "macro_rules" else []
            named += [i + 1 for i in range(at, close - 1) if tokens[i][0] in ITEMS]
            if keyword != "macro_rules":
                module.guesses |= {token for token, _ in tokens[at:close]}
        module.items |= {tokens[i][0] for i in named}
        self.parse(module, tokens, at, close, folder, inside=True)
        return close


def is_test(attribute):
    """Whether the item is for tests alone: `cfg(test)`, or `cfg(all(..))` with test in it."""
    conditions = attribute.replace("not(test)", "")
    return "any(" not in conditions and bool(re.search(r"\btest\b", conditions))


def skip_group(tokens, at, end):
    """The index behind the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, end):
        depth += (tokens[i][0] in ("(", "[", "{")) - (tokens[i][0] in (")", "]", "}"))
        if depth == 0:
            return i + 1
    return end


def item_end(tokens, at, end):
    """The index behind the item, statement, field or match arm that begins at `at`."""
    while at < end and tokens[at][0] == "#":
        at = skip_group(tokens, at + 1, end)
    begin = at + 1 if tokens[at][0] == "pub" else at
    if begin < end and tokens[begin][0] == "(" and begin > at:
        begin = skip_group(tokens, begin, end)
    first = tokens[begin][0] if begin < end else ""
    second = tokens[begin + 1][0] if begin + 1 < end else ""
    value = first in ("use", "static", "type", "let") or first == "const" and second != "fn"
    item = value or second == "!" or first in ITEMS | {"mod", "impl", "unsafe", "async", "extern"}
    i = begin
    while i < end:
        token = tokens[i][0]
        if token == ";" or token == "," and not item:
            return i + 1
        if token in (")", "]", "}"):
            return i
        if token in ("(", "[", "{"):
            i = skip_group(tokens, i, end)
            if token == "{" and not value:
                return i
        else:
            i += 1
    return end


def use_tree(module, tokens, at, end, prefix, public):
    """Records each leaf of a use tree."""
    path, line = list(prefix), tokens[at][1] if at < end else 0
    while at < end:
        token, line = tokens[at]
        if token == "::":
            path += [""] if not path else []   # `::name` is another crate
        elif token == "{":
            close = skip_group(tokens, at, end)
            at += 1
            while at < close - 1:
                stop = at
                while stop < close - 1 and tokens[stop][0] != ",":
                    stop = skip_group(tokens, stop, close) if tokens[stop][0] == "{" else stop + 1
                use_tree(module, tokens, at, stop, path, public)
                at = stop + 1
            return
        elif token == "*":
            module.globs.append((tuple(path), line, public))
            return
        elif token == "as":
            module.uses.append((tuple(path), tokens[at + 1][0], line, public))
            return
        elif token != "self" or not path:
            path.append(token)
        at += 1
    if path:
        module.uses.append((tuple(path), path[-1], line, public))


class Crate:
    """The files of a package and the imports between them."""

    def __init__(self, folder):
        source = self.source = folder / "src"
        roots = [source / "lib.rs", source / "main.rs", *sorted(source.glob("bin/*.rs")),
                 *sorted(source.glob("bin/*/main.rs"))]
        parsers = [Parser(root) for root in roots if root.exists()]
        self.modules = [module for parser in parsers for module in parser.modules]
        self.library = parsers[0].root if parsers and roots[0].exists() else None
        self.name = folder.name.replace("-", "_")
        self.edges = {}        # file -> file -> [(line, path)]
        self.unresolved = []   # (file, line, path)
        for module in self.modules:
            self.imports(module)

    def lookup(self, module, name, seen):
        """What `name` means in `module`: a set of modules and files."""
        if (module, name) in seen:
            return set()
        seen = seen | {(module, name)}
        found = {module.file} if name in module.items else set()
        found |= {module.children[name]} if name in module.children else set()
        for path, alias, _, _ in module.uses:
            if alias == name:   # what comes from another crate belongs to this file
                found |= self.resolve(module, path, seen) or {module.file}
        if not found:
            for path, _, _ in module.globs:
                for target in self.resolve(module, path, seen):
                    if isinstance(target, Module):
                        found |= self.lookup(target, name, seen)
        return found or ({module.file} if name in module.guesses else set())

    def resolve(self, module, path, seen=frozenset()):
        """The modules and files that a path leads to; empty for another crate's."""
        first, rest = path[0], path[1:]
        if first == "crate":
            at = {module.root}
        elif first == "self":
            at = {module}
        elif first == "super":
            at = {module.parent} if module.parent else set()
        elif self.library and first == self.name and module.root is not self.library:
            at = {self.library}
        else:
            at = self.lookup(module, first, seen)
        for name in rest:
            modules = [m for m in at if isinstance(m, Module)]
            if not modules:
                break   # a variant or an associated item of what was found
            if name == "super":
                at = {m.parent for m in modules if m.parent}
            else:
                at = {f for m in modules for f in self.lookup(m, name, seen)}
        return at

    def imports(self, module):
        names = {}   # names that the code uses, with the first line
        paths = {}
        body = module.body
        for i, (token, line) in enumerate(body):
            if not IDENTIFIER.match(token) or i and body[i - 1][0] in ("::", "."):
                continue
            names.setdefault(token, line)
            path, j = [token], i + 1
            while j + 1 < len(body) and body[j][0] == "::" and IDENTIFIER.match(body[j + 1][0]):
                path.append(body[j + 1][0])
                j += 2
            if len(path) > 1:
                paths.setdefault(tuple(path), line)
        for path, alias, line, public in module.uses:
            for file in self.files(module, path, line):
                inside = any(m.file == file and m.within(module) for m in self.modules)
                if not (public and inside) or alias in names:
                    self.edge(module, file, line, path)
        for path, line, public in module.globs:
            for target in self.resolve(module, path):
                if not isinstance(target, Module):
                    self.edge(module, target, line, path)
                    continue
                for name in names.keys() - module.items - module.children.keys():
                    for file in self.lookup(target, name, frozenset()):
                        if not isinstance(file, Module):
                            self.edge(module, file, line, (*path, name))
        for path, line in paths.items():   # an imported type's `Type::new` is counted at its `use`
            if path[0] not in ("crate", "self", "super", self.name) and \
                    not any(isinstance(t, Module) for t in self.resolve(module, path[:1])):
                continue
            for file in self.files(module, path, line):
                self.edge(module, file, line, path)

    def files(self, module, path, line):
        found = self.resolve(module, path)
        if not found and path[0] in ("crate", "self", "super"):
            self.unresolved.append((module.file, line, "::".join(path)))
        return sorted(t for t in found if not isinstance(t, Module))

    def edge(self, module, file, line, path):
        if file != module.file:
            found = self.edges.setdefault(module.file, {}).setdefault(file, [])
            found.append((line, "::".join(path)))
