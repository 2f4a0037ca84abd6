//! Connections, their users, and the groups that the application has put them in.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, sync::Arc};

use bytes::Bytes;

use super::{Hub, members::Members};
use crate::{
    auth::Identity,
    connection::{Connection, Protocol},
    sync::{lock, read, write},
};

/// Receivers of a message that belongs to no stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience<'a> {
    Group(&'a str),
    User(&'a str),
    Connection(&'a str),
}

impl Hub {
    pub(crate) fn connection_count(&self) -> usize {
        read(&self.connections).len()
    }

    pub(crate) fn connection(&self, id: &str) -> Option<Arc<Connection>> {
        let serial = u64::from_str_radix(id.split_once('-')?.1, 16).ok()?;
        let connection = read(&self.connections).get(serial)?.clone();
        (connection.id() == id).then_some(connection)
    }

    /// Goes through all connections, those that have yet to authenticate included.
    pub(crate) fn each_connection(&self, mut f: impl FnMut(&Arc<Connection>)) {
        // One that is authenticated meanwhile is seen in either place: it leaves the first after it has entered the second.
        lock(&self.strangers).iter().for_each(&mut f);
        read(&self.connections).iter().for_each(f);
    }

    /// Adds a connection that has yet to authenticate.
    pub(crate) fn expect(&self, connection: &Arc<Connection>) {
        lock(&self.strangers).insert(connection);
    }

    /// Adds an authenticated connection, unless it has ended. A version 1 client gets every stream in memory of the kinds
    /// it follows that it may read; what is only stored, [`recall`](Self::recall) has to fetch.
    pub(crate) fn join(&self, connection: &Arc<Connection>, identity: &Identity) {
        write(&self.connections).insert(connection);
        lock(&self.strangers).remove(connection);
        lock(&self.users).entry(identity.user_id.clone()).or_default().insert(connection);
        if connection.protocol() == Protocol::V1 {
            // Registered first, so that a stream born meanwhile finds it; joining twice is harmless.
            write(&self.v1).insert(connection);
            for followed in self.streams.iter().filter(|streams| streams.spec().v1_follows) {
                let mut streams = followed.in_memory();
                streams.sort_unstable_by(|a, b| a.id().cmp(b.id()));
                for stream in streams.iter().filter(|stream| self.access.may_read(identity, stream.id())) {
                    stream.subscribe_v1(connection);
                }
            }
        }
        // The connection may have ended while its credentials were checked: then it has left before it came.
        if connection.has_ended() {
            self.leave(connection);
        }
    }

    /// Removes a connection that has ended. Its subscriptions are the session's to end.
    pub(crate) fn leave(&self, connection: &Arc<Connection>) {
        write(&self.connections).remove(connection);
        lock(&self.strangers).remove(connection);
        if let Some(identity) = connection.identity() {
            remove_member(&mut lock(&self.users), identity.user_id.as_str(), connection);
        }
        let joined = std::mem::take(&mut *lock(&connection.groups));
        let mut groups = lock(&self.groups);
        for group in joined {
            remove_member(&mut groups, &group, connection);
        }
        drop(groups);
        if connection.protocol() == Protocol::V1 {
            write(&self.v1).remove(connection);
            for followed in self.streams.iter().filter(|streams| streams.spec().v1_follows) {
                followed.in_memory().iter().for_each(|stream| stream.unsubscribe(connection));
                followed.trim(self.now());
            }
        }
    }

    /// Puts a connection into a group; `false` when it is in too many groups or has ended.
    pub(crate) fn join_group(&self, connection: &Arc<Connection>, group: &str) -> bool {
        let mut joined = lock(&connection.groups);
        if joined.iter().any(|own| **own == *group) {
            return true;
        }
        if joined.len() >= self.limits.max_groups || read(&self.connections).get(connection.serial()).is_none() {
            return false;
        }
        let name: Arc<str> = group.into();
        joined.push(name.clone());
        lock(&self.groups).entry(name).or_default().insert(connection);
        true
    }

    /// Takes a connection out of a group.
    pub(crate) fn leave_group(&self, connection: &Arc<Connection>, group: &str) {
        lock(&connection.groups).retain(|own| **own != *group);
        remove_member(&mut lock(&self.groups), group, connection);
    }

    /// Hands a message to the connections that it is for, and that understand it.
    pub(crate) fn send(&self, audience: Audience<'_>, message: &Bytes, v2_only: bool) {
        match audience {
            Audience::Group(group) => {
                if let Some(members) = lock(&self.groups).get(group) {
                    send_to_all(members.as_slice(), message, v2_only);
                }
            }
            Audience::User(user) => {
                if let Some(members) = lock(&self.users).get(user) {
                    send_to_all(members.as_slice(), message, v2_only);
                }
            }
            Audience::Connection(id) => send_to_all(self.connection(id).as_slice(), message, v2_only),
        }
    }
}

fn send_to_all(connections: &[Arc<Connection>], message: &Bytes, v2_only: bool) {
    let understands = |connection: &&Arc<Connection>| !v2_only || connection.protocol() == Protocol::V2;
    connections.iter().filter(understands).for_each(|connection| connection.mailbox().push(message.clone()));
}

fn remove_member<K: Borrow<str> + Eq + Hash>(map: &mut HashMap<K, Members>, key: &str, connection: &Connection) {
    if let Some(members) = map.get_mut(key) {
        members.remove(connection);
        if members.is_empty() {
            map.remove(key);
        }
    }
}
