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

use rustix::{
    process::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use crate::{
    Result,
    content::Content,
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
    pub(crate) fn start(kind: Kind, content: Content) -> Result<Self> {
        Self::start_at(kind, content, 0)
    }

    /// The same at a port.
    pub(crate) fn start_at(kind: Kind, content: Content, port: u16) -> Result<Self> {
        Self::spawn(&[kind.name(), &content.to_string(), &port.to_string()])
    }

    /// The same, by what follows [`serve::SUBCOMMAND`].
    pub(crate) fn spawn(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg(serve::SUBCOMMAND)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("a server without standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        let &[port, control] = &ports[..] else {
            return Err(format!("the server {} did not start", arguments.join(" ")).into());
        };
        let control = TcpStream::connect((Ipv4Addr::LOCALHOST, control))?;
        control.set_nodelay(true)?;
        Ok(Self { child, control, port })
    }

    /// Has the server publish, or do something; its answer, if there is one.
    pub(crate) fn order(&mut self, order: Order) -> Result<u64> {
        self.control.write_all(&order.encode())?;
        let mut number = [0; 8];
        if order.is_answered() {
            self.control.read_exact(&mut number)?;
        }
        Ok(u64::from_be_bytes(number))
    }

    /// Sends an order of several bytes.
    pub(crate) fn tell(&mut self, order: &[u8]) -> Result<()> {
        Ok(self.control.write_all(order)?)
    }

    /// Waits for the byte that says that an order is carried out.
    pub(crate) fn answer(&mut self) -> Result<()> {
        Ok(self.control.read_exact(&mut [0])?)
    }

    /// CPU time used so far, read while the server sleeps; nanoseconds.
    pub(crate) fn cpu(&self) -> Result<u64> {
        Cpu::of(&[self.child.id()]).read()
    }

    /// Resident memory; bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        resident(self.child.id())
    }

    /// The most that was resident since its start; bytes.
    pub(crate) fn peak(&self) -> Result<u64> {
        memory(self.child.id(), "VmHWM:")
    }
}

/// Resident memory of a process; bytes.
pub(crate) fn resident(process: u32) -> Result<u64> {
    memory(process, "VmRSS:")
}

fn memory(process: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("the kernel tells no memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// How many connections this process, and a child of it, may have open.
pub(crate) fn descriptors() -> usize {
    // Some are for other things.
    let permitted =
        getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most.try_into().unwrap_or(usize::MAX));
    permitted.saturating_sub(256)
}

/// The CPU time of this thread.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The CPU time of processes.
pub(crate) struct Cpu<'a> {
    processes: &'a [u32],
}

impl<'a> Cpu<'a> {
    pub(crate) fn of(processes: &'a [u32]) -> Self {
        Self { processes }
    }

    /// Used so far, read while all sleep; nanoseconds.
    pub(crate) fn read(&self) -> Result<u64> {
        loop {
            let mut total = Some(0);
            for process in self.processes {
                total = total.zip(used_if_asleep(*process)?).map(|(total, used)| total + used);
            }
            if let Some(nanoseconds) = total {
                return Ok(nanoseconds);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn used_if_asleep(process: u32) -> Result<Option<u64>> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        // The state follows the name, which is in parentheses and may hold anything.
        let stat = fs::read_to_string(task.join("stat"))?;
        match stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()) {
            Some([b'S', ..]) => {}
            Some([b'Z' | b'X', ..]) => return Err("the server has ended".into()),
            _ => return Ok(None),
        }
        let schedstat = fs::read_to_string(task.join("schedstat"))?;
        total += schedstat.split(' ').next().ok_or("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Some(total))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have died by itself; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
