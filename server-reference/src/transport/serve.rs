//! Serving alone: an accept loop that no slow or broken client can hold up.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::watch};

use crate::server::Server;

impl Server {
    /// Serves `router` (this server's, merged into whatever else there is) on a listener until [`shutdown`] is called.
    ///
    /// Beyond `axum::serve`, it bounds the time a client may take for its request, knows the peers' addresses, and
    /// ends when the server shuts down.
    ///
    /// # Errors
    ///
    /// When the listener's own address cannot be read; a failing `accept` is tried again.
    ///
    /// [`shutdown`]: Server::shutdown
    pub async fn serve(&self, listener: &TcpListener, router: Router) -> io::Result<()> {
        let local = listener.local_addr()?;
        tracing::info!(%local, "serving");
        let mut closing = self.closing();
        loop {
            let (stream, remote) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    // Out of descriptors, most likely: others will be given back.
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = closed(&mut closing) => return Ok(()),
            };
            tokio::spawn(self.clone().connection_task(stream, remote, router.clone()));
        }
    }

    async fn connection_task(self, stream: tokio::net::TcpStream, remote: SocketAddr, router: Router) {
        let router = router.layer(axum::Extension(ConnectInfo(remote)));
        let service = TowerToHyperService::new(router.into_service::<hyper::body::Incoming>());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits().handshake_timeout)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut closing = self.closing();
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = closed(&mut closing) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, %remote, "an HTTP connection failed");
        }
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // The sender lives in the server, which outlives this.
    let _ = closing.wait_for(|closing| *closing).await;
}
