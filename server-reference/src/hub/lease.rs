//! The lease of a node's incarnation: by it other nodes know that what its connections share is still true.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::timeout};

use super::{
    Hub,
    letter::{Letter, To},
    relaying::PAUSE,
    seat::Name,
    sharing::topics_of,
};
use crate::{
    backend::{
        BackendError,
        bus::{Address, NodeId},
    },
    sync::lock,
};

/// How long an incarnation counts as alive that does not renew its lease, and how often it does.
const LEASE: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);
/// How long one node has the right to take away what an incarnation has left.
const BURIAL: Duration = Duration::from_secs(30);
/// The map of all incarnations.
const NODES: &str = "nodes";
/// Begins the names of the leases.
const ALIVE: &str = "n:";

impl Hub {
    /// The incarnations that are alive.
    pub(super) async fn leases(&self) -> Result<BTreeSet<Name>, BackendError> {
        let leases = self.backend.kv.leases(ALIVE).await?;
        Ok(leases.iter().filter_map(|(name, _)| name.strip_prefix(ALIVE)?.parse().ok()).collect())
    }

    /// Renews the lease, and sees who else is alive.
    async fn look_at_leases(&self) -> Result<(), BackendError> {
        let now = self.sharing.ticks.fetch_add(1, Ordering::SeqCst) + 1;
        if !self.is_sharing() {
            return Ok(());
        }
        self.renew().await?;
        self.compare_doubtful(now).await?;
        self.look_at_rosters(now).await;
        let (kv, known) = (&self.backend.kv, self.known_names());
        let registered = kv.fields(NODES).await?;
        // Whoever is known, or registered, had a lease before: the leases are asked for behind.
        let alive = self.leases().await?;
        lock(&self.sharing.alive).clone_from(&alive);
        let own = self.name();
        self.bury_shares(&known.difference(&alive).copied().collect());
        for (name, _) in registered {
            if let Ok(name) = name.parse::<Name>()
                && !alive.contains(&name)
                && name != own
                && let Some(lease) = kv.lease(&format!("bury:{name}"), NodeId(own.node), BURIAL).await?
            {
                self.bury(name).await?;
                kv.end(lease).await?;
            }
        }
        Ok(())
    }

    /// Renews the lease, or begins another incarnation where it was lost.
    async fn renew(&self) -> Result<(), BackendError> {
        let sharing = &self.sharing;
        let lease = lock(&sharing.lease).clone();
        if let Some(lease) = lease {
            if self.backend.kv.renew(&lease).await? {
                return Ok(());
            }
            tracing::warn!("this server was taken for dead; it shares its connections anew");
            let _turn = sharing.turn.lock().await;
            sharing.registered.store(false, Ordering::SeqCst);
            sharing.incarnation.fetch_add(1, Ordering::SeqCst);
            *lock(&sharing.lease) = None;
        }
        let _turn = sharing.turn.lock().await;
        let (kv, name) = (&self.backend.kv, self.name());
        let Some(lease) = kv.lease(&format!("{ALIVE}{name}"), NodeId(name.node), LEASE).await? else {
            return Err(BackendError::Unavailable("another node has the lease of this one".into()));
        };
        kv.set_field(NODES, &name.to_string(), Some(Bytes::new()), None).await?;
        *lock(&sharing.lease) = Some(lease);
        sharing.registered.store(true, Ordering::SeqCst);
        self.share_everything();
        let greeting = Letter { to: To::Greeting, v2_only: false, message: Bytes::new() };
        // Those who do not hear it look for themselves.
        let _ = self.backend.bus.publish(Address::Everybody, greeting.encode()).await;
        Ok(())
    }

    /// Takes away what an incarnation has left.
    async fn bury(&self, name: Name) -> Result<(), BackendError> {
        let kv = &self.backend.kv;
        let topics = topics_of(name);
        for (topic, _) in kv.fields(&topics).await? {
            for (field, _) in kv.fields(&topic).await? {
                if Name::of_field(&field).is_some_and(|(of, _)| of == name) {
                    kv.set_field(&topic, &field, None, None).await?;
                }
            }
            kv.set_field(&topics, &topic, None, None).await?;
        }
        kv.set_field(NODES, &name.to_string(), None, None).await
    }

    /// Says goodbye: other nodes know at once that the connections of this one are gone.
    pub(crate) async fn depart(&self) -> Result<(), BackendError> {
        if !self.sharing.registered.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.write_shares().await;
        self.sharing.departed.store(true, Ordering::SeqCst);
        let _turn = self.sharing.turn.lock().await;
        self.sharing.registered.store(false, Ordering::SeqCst);
        self.bury(self.name()).await?;
        let lease = lock(&self.sharing.lease).take();
        match lease {
            Some(lease) => self.backend.kv.end(lease).await,
            None => Ok(()),
        }
    }
}

/// Holds the lease as long as the server lives and there are others.
pub(super) async fn hold_lease(hub: Weak<Hub>, wake: Arc<Notify>) {
    let mut pause = RENEWAL;
    loop {
        let _ = timeout(pause, wake.notified()).await;
        let Some(hub) = hub.upgrade() else { return };
        pause = match hub.look_at_leases().await {
            Ok(()) => RENEWAL,
            Err(error) => {
                tracing::warn!(%error, "this server cannot tell others that it is alive");
                PAUSE
            }
        };
    }
}
