//! Counters and gauges in the text form that Prometheus and its kin read, for a timer that writes
//! them to a file or a script behind a socket. Labels are words of ours: nobody outside can add one.

use std::fmt::{Display, Write as _};

use ikectl_api::{ConnectionTraffic, Flood, Gate, Outcome, Reply, Status};

use crate::ask::printable;

/// The levels in order; the gauge is the place in this list.
const LEVELS: [&str; 3] = ["calm", "guarded", "attack"];

/// All that the daemon's replies have to say.
pub(crate) fn text(replies: &[Reply]) -> String {
    let mut page = Page(String::new());
    for reply in replies {
        match &reply.outcome {
            Outcome::Status(status) => page.status(status),
            Outcome::Gate(gate) => page.gate(gate),
            Outcome::Flood(flood) => page.flood(flood),
            Outcome::Traffic(all) => page.traffic(all),
            _ => {}
        }
    }
    page.0
}

struct Page(String);

impl Page {
    fn status(&mut self, status: &Status) {
        self.gauge(
            "uptime_seconds",
            "Since the engine started",
            status.uptime_seconds,
        );
        self.family("ike_sas", "gauge", "IKE SAs, by state");
        let states = [
            ("established", status.ike_sas_established),
            ("half_open", status.ike_sas_half_open),
            ("suspended", status.suspended),
        ];
        for (state, count) in states {
            self.sample("ike_sas", &[("state", state)], count);
        }
        self.gauge("child_sas", "Child SAs in the kernel", status.child_sas);
        self.family(
            "logins_total",
            "counter",
            "Logins since the engine started, by kind",
        );
        let logins = [
            ("full", status.full_logins),
            ("resumed", status.resumed_logins),
            ("failed", status.failed_logins),
        ];
        for (kind, count) in logins {
            self.sample("logins_total", &[("kind", kind)], count);
        }
        self.family(
            "tickets_total",
            "counter",
            "Tickets since the engine started",
        );
        let tickets = [
            ("issued", status.tickets_issued),
            ("refused", status.tickets_refused),
        ];
        for (what, count) in tickets {
            self.sample("tickets_total", &[("what", what)], count);
        }
        let help = "Messages that took no SA further, by reason";
        self.family("messages_total", "counter", help);
        for (reason, count) in &status.counters {
            self.sample("messages_total", &[("reason", reason)], count);
        }
        self.family("gate_mode", "gauge", "How the gate is attached");
        self.sample("gate_mode", &[("mode", &status.gate_mode)], 1);
    }

    fn gate(&mut self, gate: &Gate) {
        let help = "Packets that the gate judged, by verdict and reason";
        self.family("gate_packets_total", "counter", help);
        for one in &gate.counters {
            let labels = [("verdict", &*one.verdict), ("reason", &*one.reason)];
            self.sample("gate_packets_total", &labels, one.packets);
        }
        let help = "Datagrams that came to each lane of the sockets";
        self.family("lane_packets_total", "counter", help);
        for one in &gate.lanes {
            self.sample("lane_packets_total", &[("lane", &one.lane)], one.packets);
        }
        let help = "How the gate stands on each interface";
        self.family("gate_interface", "gauge", help);
        for one in &gate.attachments {
            let labels = [("interface", &*one.interface), ("mode", &*one.mode)];
            self.sample("gate_interface", &labels, 1);
        }
        let help = "Networks from which nobody is heard";
        self.gauge("gate_denied_networks", help, gate.denied.len());
        self.family(
            "gate_table_entries",
            "gauge",
            "Entries of the gate's tables",
        );
        for one in &gate.fill {
            self.sample("gate_table_entries", &[("table", &one.table)], one.entries);
        }
        let help = "Entries that the gate's tables have room for";
        self.family("gate_table_entries_max", "gauge", help);
        for one in &gate.fill {
            let table = [("table", &*one.table)];
            self.sample("gate_table_entries_max", &table, one.max_entries);
        }
    }

    fn flood(&mut self, flood: &Flood) {
        self.family("cookies_total", "counter", "Cookies of the engine itself");
        self.sample("cookies_total", &[("what", "sent")], flood.cookies_sent);
        self.sample("cookies_total", &[("what", "wrong")], flood.cookies_wrong);
        let Some(gate) = &flood.gate else {
            return;
        };
        let level = LEVELS.iter().position(|level| *level == gate.level);
        if let Some(level) = level {
            let help = "Level of defence: 0 calm, 1 guarded, 2 attack";
            self.gauge("attack_level", help, level);
        }
        let help = "First messages without proof in a second";
        self.gauge("unproven_per_second", help, gate.unproven_per_second);
        let help = "How long such messages wait for the engine";
        self.gauge("unproven_delay_seconds", help, gate.queue_delay_seconds);
        let help = "What each CPU may do for the unproven in a second";
        self.family("gate_budget_per_cpu", "gauge", help);
        for one in &gate.budgets {
            let labels = [("budget", &*one.reply)];
            self.sample("gate_budget_per_cpu", &labels, one.per_cpu_per_second);
        }
    }

    fn traffic(&mut self, all: &[ConnectionTraffic]) {
        type Directions = fn(&ConnectionTraffic) -> [(&'static str, u64); 2];
        let bytes: Directions = |one| [("in", one.in_bytes), ("out", one.out_bytes)];
        let packets: Directions = |one| [("in", one.in_packets), ("out", one.out_packets)];
        let families = [
            (
                "traffic_bytes_total",
                "Octets that Child SAs have carried",
                bytes,
            ),
            (
                "traffic_packets_total",
                "Packets that Child SAs have carried",
                packets,
            ),
        ];
        for (name, help, counts) in families {
            self.family(name, "counter", help);
            for one in all {
                for (direction, count) in counts(one) {
                    let labels = [("connection", &*one.connection), ("direction", direction)];
                    self.sample(name, &labels, count);
                }
            }
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = writeln!(
            self.0,
            "# HELP rekindle_{name} {help}\n# TYPE rekindle_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            some => format!("{{{}}}", some.join(",")),
        };
        let _infallible = writeln!(self.0, "rekindle_{name}{labels} {value}");
    }
}

fn escaped(value: &str) -> String {
    printable(value).replace('\\', "\\\\").replace('"', "\\\"")
}
