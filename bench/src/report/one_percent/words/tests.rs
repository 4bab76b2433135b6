use super::*;
use crate::report::one_percent::lab::savings;
use crate::report::one_percent::model::outcomes;
use crate::report::one_percent::model::tests::{arm, cell, cell_with_level};
use crate::report::saved::{Document, Entry};

fn sweep() -> Vec<Entry> {
    [
        cell("null", 4_000.0, 200.0),
        cell("spin 10us", 14_000.0, 200.0),
        cell("spin 20us", 19_950.0, 200.0),
        cell("spin 100us", 104_000.0, 200.0),
    ]
    .concat()
}

/// The same, but 300 ns are saved. 100 of them are level triggering, measured in the simplest cell.
fn sweep_with_level() -> Vec<Entry> {
    [
        cell_with_level("null", 4_000.0, 200.0, 100.0),
        cell("spin 10us", 14_000.0, 300.0),
        cell("spin 20us", 24_000.0, 300.0),
    ]
    .concat()
}

fn words(entries: &[Entry]) -> Vec<String> {
    conclusions(&outcomes(entries), &[])
}

#[test]
fn the_answer_is_about_the_saving_that_was_asked_about() {
    let words = words(&sweep());
    assert_eq!(
        words[0],
        "Of an iteration of 104 us, as in the proposal, leaving out the read(2) saves 0.19% (95% interval -0.01% to \
         0.39%: less than 1%). Verdict: no difference that could be seen."
    );
    let answer = |saved_ns| {
        conclusions(
            &outcomes(&[cell("null", 4_000.0, 200.0), cell("spin 100us", 104_000.0, saved_ns)].concat()),
            &[],
        )
        .swap_remove(0)
    };
    assert!(answer(2_080.0).contains(": at least 1%). Verdict: saves."), "{}", answer(2_080.0));
    assert!(answer(1_040.0).contains(": 1% is possible and so is less). Verdict: saves."));
    assert!(answer(10.0).ends_with(": less than 1%). Verdict: no difference that could be seen."));
}

#[test]
fn the_price_is_arithmetic_on_the_read_in_place() {
    let words = words(&sweep());
    assert!(
        words[1].starts_with("A read(2) of an eventfd costs 200 ns inside the loop here (epoll, "),
        "{words:?}"
    );
    assert!(words[1].ends_with("and 0.20% of the proposal's 100 us."), "{words:?}");
    assert!(words[1].contains("is 1% of an iteration of 20.0 us, more of a shorter"), "{words:?}");
}

#[test]
fn where_one_percent_is_reached_follows_from_the_intervals() {
    let words = words(&sweep());
    let reached = words.iter().find(|sentence| sentence.starts_with("On one CPU")).unwrap();
    assert_eq!(
        reached,
        "On one CPU, by length of the iteration: at least 1% was saved at 4.00, 14.0 us; less than 1% at 104 us; undecided \
         at 19.9 us."
    );
}

#[test]
fn no_cell_is_picked_out_for_its_size() {
    let words = words(&sweep()).join("\n");
    assert!(!words.contains("largest"), "{words}");
    assert!(
        words.contains("Whether an iteration is shorter without the read, over all 4 cells: saves in 3, no difference that could be seen in 1. The verdicts hold together"),
        "{words}"
    );
}

#[test]
fn a_cell_outside_its_prediction_is_explained() {
    let mut entries = cell("null", 4_000.0, 500.0);
    let sentence = |entries: &[Entry]| words(entries).pop().unwrap();
    assert!(
        sentence(&entries).contains("an edge also saves the cost of level triggering"),
        "{}",
        sentence(&entries)
    );
    assert!(sentence(&entries).starts_with("More than predicted: epoll, null"), "{}", sentence(&entries));
    // The same saving, but one system call other than the read is saved too.
    let syscalls = entries[2].metrics.get_mut("syscalls").unwrap();
    syscalls.summary.median = 1.0;
    assert!(sentence(&entries).contains("1.00 system calls per request other than reads were saved too"));
    entries[2].metrics.get_mut("kicks").unwrap().summary.median = 0.5;
    assert!(sentence(&entries).contains("The guest kicked 0.50 times per request instead of 1.00"));
}

#[test]
fn the_parts_of_a_saving_are_listed_if_all_were_measured() {
    let words = words(&sweep_with_level());
    assert!(
        words[1].starts_with(
            "Of the 300 ns of CPU that epoll/edge saves in the simplest iteration on one CPU (0), the read(2) is 200 ns (19"
        ),
        "{words:?}"
    );
    assert!(words[1].contains(" and level triggering is 100 ns (9"), "{words:?}");
    assert!(
        words[1].ends_with(" Measured with one more read, t_read is 200 ns (196 to 204), which agrees."),
        "{words:?}"
    );
    let ways = words.iter().find(|sentence| sentence.starts_with("The prediction was")).unwrap();
    assert!(
        ways.contains("Time: 0 of 3 cells agree")
            && ways.contains("The device's CPU time: 0 of 3 agree, 0 are inconclusive."),
        "{ways}"
    );
    assert!(
        ways.ends_with(
            "With the cost of level triggering included, 3 of 3 agree in time and 3 of 3 in the device's CPU time."
        ),
        "{ways}"
    );
    let last = words.last().unwrap();
    assert!(
        last.starts_with("More than predicted: epoll, null on one CPU (0), 7.5% (")
            && last.matches("; ").count() == 2,
        "{last}"
    );
    assert!(
        last.contains(
            "The reason is level triggering (a second check of the descriptor in the next epoll_wait): with the same"
        ),
        "{last}"
    );

    // A second read costs less than the only one.
    let mut entries = sweep_with_level();
    entries.truncate(4);
    entries[1] = arm(
        &entries[0].group.clone(),
        "epoll/classic + a read",
        1e9 / 4_150.0,
        2_150.0,
        2.0,
        Some((250_000.0, 2_000.0)),
    );
    let parts = conclusions(&outcomes(&entries), &[]).swap_remove(1);
    assert!(parts.contains("Measured with one more read, t_read is 150 ns (1"), "{parts}");
    assert!(parts.ends_with("which does not agree, because it is a second read in a row."), "{parts}");
}

#[test]
fn the_parts_of_a_saving_are_not_listed_if_one_of_them_is_below_the_noise() {
    let parts =
        |entries: &[Entry]| words(entries).into_iter().any(|sentence| sentence.starts_with("Of the "));
    assert!(parts(&sweep_with_level()));
    assert!(!parts(&sweep()));
    assert!(!parts(&cell_with_level("null", 4_000.0, 200.0, 0.0)));
    assert!(!parts(&cell_with_level("null", 4_000.0, 0.0, 100.0)));
}

#[test]
fn an_unexplained_rest_is_printed_with_its_cell() {
    let last = |saved_ns| {
        let entries = [cell_with_level("null", 4_000.0, 200.0, 100.0), cell("spin 10us", 14_000.0, saved_ns)];
        words(&entries.concat()).pop().unwrap()
    };
    assert!(
        last(500.0).contains("instead of 1.4% (200 ns of CPU more than read and level triggering). The"),
        "{}",
        last(500.0)
    );
    assert!(
        last(250.0).contains("instead of 1.4% (50.0 ns of CPU less than read and level triggering). The"),
        "{}",
        last(250.0)
    );
}

#[test]
fn time_that_is_not_cpu_time_is_explained_by_waking_up() {
    let group = "epoll, null, iodepth 1 on one CPU (0)";
    let mut entries = cell("null", 4_000.0, 200.0);
    entries[2] = arm(group, "epoll/edge", 1e9 / 3_000.0, 1_800.0, 0.0, Some((250_000.0, 2_000.0)));
    let last = words(&entries).pop().unwrap();
    assert!(last.contains("The difference is in the time between the threads"), "{last}");
    // Less CPU and less time than the read alone would have taken: no rule covers that.
    let entries = cell("null", 4_000.0, 20.0);
    let last = words(&entries).pop().unwrap();
    assert!(last.starts_with("Less than predicted") && last.contains("-180 ns per request"), "{last}");
}

#[test]
fn a_read_cost_below_the_noise_is_reported_as_such() {
    let mut entries = cell("null", 4_000.0, 200.0);
    let cpu = entries[1].metrics.get_mut("device_cpu_ns").unwrap();
    cpu.versus.as_mut().unwrap().difference = Estimate { median: -3.0, interval: None };
    let words = words(&entries);
    let words = words.iter().find(|sentence| sentence.starts_with("The cost")).unwrap();
    assert!(words.contains("could not be distinguished from zero (-3.00 ns)"), "{words:?}");
}

/// An arm that still reads once in four requests, for example because it lost a race.
#[test]
fn reads_in_the_autoreset_arm_do_not_count_as_saved() {
    let mut entries = sweep();
    entries[2].metrics.get_mut("reads").unwrap().summary.median = 0.25;
    let outcomes = outcomes(&entries);
    assert!((outcomes[0].reads_saved() - 0.75).abs() < 1e-9);
    assert!(
        (outcomes[0].predicted.unwrap().median - 0.75 * 0.05).abs() < 0.001,
        "{:?}",
        outcomes[0].predicted
    );
    let words = conclusions(&outcomes, &[]);
    let ways = words.iter().find(|sentence| sentence.starts_with("The prediction was")).unwrap();
    assert!(ways.ends_with("Counts: 3 of 4 made no read in the arm without reads."), "{ways}");
}

/// A cell that cannot measure its own t_read takes it from the simplest cell of the same place, not
/// from the first cell.
#[test]
fn a_borrowed_read_comes_from_the_same_place() {
    let moved = |entries: Vec<Entry>| -> Vec<Entry> {
        let place = |mut entry: Entry| {
            entry.group = entry.group.replace("one CPU (0)", "two CPUs (0, 1)");
            entry
        };
        entries.into_iter().map(place).collect()
    };
    let mut there = moved(cell("null", 4_000.0, 200.0));
    // 400 ns there: the dose adds only half a read.
    there[1].metrics.get_mut("reads").unwrap().summary.median = 1.5;
    let mut other = moved(cell("spin 100us", 104_000.0, 200.0));
    other.remove(1);
    let outcomes = outcomes(&[cell("null", 4_000.0, 200.0), there, other].concat());
    let read =
        |index: usize| (outcomes[index].read_ns.unwrap().median.round(), outcomes[index].read_is_borrowed);
    assert_eq!([read(0), read(1), read(2)], [(200.0, false), (400.0, false), (400.0, true)]);
}

#[test]
fn the_kernel_lab_is_a_sentence_with_a_part_for_each_kernel() {
    let savings = |kernel: &str, monitor: &str, reset: &str, autoreset| Savings {
        kernel: kernel.to_owned(),
        monitor: monitor.to_owned(),
        reset: reset.to_owned(),
        classic: 10_000.0,
        autoreset,
    };
    let lab = [
        savings("stock", "epoll", "edge", 9_400.0),
        savings("stock", "io_uring", "edge", 9_000.0),
        savings("0001", "poll", "kernel-flag", 9_501.0),
    ];
    let words = conclusions(&outcomes(&sweep()), &lab);
    assert!(
        words.contains(
            &"The kernel lab counted the instructions that are saved per request: on the stock kernel 600 (6.0%) by \
              epoll/edge, 1,000 (10.0%) by io_uring/edge; with patch 0001 499 (5.0%) by poll/kernel-flag."
                .to_owned()
        ),
        "{words:?}"
    );
}

#[test]
fn without_results_there_are_no_sentences() {
    assert!(conclusions(&[], &[]).is_empty());
    assert!(words(&sweep()[..1]).iter().all(|sentence| !sentence.contains("NaN")));
}

#[test]
fn shares_have_two_decimals_below_one_percent() {
    assert_eq!(
        [share(0.098), share(0.0021), share(0.00994), share(-0.0005)],
        ["9.8%", "0.21%", "0.99%", "-0.05%"]
    );
}

/// Reports of two runs on one machine. The sentences must follow from the numbers, and both runs
/// must give the same answer.
#[test]
fn the_sentences_of_saved_reports_follow_from_their_numbers() {
    let mut told: Vec<Vec<(String, Option<bool>)>> = Vec::new();
    for name in ["first", "second"] {
        let path = format!("{}/src/one_percent/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let document = Document::parse(&text).unwrap();
        let found = outcomes(&document.results);
        let sentences = conclusions(&found, &savings(&document.results));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            update(&path, &text, &document, &sentences);
        } else {
            assert_eq!(sentences, document.conclusions, "UPDATE_GOLDEN=1 writes them again");
        }
        let reached = |outcome: &Outcome| {
            let bound = outcome.saved?.interval?;
            let (more, less) = (bound.low >= PROPOSED_SHARE, bound.high < PROPOSED_SHARE);
            (more || less).then_some(more)
        };
        // For each loop with edges the cost of level triggering is known, and in the simplest
        // iteration it explains the saving.
        let simplest = |outcome: &&Outcome| outcome.cell.is_simplest() && outcome.on_one_cpu();
        for outcome in found.iter().filter(simplest).filter(|outcome| outcome.cell.edge().is_some()) {
            assert!(!outcome.level_is_borrowed && outcome.cpu_agrees_by_edges(), "{}", outcome.name());
        }
        told.push(found.iter().map(|outcome| (outcome.name(), reached(outcome))).collect());
    }
    assert!(told[0].len() > 20);
    for ((name, first), (other, second)) in told[0].iter().zip(&told[1]) {
        assert_eq!(name, other);
        // One run may decide what the other cannot, but they must not contradict each other.
        assert!(first.is_none() || second.is_none() || first == second, "{name}: {first:?} and {second:?}");
    }
}

/// Writes the sentences and verdicts of a saved report again, in the present format.
fn update(path: &str, text: &str, document: &Document, sentences: &[String]) {
    let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
    json["schema"] = crate::report::json::SCHEMA.into();
    json["conclusions"] = sentences.into();
    for (row, entry) in json["results"].as_array_mut().unwrap().iter_mut().zip(&document.results) {
        for (name, metric) in &entry.metrics {
            if let Some(versus) = metric.versus {
                row["metrics"][name]["versus"]["verdict"] = serde_json::to_value(versus.verdict).unwrap();
            }
        }
    }
    std::fs::write(path, json.to_string() + "\n").unwrap();
}
