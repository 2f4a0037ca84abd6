//! Documents: updates that cost the server much and their sender little.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use datasole_core::frame::Opcode;
use datasole_server::Limits;
use datasole_tests::{
    document::{at_one_place, change, entries, follow},
    peer::Peer,
    running::Running,
};

use super::{all_gone, assert_serves, probe::assert_unnoticed, serve};

#[tokio::test]
async fn updates_that_take_too_long_are_given_up_and_the_third_ends_the_connection() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::v2(running.address).await;
    let channel = follow(&mut peer, 1, "d").await.unwrap();
    let (honest, slow) = (at_one_place(10), at_one_place(40_000));
    for outcome in [-32004, -32004, 1008] {
        assert_eq!(change(&mut peer, channel, &slow).await, Err(outcome));
    }
    let mut peer = Peer::v2(running.address).await;
    let channel = follow(&mut peer, 1, "d").await.unwrap();
    assert_eq!(change(&mut peer, channel, &honest).await, Ok(1), "what was refused has left nothing");
    assert_serves(&running).await;
}

#[tokio::test]
async fn slow_updates_are_not_noticed_by_others() {
    let running = serve(|builder| builder.limits(Limits::default())).await;
    let address = running.address;
    assert_unnoticed(&running, move || async move {
        let slow = at_one_place(40_000);
        loop {
            let mut peer = Peer::v2(address).await;
            let channel = follow(&mut peer, 1, "d").await.unwrap();
            while change(&mut peer, channel, &slow).await == Err(-32004) {}
        }
    })
    .await;
    assert_serves(&running).await;
}

/// Two send this update, which is accepted, without end, each time to a new document.
async fn assert_documents_are_unnoticed(running: &Running, update: Vec<u8>) {
    let (address, update, documents) = (running.address, Arc::new(update), Arc::new(AtomicU32::new(0)));
    let sent = documents.clone();
    let next = move || {
        let (update, documents) = (update.clone(), documents.clone());
        async move {
            let mut peer = Peer::v2(address).await;
            let key = documents.fetch_add(1, Relaxed).to_string();
            let channel = follow(&mut peer, 1, &key).await.unwrap();
            change(&mut peer, channel, &update).await
        }
    };
    let started = Instant::now();
    assert_eq!(next().await, Ok(1));
    println!("one takes {:?}", started.elapsed());
    assert_unnoticed(running, || {
        let next = next.clone();
        async move {
            // A slow machine may refuse one for the time that it took; the other codes end the attack, which is noticed.
            while matches!(next().await, Ok(1) | Err(-32004)) {}
        }
    })
    .await;
    println!("{sent:?} updates were sent");
    assert!(sent.load(Relaxed) >= 3, "both attack");
    assert_serves(running).await;
}

/// Documents that nobody follows leave memory at once.
fn forgetful() -> Limits {
    Limits::default().with(|limits| {
        limits.max_idle_docs = 0;
        limits.doc_stay = Duration::ZERO;
    })
}

/// About as many blocks in one place as are applied in the time that an update may take, on the machine at hand.
#[tokio::test]
async fn slow_updates_that_are_accepted_are_not_noticed_by_others() {
    let running = serve(|builder| builder.limits(forgetful())).await;
    let mut peer = Peer::v2(running.address).await;
    let (mut blocks, mut id) = (4_000, 0);
    loop {
        id += 1;
        let channel = follow(&mut peer, id, &format!("of {blocks}")).await.unwrap();
        match change(&mut peer, channel, &at_one_place(blocks)).await {
            Err(-32004) if blocks > 500 => blocks = blocks * 3 / 4,
            answer => break assert_eq!(answer, Ok(1), "{blocks} blocks"),
        }
    }
    // Not quite as many, so that one that takes a little longer is accepted, too.
    assert_documents_are_unnoticed(&running, at_one_place(blocks * 3 / 4)).await;
}

/// Some 24 MB of memory for half a megabyte.
#[tokio::test]
async fn documents_of_many_blocks_are_not_noticed_by_others() {
    let running = serve(|builder| builder.limits(forgetful())).await;
    assert_documents_are_unnoticed(&running, entries(40_000)).await;
}

/// SUBSCRIBE and UNSUBSCRIBE of documents that are loaded for each SUBSCRIBE, and have another channel each time.
#[tokio::test]
async fn documents_that_are_loaded_anew_are_not_noticed_by_others() {
    let running = serve(|builder| builder.limits(forgetful())).await;
    let (address, attackers, loads) = (running.address, AtomicU32::new(0), Arc::new(AtomicU32::new(0)));
    let update = entries(40_000);
    for key in ["0", "1"] {
        let mut author = Peer::v2(address).await;
        let channel = follow(&mut author, 1, key).await.unwrap();
        assert_eq!(change(&mut author, channel, &update).await, Ok(1));
    }
    all_gone(&running).await;
    assert_unnoticed(&running, || {
        let (key, loads) = ((attackers.fetch_add(1, Relaxed) % 2).to_string(), loads.clone());
        async move {
            let (mut peer, mut last) = (Peer::v2(address).await, 0);
            loop {
                let channel = follow(&mut peer, 1, &key).await.unwrap();
                loads.fetch_add(u32::from(channel != last), Relaxed);
                last = channel;
                peer.send(Opcode::Unsubscribe, 1, "null").await;
            }
        }
    })
    .await;
    println!("{loads:?} were loaded");
    assert!(loads.load(Relaxed) >= 4, "the attackers are served, too");
    assert_serves(&running).await;
}
