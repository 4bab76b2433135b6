//! The question of a benchmark and its answer: the first and the last thing that a reader sees.
//! Made from the report, so the terminal, the page and Markdown agree.

use super::number::range;
use super::one_percent::{asked, outcomes, share};
use super::saved::{Document, Entry};
use crate::measure::{Comparison, Verdict, saved};
use std::fmt::Write as _;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) question: &'static str,
    /// One sentence, with its interval.
    pub(crate) sentence: String,
    /// The verdict of the comparison that was asked about, or how often there was which verdict.
    /// Without a comparison it is empty.
    pub(crate) verdicts: Vec<(Verdict, usize)>,
}

/// The answer of a report.
pub(crate) fn of(document: &Document) -> Answer {
    let question = question(&document.benchmark);
    let found = match document.benchmark.as_str() {
        "one-percent" => one_percent(document),
        "virtio-blk" => without_the_read(document, "iops", "per request", |group| {
            group
                .iter()
                .find(|entry| entry.baseline.as_deref().is_some_and(|base| base.ends_with("/classic")))
        }),
        "eventfd" => without_the_read(document, "time_ns", "per notification", |group| {
            group.iter().find(|entry| entry.case == EDGE)
        }),
        "loops" => loops(document),
        _ => None,
    };
    let (sentence, verdicts) = found.unwrap_or_else(|| {
        let first = document.conclusions.first().map_or("Nothing was measured.", String::as_str);
        (lead(first), Vec::new())
    });
    Answer { question, sentence, verdicts }
}

/// The operation of `bench eventfd` whose baseline differs only in its read(2) and its triggering.
const EDGE: &str = "write + epoll_wait edge, no read";

fn question(benchmark: &str) -> &'static str {
    match benchmark {
        "one-percent" => {
            "Does leaving out the read(2) of an eventfd save 1% of a virtio-blk iteration of 100 us, as was \
             proposed in 2020?"
        }
        "virtio-blk" => "Is a virtio-blk request cheaper if its eventfds are never read?",
        "eventfd" => "What does a read(2) of an eventfd cost, and what is saved without it?",
        "loops" => "Does an event cost less on aio than on other event loops?",
        "vhost-user" => "How do these vhost-user-blk servers compare?",
        "flow-control" => "What does a maximum of an event count do to its producer and its latency?",
        "scale" => "Does an event cost more if many others are registered?",
        _ => "What was found?",
    }
}

type Found = (String, Vec<(Verdict, usize)>);

fn one_percent(document: &Document) -> Option<Found> {
    let found = outcomes(&document.results);
    let verdict = asked(&found)?.verdict()?;
    let sentence = super::one_percent::conclusions(&found, &[]).into_iter().next()?;
    let sentence = sentence.split(" Verdict: ").next()?.to_owned();
    Some((sentence, vec![(verdict, 1)]))
}

/// What the first arm without the read saves, in the first group that has one.
fn without_the_read(
    document: &Document,
    metric: &str,
    per: &str,
    arm: impl Fn(&[Entry]) -> Option<&Entry>,
) -> Option<Found> {
    let (entry, versus) = document
        .groups()
        .find_map(|group| arm(group).and_then(|entry| Some((entry, entry.versus(metric)?))))?;
    let better = entry.metrics.get(metric)?.better;
    let saved = saved(versus.ratio?, better);
    let interval = saved.interval.map_or_else(
        || "too few rounds for an interval".to_owned(),
        |interval| format!("95% interval {}", range(interval, share)),
    );
    let sentence = format!(
        "Without the read, {} saves {} of the time {per} against {} ({interval}), {}.",
        entry.case,
        share(saved.median),
        entry.baseline.as_deref()?,
        entry.group,
    );
    Some((sentence, vec![(versus.verdict, 1)]))
}

/// The metrics of `bench loops` with the time of aio, and the loops' names.
const OURS: [(&str, &str); 2] = [("aio_epoll_ns", "epoll"), ("aio_io_uring_ns", "io_uring")];

fn loops(document: &Document) -> Option<Found> {
    let peers = || document.results.iter().filter(|entry| !entry.case.starts_with("raw "));
    let mut verdicts = Vec::new();
    let mut parts = Vec::new();
    for (metric, monitor) in OURS {
        let all: Vec<&Comparison> = peers().filter_map(|entry| entry.versus(metric)).collect();
        if all.is_empty() {
            continue;
        }
        let less = all.iter().filter(|versus| versus.verdict == Verdict::Saves).count();
        parts.push(format!("aio on {monitor} saves in {less} of {}", all.len()));
        verdicts.extend(all.iter().map(|versus| versus.verdict));
    }
    (!parts.is_empty()).then(|| {
        let sentence = format!("Per event, {} comparisons with other event loops.", parts.join(" and "));
        (sentence, tally(verdicts))
    })
}

/// How often there is which verdict.
pub(crate) fn tally(verdicts: impl IntoIterator<Item = Verdict>) -> Vec<(Verdict, usize)> {
    let verdicts: Vec<Verdict> = verdicts.into_iter().collect();
    let count = |wanted: Verdict| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    Verdict::ALL
        .into_iter()
        .map(|verdict| (verdict, count(verdict)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// If the first sentence is longer, only its first part is the answer.
const LONGEST: usize = 300;

/// A sentence, or its first part if it is too long for the answer.
fn lead(sentence: &str) -> String {
    match sentence.split_once("; ") {
        Some((first, _)) if sentence.chars().count() > LONGEST => format!("{first}."),
        _ => sentence.to_owned(),
    }
}

impl Answer {
    /// `saves`, or `saves in 12, costs in 1` if there were several comparisons.
    pub(crate) fn verdict(&self) -> Option<String> {
        match self.verdicts.as_slice() {
            [] => None,
            [(verdict, 1)] => Some(verdict.to_string()),
            several => {
                let words = several.iter().map(|(verdict, count)| format!("{verdict} in {count}"));
                Some(words.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Question, answer and verdict, a line each.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.question, self.sentence);
        if let Some(verdict) = self.verdict() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "Verdict: {verdict}.");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Document {
        Document::parse(include_str!("../one_percent/golden/first.json")).unwrap()
    }

    #[test]
    fn the_answer_of_one_percent_is_the_proposals_iteration() {
        let answer = of(&golden());
        assert!(answer.question.ends_with("as was proposed in 2020?"), "{answer:?}");
        assert_eq!(answer.verdict().as_deref(), Some("no difference that could be seen"));
        let lines: Vec<String> = answer.text().lines().map(str::to_owned).collect();
        assert!(lines[1].starts_with("Of an iteration of 105 us") && lines[1].ends_with("less than 1%)."));
        assert_eq!(lines[2], "Verdict: no difference that could be seen.");
    }

    #[test]
    fn the_answer_of_loops_counts_its_comparisons() {
        // A peer that takes twice as long, one that cannot be told apart, and the bare calls.
        let row = |case: &str, low: f64, high: f64| {
            let ratio = format!(r#"{{"median":{low},"interval":{{"low":{low},"high":{high}}}}}"#);
            format!(
                r#"{{"group":"g","case":"{case}","status":"measured","reason":null,"baseline":null,"metrics":{{"aio_epoll_ns":
                {{"unit":"ns","better":"lower","n":6,"median":1.0,"mad":0.0,"min":1.0,"max":1.0,"values":[1.0],"versus":
                {{"pairs":6,"difference":{ratio},"ratio":{ratio},"verdict":"saves"}}}}}}}}"#
            )
        };
        let rows = [row("mio", 0.49, 0.51), row("tokio", 0.8, 1.3), row("raw epoll, read", 1.4, 1.5)];
        let json = format!(
            r#"{{"schema":"bench/2","benchmark":"loops","command":"","workload":null,"complete":true,"environment":{{}},
            "conclusions":[],"results":[{}]}}"#,
            rows.join(",")
        );
        let answer = of(&Document::parse(&json).unwrap());
        assert_eq!(
            answer.sentence,
            "Per event, aio on epoll saves in 1 of 2 comparisons with other event loops."
        );
        assert_eq!(answer.verdict().as_deref(), Some("saves in 1, inconclusive in 1"));
    }

    #[test]
    fn without_a_comparison_the_first_sentence_is_the_answer() {
        let mut document = golden();
        document.benchmark = "scale".to_owned();
        document.conclusions = vec!["It is so.".to_owned()];
        let answer = of(&document);
        assert_eq!((answer.sentence.as_str(), answer.verdict()), ("It is so.", None));
        document.conclusions.clear();
        assert_eq!(of(&document).sentence, "Nothing was measured.");
    }
}
