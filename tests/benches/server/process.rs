//! A server in a process of its own, and what the kernel says about it.
//!
//! CPU time is the sum of `/proc/PID/task/*/schedstat`, in nanoseconds and for user and system together. The kernel brings
//! a thread's figure up to date when the thread leaves the CPU, so it is read only while every thread sleeps; what a
//! loopback write costs includes the receiving half of TCP, for both servers alike.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::{
    Result,
    serve::{self, Kind, Order},
};

/// Lets this process and its children open as many sockets as the system permits.
pub(crate) fn raise_open_files() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// A running server; it is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    control: TcpStream,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Server {
    /// Starts this program again as a server and waits until it listens.
    pub(crate) fn start(kind: Kind, rows: usize) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args([serve::SUBCOMMAND, kind.name(), &rows.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("a server without standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        let &[port, control] = &ports[..] else {
            return Err(format!("the {} server did not start", kind.name()).into());
        };
        let control = TcpStream::connect((Ipv4Addr::LOCALHOST, control))?;
        control.set_nodelay(true)?;
        Ok(Self { child, control, port })
    }

    /// Has the server publish.
    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        self.control.write_all(&order.encode())?;
        if matches!(order, Order::Changes(_)) {
            self.control.read_exact(&mut [0])?;
        }
        Ok(())
    }

    /// CPU time used so far, read while the server sleeps; nanoseconds.
    pub(crate) fn cpu(&self) -> Result<u64> {
        loop {
            if let Some(nanoseconds) = self.cpu_if_asleep()? {
                return Ok(nanoseconds);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn cpu_if_asleep(&self) -> Result<Option<u64>> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            // The state follows the name, which is in parentheses and may hold anything.
            let stat = fs::read_to_string(task.join("stat"))?;
            if stat.rsplit_once(") ").is_none_or(|(_, rest)| !rest.starts_with('S')) {
                return Ok(None);
            }
            let schedstat = fs::read_to_string(task.join("schedstat"))?;
            total += schedstat.split(' ').next().ok_or("schedstat is empty")?.parse::<u64>()?;
        }
        Ok(Some(total))
    }

    /// Resident memory; bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have died by itself; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
