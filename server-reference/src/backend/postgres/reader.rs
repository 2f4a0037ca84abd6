//! What a node hears: payloads become news and deliveries, in their order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use datasole_core::{Position, StreamId};

use super::{
    engine::{Session, corrupt},
    message,
    note::{Note, stream_hash, unpack},
};
use crate::{
    backend::{
        bus::{Delivery, NodeId},
        error::BackendError,
        log::{Entry, News, Tag},
        name,
        outlet::Outlet,
    },
    sync::lock,
};

/// Nodes whose numbers are remembered.
const NODES: usize = 1_024;

/// What a node listens to, by hash.
#[derive(Debug, Default)]
pub(super) struct Sources {
    streams: HashMap<u64, Vec<StreamId>>,
    topics: HashMap<u64, Vec<Arc<str>>>,
    /// Topics that end with the note of this number: what was published before is still on its way.
    leaving: Vec<(u64, Arc<str>)>,
    left: u64,
}

impl Sources {
    pub(super) fn follow(&mut self, streams: &[StreamId]) {
        for stream in streams {
            insert(&mut self.streams, stream_hash(stream), stream);
        }
    }

    pub(super) fn unfollow(&mut self, streams: &[StreamId]) {
        for stream in streams {
            remove(&mut self.streams, stream_hash(stream), stream);
        }
    }

    pub(super) fn subscribe(&mut self, topics: &[Arc<str>]) {
        for topic in topics {
            insert(&mut self.topics, message::topic_hash(topic), topic);
        }
        self.leaving.retain(|(_, leaving)| !topics.contains(leaving));
    }

    /// Ends topics when the note comes whose number this is.
    pub(super) fn unsubscribe(&mut self, topics: &[Arc<str>]) -> u64 {
        self.left += 1;
        self.leaving.extend(topics.iter().map(|topic| (self.left, Arc::clone(topic))));
        self.left
    }

    /// Whether notes of topics that end are on their way.
    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    fn leave(&mut self, number: u64) {
        let Self { topics, leaving, .. } = self;
        leaving.retain(|(last, topic)| {
            let is_over = *last <= number;
            if is_over {
                remove(topics, message::topic_hash(topic), topic);
            }
            !is_over
        });
    }
}

fn insert<T: Clone + PartialEq>(map: &mut HashMap<u64, Vec<T>>, hash: u64, item: &T) {
    let items = map.entry(hash).or_default();
    if !items.contains(item) {
        items.push(item.clone());
    }
}

fn remove<T: PartialEq>(map: &mut HashMap<u64, Vec<T>>, hash: u64, item: &T) {
    if let Some(items) = map.get_mut(&hash) {
        items.retain(|known| known != item);
        if items.is_empty() {
            map.remove(&hash);
        }
    }
}

pub(super) struct Reader {
    origin: u64,
    generation: u64,
    news: Outlet<News>,
    inbox: Outlet<Delivery>,
    /// The number of each other node's last payload.
    numbers: HashMap<u64, u64>,
}

/// A note that concerns this node.
enum Heard {
    /// Entries to be read.
    Read {
        stream: StreamId,
        epoch: u64,
        first: u64,
        count: u64,
    },
    News(News),
    Delivery(Delivery),
    /// A message in a row, and the topics of which it may be.
    Mail {
        from: u64,
        row: i64,
        topics: Vec<Arc<str>>,
    },
    Lost,
}

impl Reader {
    pub(super) fn new(origin: u64, generation: u64, news: Outlet<News>, inbox: Outlet<Delivery>) -> Self {
        Self { origin, generation, news, inbox, numbers: HashMap::new() }
    }

    /// Tells that anything may have been lost.
    pub(super) fn lost(&mut self) {
        self.news.send(News::Lost);
        self.inbox.send(Delivery::Lost);
    }

    pub(super) fn reconnected(&mut self, generation: u64) {
        if self.generation != generation {
            self.generation = generation;
            self.news.send(News::Generation(generation));
        }
        self.lost();
    }

    /// Hands on what payloads tell. Entries and long messages are read, in one statement each.
    pub(super) async fn deliver(
        &mut self,
        session: &Session,
        payloads: &[String],
        sources: &Mutex<Sources>,
    ) -> Result<(), BackendError> {
        let heard = self.sort(payloads, &mut lock(sources));
        let mut entries = read_entries(session, &heard).await?;
        let mut mail = read_mail(session, &heard).await?;
        for (n, heard) in heard.into_iter().enumerate() {
            match heard {
                Heard::Read { stream, epoch, first, count } => {
                    let read = entries.remove(&n).unwrap_or_default();
                    self.news.send(if read.len() as u64 == count {
                        News::Entries { stream, first: Position { epoch, seq: first }, entries: read }
                    } else {
                        News::Advanced { stream, position: Position { epoch, seq: first + count - 1 } }
                    });
                }
                Heard::News(news) => self.news.send(news),
                Heard::Delivery(delivery) => self.inbox.send(delivery),
                Heard::Mail { from, row, topics } => match mail.remove(&row) {
                    Some(body) => {
                        if let Some(delivery) = self.delivery(from, &body, &topics) {
                            self.inbox.send(delivery);
                        }
                    }
                    None => self.inbox.send(Delivery::Lost),
                },
                Heard::Lost => self.lost(),
            }
        }
        Ok(())
    }

    /// A message, if it is for this node or of one of these topics.
    fn delivery(&self, from: u64, body: &Bytes, topics: &[Arc<str>]) -> Option<Delivery> {
        let (topic, bytes) = message::read(body, self.origin)?;
        let topic = match topic {
            Some(topic) => Some(Arc::clone(topics.iter().find(|known| ***known == *topic)?)),
            None => None,
        };
        Some(Delivery::Message { topic, from: NodeId(from), bytes })
    }

    /// The notes that concern this node, in their order, each payload once.
    fn sort(&mut self, payloads: &[String], sources: &mut Sources) -> Vec<Heard> {
        let mut all = Vec::new();
        for payload in payloads {
            let Some((origin, number, notes)) = unpack(payload) else { continue };
            if origin == self.origin {
                for note in notes {
                    if let Note::Left { number } = note {
                        sources.leave(number);
                    }
                }
                continue;
            }
            if self.numbers.len() >= NODES && !self.numbers.contains_key(&origin) {
                self.numbers.clear();
            }
            let last = self.numbers.entry(origin).or_insert(number.saturating_sub(1));
            if number <= *last {
                continue;
            }
            if number > *last + 1 {
                all.push(Heard::Lost);
            }
            *last = number;
            for note in notes {
                match note {
                    Note::Entries { stream, epoch, first, count } => {
                        for stream in sources.streams.get(&stream).into_iter().flatten() {
                            all.push(Heard::Read { stream: stream.clone(), epoch, first, count });
                        }
                    }
                    Note::Advanced { stream, epoch, last } => {
                        for stream in sources.streams.get(&stream).into_iter().flatten() {
                            let position = Position { epoch, seq: last };
                            all.push(Heard::News(News::Advanced { stream: stream.clone(), position }));
                        }
                    }
                    Note::Turn { node, stream } if node == self.origin => all.push(Heard::News(News::Turn(stream))),
                    Note::Message { to, body } if self.is_for_me(to, sources) => {
                        let topics = sources.topics.get(&to).map(Vec::as_slice).unwrap_or_default();
                        all.extend(self.delivery(origin, &body.into(), topics).map(Heard::Delivery));
                    }
                    Note::Mail { to, row } if self.is_for_me(to, sources) => {
                        let topics = sources.topics.get(&to).cloned().unwrap_or_default();
                        all.push(Heard::Mail { from: origin, row, topics });
                    }
                    Note::Turn { .. } | Note::Message { .. } | Note::Mail { .. } | Note::Left { .. } => {}
                }
            }
        }
        all
    }

    fn is_for_me(&self, to: u64, sources: &Sources) -> bool {
        to == message::everybody() || to == message::node_hash(self.origin) || sources.topics.contains_key(&to)
    }
}

/// The entries that are to be read, by the place of their note.
async fn read_entries(session: &Session, heard: &[Heard]) -> Result<HashMap<usize, Vec<Entry>>, BackendError> {
    let (mut places, mut names, mut epochs, mut firsts, mut lasts) = (vec![], vec![], vec![], vec![], vec![]);
    for (n, heard) in heard.iter().enumerate() {
        if let Heard::Read { stream, epoch, first, count } = heard {
            places.push(n);
            names.push(name::write(stream).into_bytes());
            epochs.push(epoch.cast_signed());
            firsts.push(first.cast_signed());
            lasts.push((first + count).cast_signed() - 1);
        }
    }
    let mut read: HashMap<usize, Vec<Entry>> = HashMap::new();
    if places.is_empty() {
        return Ok(read);
    }
    let sql = "SELECT u.item, l.node, l.count, l.prev, l.entry
        FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS u (name, epoch, first, last, item)
        JOIN head h ON h.name = u.name JOIN log l ON l.id = h.id AND l.seq BETWEEN u.first AND u.last, meta m
        WHERE h.seq >= u.last AND lived(h.epoch, h.life, m.life) = u.epoch ORDER BY u.item, l.seq";
    for row in session.query(sql, &[&names, &epochs, &firsts, &lasts]).await? {
        let entry = || {
            let item: i64 = row.try_get(0)?;
            let tag = Tag { node: bits(&row, 1)?, count: bits(&row, 2)? };
            let bytes: Vec<u8> = row.try_get(4)?;
            Ok::<_, tokio_postgres::Error>((item, Entry { tag, prev: bits(&row, 3)?, bytes: bytes.into() }))
        };
        let (item, entry) = entry().map_err(|_| corrupt("an entry"))?;
        let place = usize::try_from(item - 1).ok().and_then(|item| places.get(item)).copied();
        read.entry(place.ok_or_else(|| corrupt("an entry"))?).or_default().push(entry);
    }
    Ok(read)
}

async fn read_mail(session: &Session, heard: &[Heard]) -> Result<HashMap<i64, Bytes>, BackendError> {
    let rows = heard.iter().filter_map(|heard| if let Heard::Mail { row, .. } = heard { Some(*row) } else { None });
    let rows: Vec<i64> = rows.collect();
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let mail = session.query("SELECT id, body FROM mail WHERE id = ANY ($1)", &[&rows]).await?;
    let read = mail.iter().map(|row| Ok((row.try_get(0)?, Bytes::from(row.try_get::<_, Vec<u8>>(1)?))));
    read.collect::<Result<_, tokio_postgres::Error>>().map_err(|_| corrupt("a message"))
}

/// Tags and hashes use all 64 bits.
pub(super) fn bits(row: &tokio_postgres::Row, column: usize) -> Result<u64, tokio_postgres::Error> {
    row.try_get::<_, i64>(column).map(i64::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use super::{super::note::pack, *};
    use crate::backend::bus::Address;

    /// What a reader makes of these payloads, in one word each.
    fn sorted(reader: &mut Reader, payloads: &[String], sources: &mut Sources) -> Vec<String> {
        let word = |heard| match heard {
            Heard::Read { stream, first, count, .. } => format!("read {} {first}+{count}", stream.key),
            Heard::News(News::Advanced { stream, position }) => format!("advanced {} {}", stream.key, position.seq),
            Heard::News(News::Turn(stream)) => format!("turn {}", stream.key),
            Heard::News(news) => format!("{news:?}"),
            Heard::Delivery(Delivery::Message { topic, from, .. }) => {
                format!("message {} {}", from.0, topic.as_deref().unwrap_or_default())
            }
            Heard::Delivery(delivery) => format!("{delivery:?}"),
            Heard::Mail { row, .. } => format!("mail {row}"),
            Heard::Lost => "lost".to_owned(),
        };
        reader.sort(payloads, sources).into_iter().map(word).collect()
    }

    fn reader() -> Reader {
        Reader::new(7, 0, Outlet::new(9, || News::Lost).0, Outlet::new(9, || Delivery::Lost).0)
    }

    #[test]
    fn each_hears_what_is_meant_for_it() {
        let mut sources = Sources::default();
        let (mine, other) = (StreamId::state("mine"), StreamId::state("other"));
        sources.follow(&[mine.clone(), mine.clone()]);
        sources.subscribe(&["t".into()]);
        let entries = |stream: &StreamId| Note::Entries { stream: stream_hash(stream), epoch: 1, first: 2, count: 3 };
        let message = |address| {
            let (to, body) = message::write(address, b"m");
            Note::Message { to, body }
        };
        let notes = [
            entries(&mine),
            entries(&other),
            Note::Advanced { stream: stream_hash(&mine), epoch: 1, last: 9 },
            Note::Turn { node: 7, stream: other.clone() },
            Note::Turn { node: 8, stream: mine.clone() },
            message(Address::Everybody),
            message(Address::Node(NodeId(7))),
            message(Address::Node(NodeId(8))),
            message(Address::Topic("t")),
            message(Address::Topic("u")),
            Note::Mail { to: message::topic_hash("t"), row: 5 },
        ];
        let payloads = pack(9, &mut 0, &notes);
        let heard =
            ["read mine 2+3", "advanced mine 9", "turn other", "message 9 ", "message 9 ", "message 9 t", "mail 5"];
        assert_eq!(sorted(&mut reader(), &payloads, &mut sources), heard);
        let own = pack(7, &mut 0, &notes);
        assert!(sorted(&mut reader(), &own, &mut sources).is_empty(), "nobody hears itself");
        sources.unfollow(&[mine, other]);
        let number = sources.unsubscribe(&["t".into(), "never".into()]);
        let on_their_way = ["turn other", "message 9 ", "message 9 ", "message 9 t", "mail 5"];
        assert_eq!(sorted(&mut reader(), &payloads, &mut sources), on_their_way);
        let left = pack(7, &mut 0, &[Note::Left { number }]);
        let (before, after) = (payloads.clone(), pack(9, &mut 1, &notes));
        let all = [before, left, after].concat();
        let heard = [&on_their_way[..], &["turn other", "message 9 ", "message 9 "]].concat();
        assert_eq!(sorted(&mut reader(), &all, &mut sources), heard, "what comes after the note is not heard");
        assert!(sources.streams.is_empty() && sources.topics.is_empty() && !sources.is_leaving());
        let number = sources.unsubscribe(&["t".into()]);
        sources.subscribe(&["t".into()]);
        sorted(&mut reader(), &pack(7, &mut 0, &[Note::Left { number }]), &mut sources);
        assert_eq!(sources.topics.len(), 1, "subscribed again meanwhile");
    }

    #[test]
    fn repeats_are_dropped_and_gaps_told() {
        let (mut sources, mut reader) = (Sources::default(), reader());
        let payload = |origin, number: u64| {
            let (to, body) = message::write(Address::Everybody, b"m");
            let note = Note::Message { to, body };
            pack(origin, &mut (number - 1), &[note])
        };
        for (origin, number, heard) in [
            (1, 40, &["message 1 "][..]),
            (1, 41, &["message 1 "]),
            (1, 41, &[]),
            (2, 1, &["message 2 "]),
            (1, 40, &[]),
            (1, 43, &["lost", "message 1 "]),
            (1, 44, &["message 1 "]),
            (2, 2, &["message 2 "]),
        ] {
            assert_eq!(sorted(&mut reader, &payload(origin, number), &mut sources), heard, "{origin} {number}");
        }
        for origin in 100..100 + 2 * NODES as u64 {
            sorted(&mut reader, &payload(origin, 5), &mut sources);
            assert!(reader.numbers.len() <= NODES);
        }
        assert_eq!(sorted(&mut reader, &["1 0".into()], &mut sources), [""; 0], "a number that nobody gives");
    }
}
