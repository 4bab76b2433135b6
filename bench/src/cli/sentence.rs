//! An error of the command line in one sentence.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Turns clap's error into one sentence: its first paragraph without the leading "error:", and its
/// suggestion if there is one. clap's usage text is left out; --help prints it.
pub(crate) fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no subcommand given; try 'bench --help'".to_owned();
    }
    let text = error.render().to_string();
    let first_paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let sentence = first_paragraph.map(str::trim).collect::<Vec<_>>().join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence).to_owned();
    let suggestion =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
            .into_iter()
            .find_map(|kind| match error.get(kind)? {
                ContextValue::String(text) => Some(text.clone()),
                ContextValue::Strings(texts) => texts.first().cloned(),
                _ => None,
            });
    match suggestion {
        Some(suggestion) => format!("{sentence}; did you mean '{suggestion}'?"),
        None => sentence,
    }
}
