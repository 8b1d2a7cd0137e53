//! Authority, identity, AUTH payload and certificates.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    rekindle_fuzz::certificate(input);
});
