//! [`free_port`], for servers that are told where to listen.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::TcpListener,
};

/// A port that nobody has, below those that systems give to outgoing connections (from 32,768 on Linux): none of those
/// takes it before the server listens, or while the server is down.
///
/// # Panics
///
/// Where none of a thousand is free.
pub fn free_port() -> u16 {
    let first = RandomState::new().build_hasher().finish();
    (0..1_000)
        .map(|tried| 20_000 + (first.wrapping_add(tried * 7) % 12_000) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
