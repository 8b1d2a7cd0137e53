//! The end of the demo: the table of full against resumed, the JSON object, and one line that says
//! whether it all held.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::Result;
use serde::Serialize;

use super::{
    findings::{self, Cost, Login, Story},
    teller::grouped,
};

/// Prints the table and the verdict, and with `as_json` the object on stdout and the rest on stderr.
pub(super) fn give(story: &Path, cost: &Path, as_json: bool) -> Result<bool> {
    let story: Story = findings::read(story)?;
    // Without the measurement the story can still be told to its end.
    let cost: Option<Cost> = findings::read(cost).ok();
    let mut text = table(&story, cost.as_ref());
    let failures = failures(&story, cost.as_ref(), native_expected());
    if failures.is_empty() {
        text += "\nThe tunnel came back by its ticket, through a dead gateway and a flood, and \
                 nothing left in clear.\n";
    } else {
        text += "\nNOT SHOWN: ";
        text += &failures.join("; ");
        text += ".\n";
    }
    if as_json {
        eprint!("{text}");
        let demo = BTreeMap::from([("demo", Demo::of(&story, cost.as_ref()))]);
        println!("{}", serde_json::to_string(&demo)?);
    } else {
        print!("{text}");
    }
    Ok(failures.is_empty())
}

fn table(story: &Story, cost: Option<&Cost>) -> String {
    let column = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let trips = |login: &Login| (login.messages / 2).to_string();
    let octets = |login: &Login| grouped(login.octets);
    let cpu = |microseconds: f64| format!("{microseconds:.0} us");
    let among = cost.map_or_else(|| "many".to_owned(), |cost| cost.at_once.to_string());
    let rows = [
        (
            "round trips".to_owned(),
            story.full.as_ref().map(trips),
            story.quiet.as_ref().map(trips),
        ),
        (
            "octets of UDP payload, both ways".to_owned(),
            story.full.as_ref().map(octets),
            story.quiet.as_ref().map(octets),
        ),
        (
            "CPU time of the gateway, alone".to_owned(),
            cost.map(|cost| cpu(cost.full)),
            cost.map(|cost| cpu(cost.resume)),
        ),
        (
            format!("CPU time of the gateway, {among} at once"),
            cost.map(|cost| cpu(cost.full_at_once)),
            cost.map(|cost| cpu(cost.resume_at_once)),
        ),
    ];
    let mut text = format!(
        "\n  {:<36}{:>10}{:>12}\n",
        "one login, pre-shared key", "full", "resumed"
    );
    for (name, full, resumed) in rows {
        let (full, resumed) = (column(full), column(resumed));
        let _infallible = writeln!(text, "  {name:<36}{full:>10}{resumed:>12}");
    }
    if let Some(cost) = cost {
        let whose = match cost.kernel.as_str() {
            "host" => "this machine's own kernel",
            _ => "the lab's kernel, for want of root: compare the columns, not with other machines",
        };
        let _infallible = writeln!(
            text,
            "  CPU: {} of {} logins of each kind, and of crowds, on {whose}, without data plane and gate",
            cost.average, cost.logins
        );
    }
    text
}

/// Why the demo has not shown what it is to show. Empty if it has.
fn failures(story: &Story, cost: Option<&Cost>, native_expected: bool) -> Vec<String> {
    let mut failures = Vec::new();
    let mut check = |held: bool, what: &str| {
        if !held {
            failures.push(what.to_owned());
        }
    };
    check(story.held, "a step of the story failed");
    check(
        !native_expected || story.gate.as_deref() == Some("native"),
        "the gate was not native",
    );
    // Where no gate can be had, there is nothing that could turn forgeries away.
    if native_expected || story.gate.as_deref() != Some("none") {
        let dropped = story
            .flood
            .is_some_and(|flood| at_least_95_percent(flood.dropped_by_gate, flood.sent));
        check(dropped, "the gate dropped less than 95 % of the forged");
    }
    let reached = story
        .without_gate
        .is_some_and(|flood| at_least_95_percent(flood.reached_daemon(), flood.delivered));
    check(
        reached,
        "without gate, less than 95 % of what the kernel delivered reached the daemon",
    );
    check(cost.is_some(), "the CPU time was not measured");
    failures
}

const fn at_least_95_percent(part: u64, whole: u64) -> bool {
    whole > 0 && part * 100 >= whole * 95
}

/// The one object of `--json`. What was not reached is null.
#[derive(Serialize)]
struct Demo<'a> {
    kernel: &'a str,
    gate: &'a str,
    full_ms: Option<f64>,
    resume_ms: Option<f64>,
    full_gateway_cpu_us: Option<f64>,
    resume_gateway_cpu_us: Option<f64>,
    full_octets: Option<u64>,
    resume_octets: Option<u64>,
    ping_before: bool,
    ping_after: bool,
    resumed: bool,
    clear_text_packets: Option<u64>,
    forged_sent: Option<u64>,
    forged_dropped_by_gate: Option<u64>,
    forged_reached_daemon: Option<u64>,
    forged_reached_daemon_without_gate: Option<u64>,
}

impl<'a> Demo<'a> {
    fn of(story: &'a Story, cost: Option<&Cost>) -> Self {
        let tenth = |number: f64| (number * 10.0).round() / 10.0;
        let milliseconds = |login: Login| tenth(login.milliseconds);
        Self {
            kernel: &story.kernel,
            gate: story.gate.as_deref().unwrap_or("none"),
            full_ms: story.full.map(milliseconds),
            resume_ms: story.resume.map(milliseconds),
            full_gateway_cpu_us: cost.map(|cost| tenth(cost.full)),
            resume_gateway_cpu_us: cost.map(|cost| tenth(cost.resume)),
            full_octets: story.full.map(|login| login.octets),
            resume_octets: story.quiet.map(|login| login.octets),
            ping_before: story.ping_before,
            ping_after: story.ping_after,
            resumed: story.resume.is_some(),
            clear_text_packets: story.clear_text_packets,
            forged_sent: story.flood.map(|flood| flood.sent),
            forged_dropped_by_gate: story.flood.map(|flood| flood.dropped_by_gate),
            forged_reached_daemon: story.flood.map(|flood| flood.reached_daemon()),
            forged_reached_daemon_without_gate: story
                .without_gate
                .map(|flood| flood.reached_daemon()),
        }
    }
}

/// Everything that the native gate needs is there on Debian 12; on other systems it may be missing.
fn native_expected() -> bool {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |line: &str| text.lines().any(|own| own.replace('"', "") == line);
    has("ID=debian") && has("VERSION_ID=12")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::findings::Flood;

    fn good() -> (Story, Cost) {
        let login = Login {
            milliseconds: 12.34,
            messages: 4,
            octets: 1000,
        };
        let flood = Flood {
            sent: 100,
            dropped_by_gate: 95,
            ..Flood::default()
        };
        let without = Flood {
            sent: 100,
            delivered: 80,
            refused: 70,
            overflowed: 6,
            ..Flood::default()
        };
        let story = Story {
            kernel: "uml".to_owned(),
            gate: Some("native".to_owned()),
            full: Some(login),
            quiet: Some(login),
            resume: Some(login),
            ping_before: true,
            ping_after: true,
            clear_text_packets: Some(0),
            flood: Some(flood),
            without_gate: Some(without),
            held: true,
        };
        let cost = Cost {
            kernel: "host".to_owned(),
            logins: 200,
            average: "median".to_owned(),
            full: 1000.0,
            resume: 100.0,
            at_once: 64,
            full_at_once: 100.0,
            resume_at_once: 40.0,
        };
        (story, cost)
    }

    #[test]
    fn whatever_is_missing_is_a_failure() {
        let (story, cost) = good();
        assert_eq!(failures(&story, Some(&cost), true), Vec::<String>::new());
        assert_eq!(failures(&story, None, true).len(), 1);
        let broken: [fn(&mut Story); 6] = [
            |story| story.held = false,
            |story| story.gate = Some("generic".to_owned()),
            |story| story.flood = None,
            |story| story.flood.as_mut().expect("set").dropped_by_gate = 94,
            |story| story.without_gate = None,
            |story| story.without_gate.as_mut().expect("set").refused = 69,
        ];
        for break_it in broken {
            let mut story = story.clone();
            break_it(&mut story);
            assert_eq!(failures(&story, Some(&cost), true).len(), 1, "{story:?}");
        }
    }

    #[test]
    fn elsewhere_the_gate_may_be_generic_or_missing() {
        let (mut story, cost) = good();
        story.gate = Some("none".to_owned());
        story.flood = None;
        assert_eq!(failures(&story, Some(&cost), false), Vec::<String>::new());
    }

    #[test]
    fn a_story_that_broke_off_has_all_its_keys() {
        let story = Story::default();
        let text = serde_json::to_value(Demo::of(&story, None)).expect("plain data");
        assert_eq!(text["resumed"], false);
        assert!(text["full_ms"].is_null());
        assert_eq!(text.as_object().map(serde_json::Map::len), Some(16));
    }
}
