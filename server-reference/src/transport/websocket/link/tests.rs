use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, frame::coding::CloseCode},
    },
};

use super::*;
use crate::{AuthRequest, Identity, Limits, Protocol, Server};

/// The server looks at the time once an hour: only the identity's own end can close this.
#[tokio::test]
async fn an_identity_from_an_auth_frame_expires_on_time() {
    let hour = Duration::from_secs(3600);
    let server = Server::builder()
        .limits(Limits { heartbeat: hour, auth_timeout: hour, ..Limits::default() })
        .auth(|_: AuthRequest| async {
            // Longer than it takes until the loop has looked at its timer, and rests.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Identity::user("ann").expires_in(Duration::from_millis(20)))
        })
        .build();
    let (ours, theirs) = tokio::io::duplex(4096);
    let upgrade = Some(Box::new(AuthRequest::renewal()));
    let node = server.node().clone();
    let session = Session::new(node.clone(), node.connection(Protocol::V2, None), upgrade);
    let seat = node.seat(None).unwrap();
    let served = tokio::spawn(run(ours, &[], session, seat));

    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let token = json!({ "token": "x" }).to_string();
    let mut frame = vec![datasole_core::frame::Opcode::Auth as u8, 0, 0, 0, 1, 0, 0, 0, token.len() as u8];
    frame.extend_from_slice(token.as_bytes());
    client.send(Message::Binary(frame.into())).await.unwrap();
    let mut last = None;
    while let Some(Ok(message)) = client.next().await {
        last = Some(message);
    }
    let Some(Message::Close(Some(close))) = last else { panic!("{last:?}") };
    assert_eq!(close.code, CloseCode::Library(4002));
    drop(client);
    served.await.unwrap();
}
