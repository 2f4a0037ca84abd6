//! Connections, their users, and the groups that the application has put them in.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, sync::Arc};

use bytes::Bytes;

use super::{
    Hub,
    members::Members,
    relaying::{V1, group_topic, user_topic},
};
use crate::{
    auth::Identity,
    connection::{Connection, Protocol},
    mailbox::AT_ONCE,
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
        // One that moves on meanwhile is seen in either place: it leaves the first after it has entered the second.
        lock(&self.strangers).iter().for_each(&mut f);
        lock(&self.asking).iter().for_each(&mut f);
        read(&self.connections).iter().for_each(f);
    }

    /// Adds a connection that has yet to authenticate. If there are more than `limit`, the first one of them is removed.
    pub(crate) fn expect(&self, connection: &Arc<Connection>, limit: usize) -> Option<Arc<Connection>> {
        let mut strangers = lock(&self.strangers);
        strangers.insert(connection);
        if strangers.len() <= limit {
            return None;
        }
        let first = strangers.iter().min_by_key(|stranger| stranger.serial())?.clone();
        strangers.remove(&first);
        Some(first)
    }

    /// A connection that had yet to authenticate has sent a token: it is removed for nobody else any more.
    pub(crate) fn heed(&self, connection: &Arc<Connection>) {
        lock(&self.asking).insert(connection);
        lock(&self.strangers).remove(connection);
    }

    /// Adds an authenticated connection, unless it has ended. A version 1 client gets every stream in memory of the kinds
    /// it follows that it may read; what is only stored, [`recall`](Self::recall) has to fetch.
    pub(crate) fn join(&self, connection: &Arc<Connection>, identity: &Identity) {
        write(&self.connections).insert(connection);
        lock(&self.strangers).remove(connection);
        lock(&self.asking).remove(connection);
        let is_first = {
            let mut users = lock(&self.users);
            let members = users.entry(identity.user_id.clone()).or_default();
            members.insert(connection) && members.len() == 1
        };
        if is_first {
            self.topic_changed(user_topic(&identity.user_id));
        }
        if connection.protocol() == Protocol::V1 {
            // Registered first, so that a stream born meanwhile finds it; joining twice is harmless.
            write(&self.v1).insert(connection);
            self.listen();
            self.topic_changed(V1.into());
            let mut room = AT_ONCE;
            for followed in self.streams.iter().filter(|streams| streams.spec().v1_follows) {
                let mut streams = followed.in_memory();
                streams.sort_unstable_by(|a, b| a.id().cmp(b.id()));
                for stream in streams.iter().filter(|stream| self.access.may_read(identity, stream.id())) {
                    stream.subscribe_v1(connection, &mut room);
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
        lock(&self.asking).remove(connection);
        if let Some(identity) = connection.identity() {
            let was_last = remove_member(&mut lock(&self.users), identity.user_id.as_str(), connection);
            if was_last {
                self.topic_changed(user_topic(&identity.user_id));
            }
        }
        for group in connection.take_groups() {
            let was_last = remove_member(&mut lock(&self.groups), &group, connection);
            if was_last {
                self.topic_changed(group_topic(&group));
            }
        }
        if connection.protocol() == Protocol::V1 {
            write(&self.v1).remove(connection);
            self.topic_changed(V1.into());
            for followed in self.streams.iter().filter(|streams| streams.spec().v1_follows) {
                followed.in_memory().iter().for_each(|stream| self.unsubscribe(stream, connection));
                followed.trim(self.now());
            }
        }
    }

    /// Puts a connection into a group, of which messages from other nodes come from here on too; `false` when it is in
    /// too many groups or has ended.
    pub(crate) async fn join_group(&self, connection: &Arc<Connection>, group: &str) -> bool {
        let is_in = self.enter_group(connection, group);
        self.settle_topics().await;
        is_in
    }

    fn enter_group(&self, connection: &Arc<Connection>, group: &str) -> bool {
        let mut joined = lock(&connection.own().groups);
        if joined.iter().any(|own| **own == *group) {
            return true;
        }
        if joined.len() >= self.limits.max_groups || read(&self.connections).get(connection.serial()).is_none() {
            return false;
        }
        let name: Arc<str> = group.into();
        joined.push(name.clone());
        let is_first = {
            let mut groups = lock(&self.groups);
            let members = groups.entry(name).or_default();
            members.insert(connection) && members.len() == 1
        };
        if is_first {
            self.topic_changed(group_topic(group));
        }
        true
    }

    /// Takes a connection out of a group.
    pub(crate) fn leave_group(&self, connection: &Arc<Connection>, group: &str) {
        lock(&connection.own().groups).retain(|own| **own != *group);
        let was_last = remove_member(&mut lock(&self.groups), group, connection);
        if was_last {
            self.topic_changed(group_topic(group));
        }
    }

    /// Hands a message to the connections of this node that it is for, and that understand it.
    pub(super) fn send_here(&self, audience: Audience<'_>, message: &Bytes, v2_only: bool) {
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

pub(super) fn send_to_all(connections: &[Arc<Connection>], message: &Bytes, v2_only: bool) {
    let understands = |connection: &&Arc<Connection>| !v2_only || connection.protocol() == Protocol::V2;
    connections.iter().filter(understands).for_each(|connection| connection.mailbox().push(message.clone()));
}

/// Removes a member; whether it was the last.
fn remove_member<K: Borrow<str> + Eq + Hash>(
    map: &mut HashMap<K, Members>,
    key: &str,
    connection: &Connection,
) -> bool {
    let Some(members) = map.get_mut(key) else { return false };
    members.remove(connection);
    let was_last = members.is_empty();
    if was_last {
        map.remove(key);
    }
    was_last
}
