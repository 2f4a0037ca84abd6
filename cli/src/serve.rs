//! `datasole serve`: from flags to a [`Server`], and through its life to a signal.
//!
//! The program has no handlers of its own beyond relaying events; those of `--demo` are [`demo`]'s.

use std::{
    collections::HashMap,
    future::pending,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
};

use datasole_server::{Server, backend::Engines};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

#[cfg(unix)]
use crate::descriptors;
use crate::{
    demo::{self, Demo},
    files,
    flags::Flags,
};

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(flags: &Flags) -> io::Result<()> {
    let opened = Opened::new(flags).await?;
    let interrupted = interrupted()?;
    writeln!(io::stdout(), "listening {}", opened.address()?)?;
    opened.serve(interrupted).await
}

/// A server that has its engines and its listener, and serves nobody yet: whoever connects waits in the listener's backlog.
pub(crate) struct Opened<'a> {
    flags: &'a Flags,
    users: Arc<HashMap<String, String>>,
    engines: Option<Engines>,
    listener: TcpListener,
}

impl<'a> Opened<'a> {
    /// Begins the log and opens what the flags name.
    pub(crate) async fn new(flags: &'a Flags) -> io::Result<Self> {
        let filter = EnvFilter::builder().parse(flags.level());
        let filter = filter.map_err(|error| io::Error::other(format!("--log-level: {error}")))?;
        let colours = io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
        #[cfg(unix)]
        descriptors::raise(flags.max_connections);
        let users = flags.tokens()?;
        let engines = match flags.engines()? {
            Some(urls) => Some(Engines::open(urls).await.map_err(io::Error::other)?),
            None => None,
        };
        let described = match &engines {
            Some(engines) => engines.describe(),
            None => Engines::open("memory:").await.map_err(io::Error::other)?.describe(),
        };
        let listener = listen(&flags.listen).await?;
        described.iter().for_each(|line| tracing::info!("{line}"));
        Ok(Self { flags, users, engines, listener })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `end`.
    ///
    /// The demo restarts its server when a page asks for it: the next one takes over the listener, and clients that connect
    /// meanwhile wait in the listener's backlog.
    pub(crate) async fn serve(self, end: impl Future<Output = ()>) -> io::Result<()> {
        let Self { flags, users, engines, listener } = self;
        let mut end = pin!(end);
        let mut restarts = 0;
        loop {
            let demo = flags.demo.then(|| Demo::new(restarts));
            let mut builder = flags.builder(&users);
            if let Some(engines) = &engines {
                builder = builder.backend(engines.node().await.map_err(io::Error::other)?);
            }
            if let Some(demo) = &demo {
                builder = demo.handlers(builder);
            }
            let server = builder.build();
            let mut router = server.router();
            if let Some(demo) = &demo {
                router = router.merge(demo::pages());
                demo.prepare(&server).await.map_err(io::Error::other)?;
            }
            if let Some(folder) = &flags.folder {
                router = files::serve(router, folder, flags.base_path.as_deref());
            }
            let ended = tokio::select! {
                served = server.serve(&listener, router) => return served,
                () = &mut end => true,
                () = live(demo.as_ref(), &server) => false,
            };
            server.shutdown().await;
            if ended {
                return Ok(());
            }
            restarts += 1;
        }
    }
}

/// Resolves when the demo wants a restart; never without a demo.
async fn live(demo: Option<&Demo>, server: &Server) {
    match demo {
        Some(demo) => demo.run(server).await,
        None => pending().await,
    }
}

async fn listen(address: &str) -> io::Result<TcpListener> {
    datasole_server::listen(address).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => "something else listens there; choose another address with --listen".to_owned(),
            io::ErrorKind::PermissionDenied => "not permitted; ports below 1024 are the administrator's".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {why}"))
    })
}

/// Resolves at Ctrl-C, or at SIGTERM on systems that have it. Both are caught from the call on, not from the first poll:
/// a signal that comes right after the address was printed ends the server in order, too.
#[cfg(unix)]
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(windows)]
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
