//! `datasole-server`: the reference server as a program.
//!
//! From flags to a [`Server`] and through its life to a signal. It has no handlers of its own beyond relaying events;
//! what `--demo` serves is [`demo`]'s. Stdout carries one line, `listening HOST:PORT`; the log goes to stderr.

mod demo;
mod flags;

use std::{
    future::pending,
    io::{self, Write},
    pin::pin,
    process::ExitCode,
};

use clap::Parser;
use datasole_server::Server;
use tokio::net::TcpListener;
use tower_http::services::ServeDir;
use tracing_subscriber::EnvFilter;

use crate::{demo::Demo, flags::Flags};

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datasole-server: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal comes. The demo asks for a restart now and then: another server takes over the listener, and
/// whoever connects in between waits in its backlog.
async fn run(flags: &Flags) -> io::Result<()> {
    let filter = EnvFilter::builder().parse(&flags.log).map_err(|error| io::Error::other(format!("--log: {error}")))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let storage = flags.storage().map_err(io::Error::other)?;
    let listener = listen(&flags.listen).await?;
    writeln!(io::stdout(), "listening {}", listener.local_addr()?)?;
    let mut end = pin!(interrupted());
    let mut restarts = 0;
    loop {
        let demo = flags.demo.then(|| Demo::new(restarts));
        let mut builder = flags.builder();
        if let Some(storage) = &storage {
            builder = builder.backend(storage.clone());
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
            router = router.fallback_service(ServeDir::new(folder));
        }
        let ended = tokio::select! {
            served = server.serve(&listener, router) => return served,
            signal = &mut end => signal.map(|()| true)?,
            () = live(demo.as_ref(), &server) => false,
        };
        server.shutdown().await;
        if ended {
            return Ok(());
        }
        restarts += 1;
    }
}

/// Until the demo wants a restart.
async fn live(demo: Option<&Demo>, server: &Server) {
    match demo {
        Some(demo) => demo.run(server).await,
        None => pending().await,
    }
}

async fn listen(address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => "something else listens there; choose another address with --listen".to_owned(),
            io::ErrorKind::PermissionDenied => "not permitted; ports below 1024 are the administrator's".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {why}"))
    })
}

/// Ctrl-C, or SIGTERM where there is such a thing.
async fn interrupted() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupt = tokio::signal::ctrl_c() => interrupt,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
