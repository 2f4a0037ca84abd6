#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| datasole_server::fuzz::websocket(data));
