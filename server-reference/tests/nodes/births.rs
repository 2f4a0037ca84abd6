//! Streams that nobody has written yet: each node has an epoch of its own for them, and whoever follows loses nothing.

use datasole_server::Replay;

use super::*;

/// Follows a stream: the position and `recovered` of the answer, and what came behind it.
fn join(server: &Server, kind: &str, key: &str, since: Option<(u64, u64)>) -> (Peer, (u64, u64, bool), Vec<Value>) {
    let mut peer = client(server, Protocol::V2, "ann");
    let mut request = json!({ "kind": kind, "key": key });
    if let Some((epoch, seq)) = since {
        request["since"] = json!({ "epoch": epoch, "seq": seq });
    }
    peer.receive(&Codec::default().encode(Opcode::Subscribe, 1, request.to_string().as_bytes(), usize::MAX));
    let mut came = received(&mut peer).into_iter();
    let (opcode, answer) = came.next().unwrap();
    assert_eq!(opcode, Opcode::Subscribed, "{answer}");
    let (epoch, seq) = at(&answer);
    let is_recovered = answer["recovered"] == true;
    (peer, (epoch, seq, is_recovered), came.map(|(_, frame)| frame).collect())
}

fn at(frame: &Value) -> (u64, u64) {
    (frame["epoch"].as_u64().unwrap(), frame["seq"].as_u64().unwrap())
}

fn positions(frames: &[Value]) -> Vec<(u64, u64)> {
    frames.iter().map(at).collect()
}

#[tokio::test]
async fn nothing_of_a_state_is_the_same_on_every_node() {
    let site = Site::new();
    let (mut ann, (here, _, _), shown) = join(&site.a, "state", "s", None);
    assert_eq!((positions(&shown), &shown[0]["removed"]), (vec![(here, 0)], &json!(true)));
    let (mut bob, (there, _, _), _) = join(&site.b, "state", "s", None);
    assert_ne!(here, there, "nobody has begun its life");
    // Whoever goes from one to the other has what there is.
    let (_moved, answer, shown) = join(&site.b, "state", "s", Some((here, 0)));
    assert_eq!((answer, shown.len()), ((there, 0, true), 0));
    site.b.state().set("s", &json!([1])).await.unwrap();
    site.b.state().update("s", |draft| draft.insert("/-", 2)).await.unwrap();
    settle().await;
    assert_eq!(
        positions(&received(&mut bob).into_iter().map(|(_, frame)| frame).collect::<Vec<_>>()),
        [(there, 1), (there, 2)]
    );
    let came = received(&mut ann).pop().unwrap().1;
    assert_eq!(
        (at(&came), &came["data"]),
        ((there, 2), &json!([1, 2])),
        "the whole of the life that has begun elsewhere"
    );
    for server in [&site.a, &site.b] {
        for (since, recovered, expected) in [
            ((here, 0), true, vec![(there, 1), (there, 2)]),
            ((there, 0), true, vec![(there, 1), (there, 2)]),
            ((7, 0), true, vec![(there, 1), (there, 2)]),
            ((there, 1), true, vec![(there, 2)]),
            ((here, 1), false, vec![(there, 2)]),
        ] {
            let (_, (epoch, seq, is_recovered), came) = join(server, "state", "s", Some(since));
            let from = if recovered { since.1 } else { 2 };
            assert_eq!((epoch, seq, is_recovered), (there, from, recovered), "{since:?}");
            // A node that was told in one piece has the whole alone.
            let is_whole = positions(&came) == [(there, 2)];
            assert!(is_whole || positions(&came) == expected, "{since:?}: {came:?}");
        }
    }
}

#[tokio::test]
async fn followers_of_a_topic_with_history_get_its_first_events_from_every_node() {
    let memory = Memory::default();
    let server = || Server::builder().backend(memory.clone()).topic("t", Replay::default()).build();
    let (a, b) = (server(), server());
    let (mut ann, (here, _, _), _) = join(&a, "event", "t", None);
    b.broadcast("t", &1).await.unwrap();
    b.broadcast("t", &2).await.unwrap();
    settle().await;
    let (there, _) = at(&received(&mut ann).pop().unwrap().1);
    assert_ne!(here, there, "which is a gap");
    let (_again, answer, came) = join(&a, "event", "t", Some((here, 0)));
    assert_eq!((answer, positions(&came)), ((there, 0, true), vec![(there, 1), (there, 2)]));
    // Of a life that this node has told nobody of, anything may have come.
    let (_other, (epoch, seq, is_recovered), came) = join(&a, "event", "t", Some((7, 0)));
    assert_eq!((epoch, seq, is_recovered, came.len()), (there, 2, false, 0));
}
