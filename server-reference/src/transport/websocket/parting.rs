//! The end of a connection: closing handshakes, in bounded time.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::writer;
use crate::{mailbox::Close, metrics::Metrics, protocol::Node};

/// How a connection came to its end.
pub(super) enum End {
    /// The peer closed; the answer is written.
    Goodbye,
    /// The server closes, with this code and reason.
    Close(Close),
    /// The socket is gone.
    Lost,
}

/// Closes a socket for which there is no seat.
pub(super) async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, node: &Node, why: &str) {
    let mut out = Vec::new();
    writer::close(&mut out, 1013, why);
    let goodbye = async {
        stream.write_all(&out).await?;
        drain(&mut stream).await
    };
    if timeout(Duration::from_secs(1).min(node.limits.close_timeout), goodbye).await.is_err() {
        tracing::debug!("a peer that was turned away lingered");
    }
}

/// Says goodbye as the end wants it, after what is in `out` and has not been written.
pub(super) async fn goodbye<S>(mut stream: S, end: End, out: &[u8], node: &Node) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match end {
        End::Lost => Ok(()),
        End::Goodbye => {
            stream.write_all(out).await?;
            stream.flush().await
        }
        End::Close(Close { code, reason }) => {
            if code == datasole_core::wire::CLOSE_FELL_BEHIND {
                Metrics::add(&node.metrics.fell_behind, 1);
            }
            let mut last = out.to_vec();
            writer::close(&mut last, code, &reason);
            stream.write_all(&last).await?;
            drain(&mut stream).await
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
