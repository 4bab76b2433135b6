//! `bench compare A.json B.json`: two reports of one benchmark, arm by arm. Is B worse than A?

use crate::cli::value;
use crate::error::Error;
use crate::report::compared::{self, Limits};
use crate::report::saved::Document;
use crate::report::{Sink, html};
use clap::Args;
use std::path::PathBuf;

/// Options of `bench compare`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// The earlier report (from --json)
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The later report
    #[arg(value_name = "B.json")]
    after: PathBuf,
    /// Largest acceptable regression, in percent
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = value::percent)]
    threshold: f64,
    /// Compare only these metrics, such as iops,device_cpu_ns [default: all but the outer
    /// quantiles]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    metrics: Vec<String>,
    /// Also write an HTML page with B and its differences from A; - is stdout, and the text then
    /// goes to stderr
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print Markdown
    #[arg(long)]
    markdown: bool,
}

/// Runs the subcommand; returns the exit code.
pub(crate) fn run(args: &CompareArgs) -> Result<u8, Error> {
    let page = args.html.as_deref().map(|path| Sink::create("--html", path)).transpose()?;
    let stream = Sink::text_stream(&page);
    let before = Document::read("A.json", &args.before)?;
    let after = Document::read("B.json", &args.after)?;
    let limits = Limits { threshold: args.threshold, metrics: args.metrics.clone() };
    let compared = compared::documents(&before, &after, &limits)?;
    if let Some(page) = page {
        page.write(&html::render(&after, Some(&compared)))?;
    }
    stream.print(&if args.markdown { compared.markdown() } else { compared.text(stream.is_coloured()) })?;
    Ok(compared.exit_code())
}
