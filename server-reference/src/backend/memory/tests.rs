use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;

use super::*;
use crate::{
    backend::{
        BackendError,
        bus::{Address, NodeId},
        conformance::{Subject, verify},
    },
    clock::Manual,
};

struct Fresh {
    clock: Arc<Manual>,
    memory: Memory,
}

fn fresh() -> Fresh {
    let clock = Arc::new(Manual::default());
    let count = AtomicU64::new(100);
    let random = Arc::new(move || count.fetch_add(1, Ordering::Relaxed));
    Fresh { memory: Memory::new(Arc::clone(&clock) as _, random), clock }
}

#[async_trait]
impl Subject for Fresh {
    async fn node(&self) -> Result<Backend, BackendError> {
        Ok(self.memory.node())
    }

    async fn pass(&self, time: Duration) {
        // Up to a whole millisecond: what was promised has come by then.
        self.clock.advance(time + Duration::from_nanos(999_999));
    }

    async fn fail_over(&self, nodes: usize) -> Result<bool, BackendError> {
        let seen = self.memory.begin_generation(u64::MAX);
        (0..nodes).for_each(|_| assert_eq!(self.memory.begin_generation(seen), seen + 1));
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    verify(async || fresh()).await;
}

#[test]
fn an_engine_for_one_node_refuses_a_second() {
    let engine = Backend::alone(Memory::default().node().log);
    assert!(engine.bus.inbox().is_ok());
    assert!(matches!(engine.clone().bus.inbox(), Err(BackendError::Taken(_))));
}

#[tokio::test]
async fn nobody_hears_what_has_no_other_node() {
    let memory = fresh().memory;
    let a = memory.node();
    let name = a.bus.node();
    a.bus.subscribe(&["t".into()]).await.unwrap();
    let heard = |by: &Backend| {
        [Address::Everybody, Address::Topic("t"), Address::Node(name), Address::Node(NodeId(1))]
            .map(|to| by.bus.is_heard(to))
    };
    assert_eq!(heard(&a), [false; 4], "nobody hears itself");
    let b = memory.node();
    assert_eq!(heard(&a), [true, false, false, false]);
    assert_eq!(heard(&b), [true, true, true, false]);
    a.bus.unsubscribe(&["t".into()]);
    assert_eq!(heard(&b), [true, false, true, false]);
    drop(a);
    assert_eq!(heard(&b), [false; 4]);
}
