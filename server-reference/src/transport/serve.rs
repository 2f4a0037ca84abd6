//! Serving alone: an accept loop that no slow or broken client can hold up.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::watch};

use crate::protocol::Node;

/// Serves `router` on a listener until the node shuts down.
pub(crate) async fn serve(node: &Arc<Node>, listener: &TcpListener, router: Router) -> io::Result<()> {
    let local = listener.local_addr()?;
    tracing::info!(%local, "serving");
    let mut closing = node.closing();
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
        tokio::spawn(connection_task(node.clone(), stream, remote, router.clone()));
    }
}

async fn connection_task(node: Arc<Node>, stream: tokio::net::TcpStream, remote: SocketAddr, router: Router) {
    let router = router.layer(axum::Extension(ConnectInfo(remote)));
    let service = TowerToHyperService::new(router.into_service::<hyper::body::Incoming>());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(node.limits.handshake_timeout)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut closing = node.closing();
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

async fn closed(closing: &mut watch::Receiver<bool>) {
    // The sender lives in the node, which outlives this.
    let _ = closing.wait_for(|closing| *closing).await;
}
