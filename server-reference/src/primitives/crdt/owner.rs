//! [`Owners`]: who may go on as which replica of a CRDT.
//!
//! A replica's name is in every snapshot, so the name proves nothing. The first operation under a name binds it to what
//! its client shows: its user, and the secret that it made with the name. Only hashes are kept, with the CRDT.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{account::network, connection::Connection};

/// The prefix of the stored owners of a state.
const OWNERS: &str = "owners ";

/// Part of a hash: enough that nobody finds another text for it.
type Mark = [u8; 12];

/// The proof that a client shows, or that a replica is bound to: a user, a secret, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    user: Option<Mark>,
    secret: Option<Mark>,
}

impl Owner {
    /// The owner of replicas of `key`; no user where there is none that the server has authenticated.
    pub(super) fn of(key: &str, user: Option<&str>, secret: Option<&str>) -> Self {
        let mark = |kind: &[u8], text: &str| {
            let hash = Sha256::new().chain_update(kind).chain_update(key).chain_update([0xff]).chain_update(text);
            let mut mark = Mark::default();
            mark.iter_mut().zip(hash.finalize()).for_each(|(byte, hashed)| *byte = hashed);
            mark
        };
        Self { user: user.map(|user| mark(b"user", user)), secret: secret.map(|secret| mark(b"secret", secret)) }
    }

    fn is_nobody(&self) -> bool {
        *self == Self::default()
    }

    /// True if one of the two is the same.
    fn is(&self, other: &Self) -> bool {
        self.user.is_some() && self.user == other.user || self.secret.is_some() && self.secret == other.secret
    }

    /// The owner as it is stored: `u` and the user in hexadecimal digits, `s` and the secret.
    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(50);
        for (name, mark) in [('u', self.user), ('s', self.secret)] {
            let Some(mark) = mark else { continue };
            text.push(name);
            // Writing to memory cannot fail.
            mark.iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
        }
        text
    }

    fn parse(mut text: &str) -> Option<Self> {
        let mut owner = Self::default();
        while !text.is_empty() {
            let place = match text.get(..1)? {
                "u" => &mut owner.user,
                "s" => &mut owner.secret,
                _ => return None,
            };
            let mut mark = Mark::default();
            for (index, byte) in mark.iter_mut().enumerate() {
                *byte = u8::from_str_radix(text.get(1 + 2 * index..3 + 2 * index)?, 16).ok()?;
            }
            *place = Some(mark);
            text = text.get(1 + 2 * mark.len()..)?;
        }
        Some(owner)
    }
}

/// The outcome of a claim to be a replica.
#[derive(Clone, Debug)]
pub(super) enum Claim {
    /// The replica is bound to this owner.
    Proven,
    /// Nobody has the name: an operation under it binds it.
    Free(Owner),
    /// Nobody has the name, and nothing was shown: the name is the connection's while that lasts.
    Held(Weak<Connection>),
}

/// The owners of a CRDT's replicas, by the replica's name.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    bound: BTreeMap<Arc<str>, Owner>,
    held: BTreeMap<Arc<str>, Weak<Connection>>,
}

impl Owners {
    /// Whether a client may go on as the replica; `None` if it is another's.
    pub(super) fn claim(&self, node: &str, shown: Owner, client: &Arc<Connection>) -> Option<Claim> {
        if let Some(owner) = self.bound.get(node) {
            return owner.is(&shown).then_some(Claim::Proven);
        }
        let holder = self.held.get(node).and_then(Weak::upgrade).filter(|holder| !holder.has_ended());
        if holder.is_some_and(|holder| !Arc::ptr_eq(&holder, client)) {
            return None;
        }
        Some(if shown.is_nobody() { Claim::Held(Arc::downgrade(client)) } else { Claim::Free(shown) })
    }

    /// An operation under the name has been stored.
    pub(super) fn take(&mut self, node: &str, claim: Claim) {
        match claim {
            Claim::Proven => {}
            Claim::Free(owner) => {
                self.held.remove(node);
                self.bound.entry(node.into()).or_insert(owner);
            }
            Claim::Held(client) => {
                if !self.held.get(node).is_some_and(|holder| holder.ptr_eq(&client)) {
                    self.held.retain(|_, holder| holder.upgrade().is_some_and(|holder| !holder.has_ended()));
                    self.held.insert(node.into(), client);
                }
            }
        }
    }

    /// Binds a name as it was stored, unless it is bound.
    pub(super) fn bind(&mut self, node: &str, stored: &str) -> Option<()> {
        let owner = Owner::parse(stored)?;
        self.bound.entry(node.into()).or_insert(owner);
        Some(())
    }

    /// Forgets those of replicas that are not kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.bound.retain(|node, _| keep(node));
        self.held.retain(|node, _| keep(node));
    }

    /// The bound names as they are stored, `owners {name: owner}`; empty where there are none.
    pub(super) fn text(&self) -> String {
        if self.bound.is_empty() {
            return String::new();
        }
        let rows: BTreeMap<&str, String> = self.bound.iter().map(|(node, owner)| (&**node, owner.text())).collect();
        // Writing to memory cannot fail.
        serde_json::to_string(&rows).map_or_else(|_| String::new(), |rows| format!("{OWNERS}{rows}"))
    }

    /// Reads what [`text`](Self::text) wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut owners = Self::default();
        if !text.is_empty() {
            let rows: BTreeMap<String, String> = serde_json::from_str(text.strip_prefix(OWNERS)?).ok()?;
            for (node, owner) in rows {
                owners.bind(&node, &owner)?;
            }
        }
        Some(owners)
    }
}

/// Whose new names are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(Mark),
    Connection(u64),
    Address(IpAddr),
}

/// The new replica names of each user or address in one CRDT: so many at once, and more at a slow rate.
#[derive(Debug, Default)]
pub(super) struct Newcomers(HashMap<Who, Bucket>);

/// The part of an allowance that has been taken, and when that was so.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    taken: usize,
    /// By the server's clock, as `now` below.
    since: Duration,
}

/// One more name of a user is allowed after this time.
pub(super) const USER_PACE: Duration = Duration::from_secs(2);
/// Users and addresses that are counted before those that have nothing taken are forgotten.
const MAX_COUNTED: usize = 1_024;

impl Newcomers {
    /// Counts a new name. With too many, the time after which one more is allowed.
    ///
    /// `per_user`: names at once of a user, or of a connection without one. `per_address`: of all those without a user
    /// that come from one address; those of the machine itself are not counted, and their names return within
    /// `memory`.
    pub(super) fn admit(
        &mut self,
        now: Duration,
        (shown, client): (Owner, &Arc<Connection>),
        (per_user, per_address): (usize, usize),
        memory: Duration,
    ) -> Result<(), Duration> {
        let address = client.remote().map(|remote| remote.ip().to_canonical()).filter(|address| !address.is_loopback());
        let mut counted = vec![(shown.user.map_or(Who::Connection(client.serial()), Who::User), per_user, USER_PACE)];
        if let (None, Some(address)) = (shown.user, address) {
            let pace = memory / u32::try_from(per_address.max(1)).unwrap_or(u32::MAX);
            counted.push((Who::Address(network(address)), per_address, pace));
        }
        if self.0.len() > MAX_COUNTED {
            self.0.retain(|_, bucket| now.saturating_sub(bucket.since) < memory);
        }
        for (who, limit, pace) in &counted {
            let bucket = self.0.entry(*who).or_insert(Bucket { taken: 0, since: now });
            bucket.refill(now, *pace);
            if bucket.taken >= *limit {
                return Err(*pace - now.saturating_sub(bucket.since).min(*pace));
            }
        }
        for (who, ..) in counted {
            if let Some(bucket) = self.0.get_mut(&who) {
                bucket.taken += 1;
            }
        }
        Ok(())
    }
}

impl Bucket {
    fn refill(&mut self, now: Duration, pace: Duration) {
        let passed = now.saturating_sub(self.since).as_nanos() / pace.as_nanos().max(1);
        let returned = usize::try_from(passed).unwrap_or(usize::MAX).min(self.taken);
        self.taken -= returned;
        self.since =
            if self.taken == 0 { now } else { self.since + pace * u32::try_from(returned).unwrap_or(u32::MAX) };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{budget::Budget, connection::Protocol};

    fn connection(serial: u64, address: &str) -> Arc<Connection> {
        let remote = address.parse().ok().map(|ip: IpAddr| (ip, 1).into());
        Arc::new(Connection::new(serial, 1, Protocol::V2, 1 << 20, 256).from(remote, &Arc::new(Budget::default())))
    }

    #[test]
    fn a_name_is_its_users_or_its_secrets() {
        let client = connection(1, "");
        let (ann, key) = (Owner::of("k", Some("ann"), Some("one")), Owner::of("k", None, Some("one")));
        let mut owners = Owners::default();
        assert!(matches!(owners.claim("a", ann, &client), Some(Claim::Free(owner)) if owner == ann));
        owners.take("a", Claim::Free(ann));
        let read = Owners::parse(&owners.text()).unwrap();
        for owners in [owners, read] {
            let may = |shown| matches!(owners.claim("a", shown, &client), Some(Claim::Proven));
            assert!(may(ann) && may(key));
            assert!(may(Owner::of("k", Some("ann"), None)) && may(Owner::of("k", Some("ann"), Some("other"))));
            assert!(may(Owner::of("k", Some("bob"), Some("one"))), "the client has another user now");
            for other in [
                Owner::default(),
                Owner::of("k", Some("bob"), None),
                Owner::of("k", Some("one"), Some("ann")),
                Owner::of("other", Some("ann"), Some("one")),
            ] {
                assert!(owners.claim("a", other, &client).is_none(), "{other:?}");
            }
        }
    }

    #[test]
    fn one_that_shows_nothing_holds_the_name_while_it_is_there() {
        let (first, second) = (connection(1, ""), connection(2, ""));
        let mut owners = Owners::default();
        let nobody = Owner::default();
        let claim = owners.claim("a", nobody, &first).unwrap();
        owners.take("a", claim);
        assert!(owners.claim("a", nobody, &first).is_some());
        assert!(owners.claim("a", nobody, &second).is_none());
        assert!(owners.claim("a", Owner::of("k", Some("mallory"), None), &second).is_none());
        first.end();
        assert!(owners.claim("a", nobody, &second).is_some(), "after a reconnect");
        assert_eq!(owners.text(), "", "nothing is stored");
    }

    #[test]
    fn what_was_not_written_here_is_refused() {
        for text in
            ["x", "{}", r#"owners {"a":"u12"}"#, r#"owners {"a":"uzz0102030405060708090a0b"}"#, r#"owners {"a":"é"}"#]
        {
            assert!(Owners::parse(text).is_none(), "{text}");
        }
        let owner = Owner::of("k", None, Some("s"));
        assert_eq!(Owner::parse(&owner.text()), Some(owner));
        assert_eq!(owner.text().len(), 25);
    }

    #[test]
    fn new_names_are_counted_by_user_connection_and_address() {
        const MEMORY: Duration = Duration::from_secs(600);
        let mut newcomers = Newcomers::default();
        let ann = Owner::of("k", Some("ann"), None);
        let passed = Cell::new(Duration::ZERO);
        let mut admit =
            |shown, client: &Arc<Connection>| newcomers.admit(passed.get(), (shown, client), (2, 5), MEMORY);
        for client in [connection(1, "10.0.0.1"), connection(2, "10.0.0.2")] {
            assert_eq!(admit(ann, &client), Ok(()), "of one user, over all connections");
        }
        assert_eq!(admit(ann, &connection(3, "")), Err(USER_PACE));
        passed.set(USER_PACE);
        assert_eq!(admit(ann, &connection(3, "")), Ok(()));
        assert!(admit(ann, &connection(3, "")).is_err());
        let nobody = Owner::default();
        for (serial, outcome) in [(4, true), (4, true), (4, false), (5, true), (5, true), (6, true), (6, false)] {
            assert_eq!(admit(nobody, &connection(serial, "10.0.0.1")).is_ok(), outcome, "{serial}");
        }
        assert!(admit(nobody, &connection(7, "10.0.0.2")).is_ok());
        for serial in 8..20 {
            assert!(admit(nobody, &connection(serial, "127.0.0.1")).is_ok(), "the machine itself");
        }
        passed.set(USER_PACE + MEMORY / 5);
        assert!(admit(nobody, &connection(20, "10.0.0.1")).is_ok(), "after a while");
    }
}
