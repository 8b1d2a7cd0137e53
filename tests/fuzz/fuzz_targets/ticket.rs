//! Tickets and what is inside them.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    rekindle_fuzz::ticket(input);
});
