//! A server that a test has started: killed when this is dropped, with its folder.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::port::free_port;

pub(crate) struct Running {
    child: Child,
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
}

impl Running {
    /// Starts a program in an empty folder; `arguments` gets the port and the folder.
    pub(crate) fn start(program: &str, arguments: impl Fn(u16, &Path) -> Vec<String>) -> Self {
        let port = free_port();
        let name = Path::new(program).file_name().unwrap().to_string_lossy();
        let dir = std::env::temp_dir().join(format!("datasole-{name}-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let child = spawn(program, arguments(port, &dir));
        Self { child, dir, port }
    }

    /// Kills the program at once, as a fault would, and starts it again in the same folder.
    pub(crate) fn kill_and_start(&mut self, program: &str, arguments: impl Fn(u16, &Path) -> Vec<String>) {
        self.stop();
        self.child = spawn(program, arguments(self.port, &self.dir));
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Kills the program at once.
    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn spawn(program: &str, arguments: Vec<String>) -> Child {
    let command = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    command.unwrap_or_else(|error| {
        panic!("{program} is needed on the path ({error}): install it, for example from Debian")
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
