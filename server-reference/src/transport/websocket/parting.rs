//! The end of a connection: closing handshakes, in bounded time.

use std::{io, time::Duration};

use futures_util::SinkExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_tungstenite::WebSocketStream;

use super::framing;
use crate::{mailbox::Close, metrics::Metrics, protocol::Node};

/// How a connection came to its end.
pub(super) enum End {
    /// The peer closed; tungstenite has the answer ready.
    Goodbye,
    /// The server closes, with this code and reason.
    Close(Close),
    /// The socket is gone.
    Lost,
}

/// Closes a socket for which there is no seat.
pub(super) async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, node: &Node, why: &str) {
    let mut out = Vec::new();
    framing::close(&mut out, 1013, why);
    let goodbye = async {
        stream.write_all(&out).await?;
        drain(&mut stream).await
    };
    if timeout(Duration::from_secs(1).min(node.limits.close_timeout), goodbye).await.is_err() {
        tracing::debug!("a peer that was turned away lingered");
    }
}

/// Says goodbye as the end wants it; `out` from `written` on goes before.
pub(super) async fn goodbye<S>(
    mut socket: WebSocketStream<S>,
    end: End,
    out: &[u8],
    written: usize,
    node: &Node,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match end {
        End::Lost => Ok(()),
        End::Goodbye => socket.flush().await.map_err(|error| io::Error::other(error.to_string())),
        End::Close(Close { code, reason }) => {
            if code == datasole_core::wire::CLOSE_FELL_BEHIND {
                Metrics::add(&node.metrics.fell_behind, 1);
            }
            if written == 0 {
                // Half a pong may have been written. What else fails here fails again below.
                let _ = socket.flush().await;
            }
            let mut last = out[written..].to_vec();
            framing::close(&mut last, code, &reason);
            let stream = socket.get_mut();
            stream.write_all(&last).await?;
            drain(stream).await
        }
    }
}

/// Ends our half, for which WebSocket clients wait, and reads to the end, so that closing does not reset the connection
/// before the peer has read our close frame.
async fn drain<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = [0; 512];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// The end of a connection whose identity is not accepted, or not any more.
pub(super) fn unauthorized(reason: &str) -> End {
    End::Close(Close { code: datasole_core::wire::CLOSE_UNAUTHORIZED, reason: reason.to_owned() })
}
