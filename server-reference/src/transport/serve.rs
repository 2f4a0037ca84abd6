//! Serving alone: an accept loop that no slow or broken client can hold up.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, response::Response};
use hyper::{Request, StatusCode, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs},
    sync::watch,
    time::sleep,
};

use super::{
    lobby::{Flow, Guest, Lobby, source},
    refused::refused,
};
use crate::{
    admission::{Kind, Listening},
    metrics::Metrics,
    protocol::Node,
};

/// Connections that may wait until they are accepted.
const WAITING: u32 = 4_096;
/// A socket that is sent away has so long to turn out to have asked for a WebSocket: a timer ends after the runtime has looked at all sockets.
const LAST_LOOK: Duration = Duration::from_millis(5);

/// Listens on an address, with room for 4,096 connections that wait until they are accepted: as when all clients of a server that was
/// started again come back at once. `tokio::net::TcpListener::bind` has room for 1,024. The system may permit fewer (on Linux
/// `net.core.somaxconn`); whom it has no room for tries again after a second or more.
///
/// # Errors
///
/// The error of the last address, as [`bind`](tokio::net::TcpSocket::bind) returns it; `InvalidInput` where there is no address.
pub async fn listen(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "there is no address to listen on");
    for address in tokio::net::lookup_host(address).await? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As `TcpListener::bind`: on Windows another program could listen there, too.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

/// Serves `router` on a listener until the node shuts down.
pub(crate) async fn serve(node: &Arc<Node>, listener: &TcpListener, router: Router) -> io::Result<()> {
    let local = listener.local_addr()?;
    tracing::debug!(%local, "serving");
    let listening = if local.ip().to_canonical().is_loopback() { Listening::OnLoopback } else { Listening::Elsewhere };
    // So many that are being authenticated are beyond the reach of newcomers.
    let lobby = Lobby::new(node.limits.max_http_sockets, node.limits.max_connections / 2);
    let mut closing = node.closing();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // Out of descriptors, most likely: one that makes no progress is given back.
                Err(error) => {
                    node.admission.rejections.tell(Kind::Accept, &format!("a socket was not accepted: {error}"), None);
                    let made_room = lobby.make_room();
                    sleep(Duration::from_millis(if made_room { 1 } else { 50 })).await;
                    continue;
                }
            },
            () = closed(&mut closing) => return Ok(()),
        };
        let guest = lobby.enter(source(peer, node.admission.proxies.has(peer.ip())));
        let router = TowerToHyperService::new(router.clone());
        let routes = Routes { node: node.clone(), peer, listening, flow: guest.flow.clone(), router };
        tokio::spawn(connection_task(node.clone(), stream, guest, routes));
    }
}

async fn connection_task(node: Arc<Node>, stream: TcpStream, guest: Guest, routes: Routes) {
    let peer = routes.peer;
    let stream = guest.watch(stream, node.limits.answer_timeout);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(node.limits.handshake_timeout)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), routes)
        .with_upgrades();
    let mut closing = node.closing();
    let mut connection = std::pin::pin!(connection);
    let (mut is_closing, mut leaves) = (false, false);
    loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, %peer, "an HTTP connection failed");
                }
                return;
            }
            () = guest.flow.sent_away(), if !leaves => leaves = true,
            // The runtime has learnt meanwhile what had come, and the connection was looked at once more.
            () = sleep(LAST_LOOK), if leaves => {
                if !guest.flow.is_seated() {
                    return tracing::debug!(%peer, "an idle HTTP connection made room");
                }
                leaves = false;
            }
            () = closed(&mut closing), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The router, for the requests of one socket that name a host of ours.
struct Routes {
    node: Arc<Node>,
    peer: SocketAddr,
    listening: Listening,
    flow: Arc<Flow>,
    router: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Routes {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Err(rejection) = self.node.admission.host(request.headers(), self.listening) {
            Metrics::add(&self.node.metrics.refused, 1);
            let response = refused(&self.node, rejection, Some(self.peer));
            return Box::pin(std::future::ready(Ok(response)));
        }
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(self.flow.clone());
        let (serving, answer) = (self.flow.serve(), self.router.call(request));
        Box::pin(async move {
            let answer = answer.await;
            let is_refused = answer.as_ref().is_ok_and(|answer| answer.status() != StatusCode::SWITCHING_PROTOCOLS);
            if is_refused {
                serving.stand_up();
            }
            drop(serving);
            answer
        })
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // The sender lives in the node, which outlives this.
    let _ = closing.wait_for(|closing| *closing).await;
}
