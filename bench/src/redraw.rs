//! `bench report FILE.json`: a saved report, presented again: as text, as Markdown, as a page.

use crate::error::Error;
use crate::report::saved::Document;
use crate::report::{Sink, answer, html, markdown};
use clap::Args;
use std::path::PathBuf;

/// Options of `bench report`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReportArgs {
    /// A report from --json, of this version or an older one
    #[arg(value_name = "FILE.json")]
    file: PathBuf,
    /// Write the HTML page; - is stdout, and the text then goes to stderr
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print Markdown
    #[arg(long)]
    markdown: bool,
}

/// Runs the subcommand; returns the exit code.
pub(crate) fn run(args: &ReportArgs) -> Result<u8, Error> {
    let page = args.html.as_deref().map(|path| Sink::create("--html", path)).transpose()?;
    let stream = Sink::text_stream(&page);
    let document = Document::read("FILE.json", &args.file)?;
    if let Some(page) = page {
        page.write(&html::render(&document, None))?;
    }
    let text = if args.markdown {
        markdown::render(&document)
    } else {
        let rest: String = document.conclusions.iter().map(|sentence| format!("{sentence}\n")).collect();
        format!("{}\n{rest}", answer::of(&document).text())
    };
    stream.print(&text)?;
    Ok(0)
}
