//! A real server on a free port of the loopback interface.

use std::net::SocketAddr;

use datasole_server::Server;
use tokio::{net::TcpListener, task::JoinHandle};

/// A server that accepts; it stops accepting when dropped.
#[derive(Debug)]
pub struct Running {
    /// The server.
    pub server: Server,
    /// Where it listens.
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Running {
    /// Serves on a free port.
    pub async fn start(server: Server) -> Self {
        let router = server.router();
        Self::with(server, router).await
    }

    /// Serves this router, the server's with routes of one's own, on a free port.
    pub async fn with(server: Server, router: axum::Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn({
            let server = server.clone();
            async move { server.serve(&listener, router).await.unwrap() }
        });
        Self { server, address, accepting }
    }

    /// The base URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
