//! Lines of the story: when, what, how long it took, and what was seen.

use std::time::{Duration, Instant};

/// Prints a line for each step, with the time since the story began.
pub(super) struct Teller {
    began: Instant,
}

impl Teller {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    /// A step without a duration of its own.
    pub(super) fn say(&self, what: &str, seen: &str) {
        self.line(what, "", seen);
    }

    /// A step that took so long.
    pub(super) fn took(&self, what: &str, duration: Duration, seen: &str) {
        let took = match duration.as_millis() {
            0..2000 => format!("{} ms", duration.as_millis()),
            _ => format!("{:.1} s", duration.as_secs_f64()),
        };
        self.line(what, &took, seen);
    }

    fn line(&self, what: &str, took: &str, seen: &str) {
        let at = self.began.elapsed().as_secs_f64();
        println!("{at:>8.3} s  {what:<WHAT$}{took:>TOOK$}   {seen}");
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const WHAT: usize = 30;
const TOOK: usize = 8;

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_kept_apart() {
        let texts = [0, 12, 999, 1000, 100_000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "12", "999", "1,000", "100,000", "1,234,567"]);
    }
}
