//! A Redis that follows another, and takes its place when that is killed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);

/// What a server answers to a command, as far as it comes at once.
fn ask(server: SocketAddr, command: &str) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&server, PATIENCE).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut answer = vec![0; 16 * 1024];
    let length = socket.read(&mut answer).ok().filter(|&length| length > 0)?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Whether a server follows another, and has had everything from it: it may take the other's place.
pub(super) fn is_ready(server: SocketAddr) -> bool {
    ask(server, "INFO replication").is_some_and(|info| {
        field(&info, "master_link_status") == Some("up") && field(&info, "master_sync_in_progress") == Some("0")
    })
}

/// Makes a server follow nobody.
pub(super) fn promote(server: SocketAddr) -> bool {
    ask(server, "REPLICAOF NO ONE").is_some_and(|answer| answer.starts_with("+OK"))
}
