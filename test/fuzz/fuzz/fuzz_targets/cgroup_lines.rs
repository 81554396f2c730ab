#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::cluster::cgroup_lines(input));
