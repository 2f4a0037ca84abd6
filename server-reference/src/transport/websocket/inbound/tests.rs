use std::sync::Arc;

use futures_util::future::poll_fn;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::budget::Budget;

const LIMIT: usize = 1024 * 1024;

fn inbound(allowance: Option<usize>, budget: &Arc<Budget>) -> (Inbound<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(64 * 1024);
    (Inbound::new(ours, b"", LIMIT, allowance, Arriving::new(budget.clone())), theirs)
}

/// A frame whose mask is nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let head = match length {
        0..126 => vec![first, 0x80 | length as u8],
        126..0x1_0000 => [&[first, 0xfe][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, 0xff][..], &(length as u64).to_be_bytes()].concat(),
    };
    [&head, &[0; 4][..], payload].concat()
}

async fn next(inbound: &mut Inbound<DuplexStream>) -> Result<Option<(Opcode, Vec<u8>)>, Failure> {
    poll_fn(|cx| inbound.poll_next(cx).map_ok(|next| next.map(|next| (next.opcode(), next.payload().to_vec())))).await
}

async fn is_waiting(inbound: &mut Inbound<DuplexStream>) -> bool {
    poll_fn(|cx| Poll::Ready(inbound.poll_next(cx).is_pending())).await
}

#[tokio::test]
async fn long_and_short_messages_in_turn() {
    let (mut inbound, mut theirs) = inbound(None, &Arc::default());
    let lengths = [5, 100_000, 0, 8_192, 7, 8_193, LIMIT, 1, 1];
    let payload = |length: usize| (0..length).map(|n| (n % 253) as u8).collect::<Vec<u8>>();
    let written = tokio::spawn(async move {
        for length in lengths {
            theirs.write_all(&frame(0x82, &payload(length))).await.unwrap();
        }
    });
    for length in lengths {
        let (opcode, read) = next(&mut inbound).await.unwrap().unwrap();
        assert!(opcode == Opcode::Binary && read == payload(length), "{length}");
    }
    assert!(next(&mut inbound).await.unwrap().is_none(), "the end");
    written.await.unwrap();
}

#[tokio::test]
async fn what_was_read_before_and_at_rest_is_kept() {
    let (ours, mut theirs) = duplex(1024);
    let early = [frame(0x82, b"early"), frame(0x82, b"too")[..7].to_vec()].concat();
    let mut inbound = Inbound::new(ours, &early, LIMIT, None, Arriving::new(Arc::default()));
    assert_eq!(next(&mut inbound).await.unwrap().unwrap().1, b"early");
    inbound.rest();
    assert!(inbound.ahead.is_some());
    theirs.write_all(&[&frame(0x82, b"too")[7..], &frame(0x82, b"third")].concat()).await.unwrap();
    assert_eq!(next(&mut inbound).await.unwrap().unwrap().1, b"too");
    inbound.rest();
    assert_eq!(next(&mut inbound).await.unwrap().unwrap().1, b"third");
    inbound.rest();
    assert!(inbound.ahead.is_none() && is_waiting(&mut inbound).await);
    inbound.rest();
    assert!(inbound.ahead.is_none(), "an idle connection has no buffer");
}

#[tokio::test]
async fn half_a_message_is_a_sign_of_life() {
    let (mut inbound, mut theirs) = inbound(None, &Arc::default());
    assert!(is_waiting(&mut inbound).await && !inbound.take_heard());
    theirs.write_all(&frame(0x82, b"whole")).await.unwrap();
    assert!(next(&mut inbound).await.is_ok() && !inbound.take_heard(), "nothing is missing");
    theirs.write_all(&frame(0x02, b"half")).await.unwrap();
    assert!(is_waiting(&mut inbound).await && inbound.take_heard() && !inbound.take_heard());
    // A ping between does not begin the message anew.
    theirs.write_all(&frame(0x89, b"")).await.unwrap();
    assert!(next(&mut inbound).await.is_ok() && inbound.take_heard());
}

#[tokio::test]
async fn bytes_below_at_and_above_the_allowance() {
    for (allowance, fits) in [(12, false), (11, false), (13, true)] {
        let (mut inbound, mut theirs) = inbound(Some(allowance), &Arc::default());
        theirs.write_all(&[frame(0x82, b""), frame(0x82, b"")].concat()).await.unwrap();
        assert!(next(&mut inbound).await.is_ok());
        let second = next(&mut inbound).await;
        assert_eq!(second.is_ok(), fits, "{second:?}");
        if fits {
            inbound.lift();
            theirs.write_all(&frame(0x82, &[0; 100])).await.unwrap();
            assert!(next(&mut inbound).await.is_ok());
        }
    }
}

#[tokio::test]
async fn what_comes_of_a_message_counts_until_it_is_complete() {
    // A connection has 64 KiB in any case, and of the other 64 KiB what it leaves to as many others.
    let budget = Arc::new(Budget::new(usize::MAX, 128 * 1024));
    let (mut inbound, mut theirs) = inbound(None, &budget);
    let written = tokio::spawn(async move {
        for length in [60_000, 200_000, 60_000] {
            theirs.write_all(&frame(0x82, &vec![0; length])).await.unwrap();
        }
        theirs
    });
    let (mut lengths, mut stalls) = (Vec::new(), Vec::new());
    while lengths.len() < 3 {
        let next = poll_fn(|cx| match inbound.poll_next(cx) {
            Poll::Ready(next) => Poll::Ready(Some(next.unwrap().unwrap().payload().len())),
            Poll::Pending => Poll::Ready(None),
        });
        match next.await {
            Some(length) => lengths.push(length),
            None if inbound.is_stalled() => {
                stalls.push(lengths.len());
                inbound.go_on();
            }
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(lengths, [60_000, 200_000, 60_000]);
    assert!(
        !stalls.is_empty() && stalls.iter().all(|&during| during == 1),
        "only the long one has to wait: {stalls:?}"
    );
    drop(written.await.unwrap());
}
