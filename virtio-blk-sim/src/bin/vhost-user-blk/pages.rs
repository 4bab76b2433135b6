//! The manual page and the completions of the package. They are made from the definition of the
//! command line and kept in `packaging/generated`, so that a package can be built without this
//! code. These tests fail if the files are out of date; with `UPDATE_PAGES=1` in the environment
//! they write them instead.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::config::DaemonSpec;
use crate::control;
use crate::options::Options;
use crate::spec::DiskSpec;

const NAME: &str = "vhost-user-blk";

/// When the options were last changed in a way that the page should show.
const DATE: &str = "2026-11-28";

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// What clap makes of the command line, and the sections that are written by hand.
fn manual() -> Vec<u8> {
    // The text after the options is for the terminal. The page has it in sections of its own.
    let command = Options::command().after_help("");
    let man = Man::new(command);
    let version = env!("CARGO_PKG_VERSION");
    let title =
        format!(".TH vhost\\-user\\-blk 1 {DATE} \"vhost\\-user\\-blk {version}\" \"User Commands\"\n");
    let mut page = title.into_bytes();
    man.render_name_section(&mut page).unwrap();
    page.extend(std::fs::read(packaging("man/vhost-user-blk.1.description")).unwrap());
    let mut options = Vec::new();
    man.render_options_section(&mut options).unwrap();
    // Around an empty line, a line break is one too much.
    let options = String::from_utf8(options).unwrap().replace("\n.br\n\n.br\n", "\n.sp\n");
    page.extend(options.into_bytes());
    page.extend(std::fs::read(packaging("man/vhost-user-blk.1.sections")).unwrap());
    page
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Options::command(), NAME, &mut script);
    script
}

#[test]
fn the_generated_files_are_up_to_date() {
    let files = [
        ("vhost-user-blk.1", manual()),
        ("vhost-user-blk.bash", completions(Shell::Bash)),
        ("_vhost-user-blk", completions(Shell::Zsh)),
        ("vhost-user-blk.fish", completions(Shell::Fish)),
    ];
    for (name, wanted) in files {
        let path = packaging("generated").join(name);
        if std::env::var_os("UPDATE_PAGES").is_some() {
            std::fs::create_dir_all(packaging("generated")).unwrap();
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read(&path).unwrap_or_default();
        let hint = "UPDATE_PAGES=1 cargo test -p virtio-blk-sim --bin vhost-user-blk pages";
        assert!(found == wanted, "{}: out of date; write it again: {hint}", path.display());
    }
}

/// The keys that serde knows, from its error about one that it does not know.
fn keys<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let error = toml::from_str::<T>("no-such-key = 1").err().unwrap();
    let known = error.message().split_once("expected one of").unwrap().1.to_owned();
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Each name has a paragraph of its own in a page.
fn has_paragraphs_for<'a>(page: &str, names: impl IntoIterator<Item = &'a str>) {
    let text = std::fs::read_to_string(packaging("man").join(page)).unwrap();
    for name in names {
        let tag = format!("\n.TP\n.B {}", name.replace('-', "\\-"));
        let found = text.matches(&format!("{tag}\n")).count() + text.matches(&format!("{tag} ")).count();
        assert_eq!(found, 1, "{page}: {name}");
    }
}

#[test]
fn the_page_of_the_file_has_every_key() {
    let (daemon, disk) = (keys::<DaemonSpec>(), keys::<DiskSpec>());
    assert!(daemon.len() > 10 && disk.len() > 15, "{daemon:?} {disk:?}");
    // The key "loops" is in both tables.
    let mut all: Vec<&str> = daemon.iter().chain(&disk).map(String::as_str).collect();
    all.retain(|key| *key != "loops");
    has_paragraphs_for("vhost-user-blk.toml.5", all);
}

#[test]
fn the_page_of_the_control_socket_has_every_command() {
    has_paragraphs_for("vhost-user-blk-control.7", control::command_names());
}

/// The example of the package is a file that the program takes.
#[test]
fn the_example_is_a_configuration() {
    let path = packaging("vhost-user-blk.toml");
    let config = crate::config::read(&path, &Default::default()).unwrap();
    assert!(config.disks.is_empty(), "what is installed serves nothing by itself");
    // "#" without a space is a setting that is switched off. With these, it is one that has disks.
    let text = std::fs::read_to_string(&path).unwrap();
    let is_setting = |line: &&str| !line.starts_with([' ', '\n']) && !line.is_empty();
    let on = |line| str::strip_prefix(line, "#").filter(is_setting).unwrap_or(line);
    let without: Vec<&str> = text.lines().map(on).collect();
    let copy = std::env::temp_dir().join(format!("vhost-user-blk-{}.toml", std::process::id()));
    std::fs::write(&copy, without.join("\n")).unwrap();
    let config = crate::config::read(&copy, &Default::default());
    std::fs::remove_file(&copy).unwrap();
    assert_eq!(config.unwrap().disks.len(), 2);
}
