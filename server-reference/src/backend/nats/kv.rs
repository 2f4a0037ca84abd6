//! Values, maps, quotas and leases: one message each, of which the newest counts. What has expired is absent at once,
//! and forgotten by the engine a little later.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    api::{Terms, corrupt, unavailable},
    link::Link,
    record::{join, split, take_u64},
    session::Session,
};
use crate::{
    backend::{
        bus::NodeId,
        error::BackendError,
        kv::{Expected, Kv, Lease, Quota, Taken, Version},
        quota::Meter,
    },
    clock::millis,
};

/// The clocks of two nodes, as they know the engine's, differ by less than this share of a window, or this time.
const SHARE: u32 = 64;
const DIFFERENCE: Duration = Duration::from_millis(5);

/// One node's handle.
pub(super) struct Handle {
    pub(super) link: Arc<Link>,
}

/// The moment `ttl` from now, in the engine's milliseconds; 0 for never.
fn end(session: &Session, ttl: Option<Duration>) -> u64 {
    match ttl {
        None => 0,
        Some(Duration::ZERO) => 1,
        Some(ttl) => session.now().saturating_add(millis(ttl)).max(1),
    }
}

fn is_over(session: &Session, ends: u64) -> bool {
    ends > 0 && ends <= session.now()
}

/// A lease as it is stored.
struct Held {
    ends: u64,
    holder: u64,
    version: u64,
    name: Bytes,
}

impl Held {
    fn read(payload: Bytes) -> Result<Self, BackendError> {
        let ([ends, holder, version], name) = split(payload).ok_or_else(|| corrupt("a lease"))?;
        Ok(Self { ends, holder, version, name })
    }
}

impl Handle {
    /// The number of the subject's message, the end of its value and the value.
    async fn stored(&self, session: &Session, subject: &str) -> Result<Option<(u64, u64, Bytes)>, BackendError> {
        let Some(message) = session.api.last(&session.values, subject).await? else { return Ok(None) };
        let ([ends], value) = split(message.payload).ok_or_else(|| corrupt("a value"))?;
        Ok(Some((message.number, ends, value)))
    }

    /// The number of the message that says how a map lives, the number of that life, and its end. Maps are in life 0
    /// until they have an end.
    async fn map(&self, session: &Session, key: &str) -> Result<(u64, u64, u64), BackendError> {
        let subject = self.link.options.names.map(key);
        let Some(message) = session.api.last(&session.values, &subject).await? else { return Ok((0, 0, 0)) };
        let ([life, ends], _) = split(message.payload).ok_or_else(|| corrupt("a map"))?;
        Ok((message.number, life, ends))
    }

    /// The life in which a field is set now, with this end of the map.
    async fn touch(&self, session: &Session, key: &str, ttl: Option<Duration>) -> Result<u64, BackendError> {
        loop {
            let (number, life, ends) = self.map(session, key).await?;
            let is_new = is_over(session, ends);
            if ttl.is_none() && ends == 0 {
                return Ok(life);
            }
            let life = if is_new { getrandom::u64().map_err(unavailable)?.max(1) } else { life };
            let next = join([life, end(session, ttl)], b"");
            let subject = self.link.options.names.map(key);
            if let Some(number) = session.api.put(subject, next, Terms::after(number)).await? {
                if is_new {
                    session.api.purge(&session.values, &self.link.options.names.fields(key), Some(number)).await?;
                }
                return Ok(life);
            }
        }
    }

    async fn change(&self, lease: &Lease, ttl: Duration) -> Result<bool, BackendError> {
        let session = self.link.session()?;
        let subject = self.link.options.names.lease(&lease.name);
        loop {
            let Some(message) = session.api.last(&session.values, &subject).await? else { return Ok(false) };
            let held = Held::read(message.payload)?;
            if is_over(&session, held.ends) || (held.holder, held.version) != (lease.holder.0, lease.version.0) {
                return Ok(false);
            }
            if self
                .hold(&session, &subject, message.number, &Held { ends: end(&session, Some(ttl)), ..held }, ttl)
                .await?
            {
                return Ok(true);
            }
        }
    }

    async fn hold(
        &self,
        session: &Session,
        subject: &str,
        after: u64,
        held: &Held,
        ttl: Duration,
    ) -> Result<bool, BackendError> {
        let record = join([held.ends, held.holder, held.version], &held.name);
        let terms = Terms::after(after).ttl(Some(ttl));
        Ok(session.api.put(subject.to_owned(), record, terms).await?.is_some())
    }
}

#[async_trait]
impl Kv for Handle {
    async fn get(&self, key: &str) -> Result<Option<(Version, Bytes)>, BackendError> {
        let session = self.link.session()?;
        let stored = self.stored(&session, &self.link.options.names.value(key)).await?;
        let alive = stored.filter(|(_, ends, _)| !is_over(&session, *ends));
        Ok(alive.map(|(number, _, value)| (Version(number), value)))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<Option<Version>, BackendError> {
        let session = self.link.session()?;
        let subject = self.link.options.names.value(key);
        loop {
            let after = match expected {
                Expected::Any => None,
                Expected::Absent | Expected::Version(_) => {
                    let stored = self.stored(&session, &subject).await?;
                    let number = stored.as_ref().map_or(0, |(number, ..)| *number);
                    let present = stored.filter(|(_, ends, _)| !is_over(&session, *ends));
                    if !expected.allows(present.map(|(number, ..)| Version(number))) {
                        return Ok(None);
                    }
                    Some(number)
                }
            };
            let terms = Terms { after, ttl, ..Terms::default() };
            let record = join([end(&session, ttl)], &value);
            if let Some(number) = session.api.put(subject.clone(), record, terms).await? {
                return Ok(Some(Version(number)));
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<(), BackendError> {
        let session = self.link.session()?;
        session.api.purge(&session.values, &self.link.options.names.value(key), None).await
    }

    async fn fields(&self, key: &str) -> Result<Vec<(String, Bytes)>, BackendError> {
        let session = self.link.session()?;
        let filter = self.link.options.names.fields(key);
        let ((_, life, ends), messages) =
            futures_util::future::try_join(self.map(&session, key), session.api.scan(&session.values, &filter, 1))
                .await?;
        if is_over(&session, ends) {
            return Ok(Vec::new());
        }
        let mut fields = Vec::with_capacity(messages.len());
        for message in messages {
            let ([of, length], mut rest) = split(message.payload).ok_or_else(|| corrupt("a field"))?;
            let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
            let name = rest.split_to(length.ok_or_else(|| corrupt("a field"))?);
            if of == life {
                let name = String::from_utf8(name.into()).map_err(|_| corrupt("a field"))?;
                fields.push((name, rest));
            }
        }
        fields.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(fields)
    }

    async fn set_field(
        &self,
        key: &str,
        field: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), BackendError> {
        let session = self.link.session()?;
        let life = self.touch(&session, key, ttl).await?;
        let subject = self.link.options.names.field(key, field);
        match value {
            Some(value) => {
                let record = join([life, field.len() as u64], &[field.as_bytes(), &value].concat());
                session.api.put(subject, record, Terms::default()).await.map(drop)
            }
            None => session.api.purge(&session.values, &subject, None).await,
        }
    }

    async fn take(&self, key: &str, quota: Quota) -> Result<Taken, BackendError> {
        let session = self.link.session()?;
        // Counted for a little longer, since nodes know the engine's time only so well.
        let margin = (quota.window / SHARE).max(DIFFERENCE);
        let quota = Quota { window: quota.window.saturating_add(margin), ..quota };
        let subject = self.link.options.names.quota(key, quota.window.as_nanos());
        loop {
            let message = session.api.last(&session.values, &subject).await?;
            let number = message.as_ref().map_or(0, |message| message.number);
            let mut payload = message.map(|message| message.payload).unwrap_or_default();
            let slots = std::iter::from_fn(|| Some((take_u64(&mut payload)?, take_u64(&mut payload)?)));
            let mut meter = Meter::from_slots(slots);
            let taken = meter.take(Duration::from_millis(session.now()), quota);
            if !taken.granted {
                return Ok(taken);
            }
            let slots: Vec<u8> = meter
                .slots()
                .flat_map(|(slot, granted)| [slot.to_be_bytes(), granted.to_be_bytes()].concat())
                .collect();
            let terms = Terms::after(number).ttl(Some(quota.window.saturating_mul(2)));
            if session.api.put(subject.clone(), slots.into(), terms).await?.is_some() {
                return Ok(taken);
            }
        }
    }

    async fn lease(&self, name: &str, holder: NodeId, ttl: Duration) -> Result<Option<Lease>, BackendError> {
        let session = self.link.session()?;
        let subject = self.link.options.names.lease(name);
        loop {
            let message = session.api.last(&session.values, &subject).await?;
            let number = message.as_ref().map_or(0, |message| message.number);
            if let Some(message) = message {
                let held = Held::read(message.payload)?;
                if held.holder != holder.0 && !is_over(&session, held.ends) {
                    return Ok(None);
                }
            }
            let version = getrandom::u64().map_err(unavailable)?;
            let name_bytes = Bytes::copy_from_slice(name.as_bytes());
            let held = Held { ends: end(&session, Some(ttl)), holder: holder.0, version, name: name_bytes };
            if self.hold(&session, &subject, number, &held, ttl).await? {
                return Ok(Some(Lease { name: name.to_owned(), holder, version: Version(version), ttl }));
            }
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, BackendError> {
        self.change(lease, lease.ttl).await
    }

    async fn end(&self, lease: Lease) -> Result<(), BackendError> {
        self.change(&lease, Duration::ZERO).await.map(drop)
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<(String, NodeId)>, BackendError> {
        let session = self.link.session()?;
        let messages = session.api.scan(&session.values, &self.link.options.names.leases(), 1).await?;
        let mut leases = Vec::new();
        for message in messages {
            let held = Held::read(message.payload)?;
            if held.name.starts_with(prefix.as_bytes()) && !is_over(&session, held.ends) {
                let name = String::from_utf8(held.name.into()).map_err(|_| corrupt("a lease"))?;
                leases.push((name, NodeId(held.holder)));
            }
        }
        leases.sort_unstable();
        Ok(leases)
    }
}
