//! IKE messages and bare payload chains.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    rekindle_fuzz::wire(input);
});
