//! [`Accounts`]: what each owner has created and cost, over all of its connections. An owner is a user, or an address of
//! connections without a user.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
#[cfg(feature = "docs")]
use std::{pin::pin, task::Poll};

use datasole_core::{StreamId, StreamKind};
use tokio::time::Instant;
#[cfg(feature = "docs")]
use tokio::time::sleep_until;

use crate::sync::lock;

/// How long an owner is remembered; what it has created before counts no more.
pub(crate) const MEMORY: Duration = Duration::from_secs(24 * 3_600);
/// Owners that are remembered; with more, those that came first are forgotten.
const MAX_OWNERS: usize = 65_536;
#[cfg(feature = "docs")]
/// The longest pause after a piece of work.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
#[cfg(feature = "docs")]
/// Refused work that has taken less costs nothing.
const FREE: Duration = Duration::from_millis(2);
#[cfg(feature = "docs")]
/// A client waits for so many times what its refused work has taken.
const PRICE: u32 = 10;
#[cfg(feature = "docs")]
/// One of the pieces of work that were too slow is forgiven after this time.
const FORGIVEN: Duration = Duration::from_secs(60);

/// The owners by name.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    hasher: RandomState,
    owners: Mutex<HashMap<u64, (Instant, Arc<Standing>)>>,
}

/// The account of one owner: streams created, and work owed.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Names the owner where work is shared out.
    pub(crate) lane: u64,
    created: [Arc<AtomicUsize>; StreamKind::ALL.len()],
    /// Streams that the quota of all servers has granted, and that have not come into being.
    granted: Mutex<HashSet<StreamId>>,
    /// Bytes of what it keeps in memory by following.
    kept: AtomicUsize,
    #[cfg(feature = "docs")]
    /// Bytes by which it has made what is in memory grow.
    pub(crate) memory: AtomicUsize,
    #[cfg(feature = "docs")]
    conduct: Mutex<Conduct>,
    #[cfg(feature = "docs")]
    /// Held by who waits for the end of a pause, so that the others come after it.
    turn: tokio::sync::Mutex<()>,
}

#[cfg(feature = "docs")]
#[derive(Debug, Default)]
struct Conduct {
    /// The end of the pause.
    until: Option<Instant>,
    /// Pieces of work that were too slow, and when the last one was.
    slow: Option<(u32, Instant)>,
}

impl Accounts {
    /// The standing of an owner.
    pub(crate) fn standing(&self, user: Option<&str>, address: Option<IpAddr>) -> Option<Arc<Standing>> {
        let owner = self.hasher.hash_one(name(user, address)?);
        let (mut owners, now) = (lock(&self.owners), Instant::now());
        if owners.len() >= MAX_OWNERS && !owners.contains_key(&owner) {
            let mut times: Vec<Instant> = owners.values().map(|(since, _)| *since).collect();
            let (_, middle, _) = times.select_nth_unstable(MAX_OWNERS / 2);
            let middle = *middle;
            owners.retain(|_, (since, _)| *since > middle);
        }
        let (since, standing) = owners.entry(owner).or_insert_with(|| (now, Standing::new(owner)));
        if now.duration_since(*since) >= MEMORY {
            (*since, *standing) = (now, Standing::new(owner));
        }
        Some(standing.clone())
    }
}

/// The name of an owner, the same on every server: a user, or an address where there is no user. The machine's own
/// addresses are no owner: a proxy brings many users from there.
pub(crate) fn name(user: Option<&str>, address: Option<IpAddr>) -> Option<String> {
    match (user, address) {
        (Some(user), _) => Some(format!("u:{user}")),
        (None, Some(address)) if !address.to_canonical().is_loopback() => Some(format!("a:{}", network(address))),
        _ => None,
    }
}

/// An address as one owner has it: a network of 2^64 addresses of version 6 is one customer's.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

impl Standing {
    pub(crate) fn new(lane: u64) -> Arc<Self> {
        Arc::new(Self { lane, ..Self::default() })
    }

    /// The number of streams of a kind that it has created.
    pub(crate) fn created(&self, kind: StreamKind) -> &Arc<AtomicUsize> {
        &self.created[kind as usize]
    }

    /// Whether the quota has granted this stream before, in vain.
    pub(crate) fn is_granted(&self, id: &StreamId) -> bool {
        lock(&self.granted).contains(id)
    }

    /// The quota has granted a stream, as one of `limit` at most.
    pub(crate) fn grant(&self, id: &StreamId, limit: usize) {
        let mut granted = lock(&self.granted);
        if granted.len() >= limit {
            granted.clear();
        }
        granted.insert(id.clone());
    }

    /// The stream has come into being: when it is gone, another costs again.
    pub(crate) fn spend(&self, id: &StreamId) {
        lock(&self.granted).remove(id);
    }

    /// Takes so many bytes of memory for what it follows, if it has no more than `limit` then.
    pub(crate) fn keep(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Kept> {
        let fits = |kept: usize| kept.checked_add(bytes).filter(|&after| bytes == 0 || after <= limit);
        self.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Kept { standing: self.clone(), bytes })
    }
}

/// Memory of what an owner follows, given back when dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    standing: Arc<Standing>,
    bytes: usize,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.standing.kept.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(feature = "docs")]
impl Standing {
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// Takes a place in a queue, after the pause that it owes; later ones come after it.
    pub(crate) async fn queue<T>(&self, place: impl Future<Output = T>) -> T {
        let mut place = pin!(place);
        let turn = self.turn.lock().await;
        // Alone, and without a runtime's clock, nothing is owed.
        while let Some(until) = self.owes() {
            sleep_until(until).await;
        }
        // The place is taken before anybody else's.
        if let Poll::Ready(taken) = std::future::poll_fn(|cx| Poll::Ready(place.as_mut().poll(cx))).await {
            return taken;
        }
        drop(turn);
        place.await
    }

    fn owes(&self) -> Option<Instant> {
        let mut conduct = lock(&self.conduct);
        conduct.until = conduct.until.filter(|until| *until > Instant::now());
        conduct.until
    }

    /// Makes it wait for work that took so long and came to nothing.
    pub(crate) fn charge(&self, cost: Duration) {
        if cost < FREE {
            return;
        }
        let until = Instant::now() + (cost * PRICE).min(LONGEST_PAUSE);
        let mut conduct = lock(&self.conduct);
        conduct.until = conduct.until.max(Some(until));
    }

    /// Counts a piece of work that was too slow; how many there were of late.
    pub(crate) fn was_slow(&self) -> u32 {
        let now = Instant::now();
        let mut conduct = lock(&self.conduct);
        let (before, last) = conduct.slow.unwrap_or((0, now));
        let forgiven = now.duration_since(last).as_secs() / FORGIVEN.as_secs();
        let count = before.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)) + 1;
        conduct.slow = Some((count, now));
        count
    }
}

#[cfg(all(test, feature = "docs"))]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn same(accounts: &Accounts, one: (Option<&str>, &str), other: (Option<&str>, &str)) -> bool {
        let standing = |(user, address): (Option<&str>, &str)| accounts.standing(user, address.parse().ok());
        match (standing(one), standing(other)) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one, &other),
            _ => false,
        }
    }

    #[tokio::test]
    async fn a_user_is_one_owner_and_so_is_an_address_without_one() {
        let accounts = Accounts::default();
        assert!(same(&accounts, (Some("ann"), "10.0.0.1"), (Some("ann"), "10.0.0.2")));
        assert!(!same(&accounts, (Some("ann"), "10.0.0.1"), (Some("bob"), "10.0.0.1")));
        assert!(same(&accounts, (None, "10.0.0.1"), (None, "::ffff:10.0.0.1")));
        assert!(!same(&accounts, (None, "10.0.0.1"), (None, "10.0.0.2")));
        assert!(same(&accounts, (None, "2001:db8::1"), (None, "2001:db8::2")));
        assert!(!same(&accounts, (None, "2001:db8:0:1::1"), (None, "2001:db8:0:2::1")));
        for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1", ""] {
            assert!(accounts.standing(None, loopback.parse().ok()).is_none(), "{loopback}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_created_counts_for_a_day() {
        let accounts = Accounts::default();
        let created =
            || accounts.standing(Some("ann"), None).unwrap().created(StreamKind::Doc).fetch_add(1, Ordering::Relaxed);
        assert_eq!((created(), created()), (0, 1));
        advance(MEMORY - Duration::from_secs(1)).await;
        assert_eq!(created(), 2);
        advance(Duration::from_secs(1)).await;
        assert_eq!(created(), 0);
    }

    #[test]
    fn memory_that_is_kept_below_at_and_above_the_limit() {
        let standing = Standing::new(1);
        let first = standing.keep(60, 100).unwrap();
        assert!(standing.keep(41, 100).is_none() && standing.keep(usize::MAX, 100).is_none());
        let second = standing.keep(40, 100).unwrap();
        assert!(standing.keep(1, 100).is_none());
        assert!(standing.keep(0, 50).is_some(), "what takes none is always kept");
        drop(first);
        assert!(standing.keep(60, 100).is_some());
        drop(second);
        assert_eq!(standing.kept.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_owners_is_bounded() {
        let accounts = Accounts::default();
        for number in 0..=MAX_OWNERS {
            accounts.standing(Some(&number.to_string()), None);
            advance(Duration::from_millis(1)).await;
            assert!(lock(&accounts.owners).len() <= MAX_OWNERS);
        }
        assert!(lock(&accounts.owners).len() > MAX_OWNERS / 3, "the newest stay");
    }

    #[tokio::test(start_paused = true)]
    async fn who_owes_waits_and_the_order_stays() {
        let standing = Standing::new(1);
        let done = Arc::new(Mutex::new(Vec::new()));
        for (cost, owes) in [(FREE - Duration::from_nanos(1), false), (FREE, true), (Duration::from_millis(100), true)]
        {
            standing.charge(cost);
            assert_eq!(standing.owes().is_some(), owes, "{cost:?}");
        }
        let begun = Instant::now();
        let tasks: Vec<_> = (0..4)
            .map(|number| {
                let (standing, done) = (standing.clone(), done.clone());
                tokio::spawn(async move { standing.queue(async { lock(&done).push(number) }).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*lock(&done), [0, 1, 2, 3]);
        assert_eq!(begun.elapsed().as_secs(), 1, "ten times what it took");
        standing.charge(Duration::from_secs(3_600));
        assert!(standing.owes().unwrap() - Instant::now() <= LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_slow_is_forgiven_after_a_while() {
        let standing = Standing::new(1);
        assert_eq!((standing.was_slow(), standing.was_slow(), standing.was_slow()), (1, 2, 3));
        advance(2 * FORGIVEN).await;
        assert_eq!(standing.was_slow(), 2);
    }
}
