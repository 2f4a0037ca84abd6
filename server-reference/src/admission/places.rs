//! The places of a server: how many connections there may be, or bytes of answers, in all and for one address.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::sync::lock;

/// Sockets without a place that are told so at the same time; more are refused without an upgrade.
const PARTING: usize = 256;

/// Where a client comes from, as bounds count: an address of version 4, or a network of version 6 that one customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(u64);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // Apart from all networks: none has 32 zeros at its beginning.
            IpAddr::V4(address) => Self(address.to_bits().into()),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

/// The address that bounds count: not this machine's, which stands for many.
pub(crate) fn counted(remote: Option<SocketAddr>) -> Option<IpAddr> {
    let address = remote?.ip().to_canonical();
    (!address.is_loopback()).then_some(address)
}

/// Places taken.
#[derive(Debug, Default)]
pub(crate) struct Places {
    open: AtomicUsize,
    by_source: Mutex<HashMap<Source, usize>>,
    parting: AtomicUsize,
    /// Notified whenever a connection is gone.
    pub(crate) gone: Notify,
}

/// The reason why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// All are taken.
    All,
    /// The address has its share.
    Share,
}

impl Places {
    /// Places taken now.
    pub(crate) fn taken(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes so many of `limit` places; of `share` for a source that is counted.
    pub(crate) fn take(
        self: &Arc<Self>,
        size: usize,
        limit: usize,
        from: Option<IpAddr>,
        share: usize,
    ) -> Result<Seat, Full> {
        let fits = |taken: usize, limit: usize| taken.checked_add(size).filter(|&after| after <= limit);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |open| fits(open, limit)).map_err(|_| Full::All)?;
        let mut seat = Seat { places: self.clone(), source: None, size };
        if let Some(source) = from.map(Source::from) {
            let mut held = lock(&self.by_source);
            let own = held.entry(source).or_default();
            *own = fits(*own, share).ok_or(Full::Share)?;
            seat.source = Some(source);
        }
        Ok(seat)
    }

    /// The right to tell a socket that there is no place for it.
    pub(crate) fn part(self: &Arc<Self>) -> Option<Parting> {
        let parting = Parting(self.clone());
        (self.parting.fetch_add(1, Ordering::AcqRel) < PARTING).then_some(parting)
    }
}

/// Places, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    places: Arc<Places>,
    source: Option<Source>,
    size: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(source) = self.source {
            let mut held = lock(&self.places.by_source);
            if let Some(own) = held.get_mut(&source) {
                *own -= self.size;
                if *own == 0 {
                    held.remove(&source);
                }
            }
        }
        self.places.open.fetch_sub(self.size, Ordering::AcqRel);
        self.places.gone.notify_waiters();
    }
}

/// A socket that is being turned away.
#[derive(Debug)]
pub(crate) struct Parting(Arc<Places>);

impl Drop for Parting {
    fn drop(&mut self) {
        self.0.parting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_below_at_and_above_the_limits() {
        let places = Arc::new(Places::default());
        let take = |from: &str| places.take(1, 4, Some(from.parse().unwrap()), 2);
        let (first, second) = (take("203.0.113.7").unwrap(), take("203.0.113.7").unwrap());
        assert_eq!(take("203.0.113.7").unwrap_err(), Full::Share);
        assert_eq!(take("::ffff:203.0.113.7").unwrap_err(), Full::Share, "the same address");
        let third = take("2001:db8::1").unwrap();
        let fourth = take("2001:db8::2").unwrap();
        assert_eq!(take("2001:db9::1").unwrap_err(), Full::All);
        drop(third);
        assert_eq!(places.taken(), 3);
        let fifth = places.take(1, 4, None, 2).unwrap();
        assert_eq!(places.take(1, 4, None, 2).unwrap_err(), Full::All);
        drop((first, second, fourth, fifth));
        assert_eq!((places.taken(), lock(&places.by_source).len()), (0, 0));
        let six = |host: &str| places.take(1, 9, Some(host.parse().unwrap()), 1);
        let held = six("2001:db8:0:1::1").unwrap();
        assert_eq!(six("2001:db8:0:1::ffff").unwrap_err(), Full::Share, "one customer's network");
        drop((six("2001:db8:0:2::1").unwrap(), held));
    }

    #[test]
    fn several_places_are_taken_together_or_none() {
        let places = Arc::new(Places::default());
        let take = |size, from: &str| places.take(size, 100, Some(from.parse().unwrap()), 40);
        let first = take(39, "203.0.113.7").unwrap();
        assert_eq!(take(2, "203.0.113.7").unwrap_err(), Full::Share);
        let second = take(1, "203.0.113.7").unwrap();
        assert_eq!(take(41, "203.0.113.8").unwrap_err(), Full::Share);
        let third = take(40, "203.0.113.8").unwrap();
        assert_eq!(take(21, "203.0.113.9").unwrap_err(), Full::All);
        assert_eq!(take(usize::MAX, "203.0.113.9").unwrap_err(), Full::All);
        let fourth = take(20, "203.0.113.9").unwrap();
        drop((first, second, third, fourth));
        assert_eq!((places.taken(), lock(&places.by_source).len()), (0, 0));
    }

    #[test]
    fn this_machine_is_not_counted() {
        let address = |remote: &str| counted(Some(remote.parse().unwrap()));
        assert_eq!(address("127.0.0.1:9"), None);
        assert_eq!(address("[::1]:9"), None);
        assert_eq!(address("[::ffff:127.0.0.1]:9"), None);
        assert_eq!(address("203.0.113.7:0"), Some("203.0.113.7".parse().unwrap()));
        assert_eq!(counted(None), None);
    }

    #[test]
    fn those_turned_away_are_bounded() {
        let places = Arc::new(Places::default());
        let mut parting: Vec<_> = (0..PARTING).map(|_| places.part().unwrap()).collect();
        assert!(places.part().is_none());
        parting.pop();
        assert!(places.part().is_some());
    }
}
