use std::io::Cursor;

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{Role, WebSocket, WebSocketConfig},
};

use super::{
    fuzz::{LIMIT, read, websocket},
    *,
};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(0xfe);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0xff);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

type Read = (Vec<(Opcode, Vec<u8>)>, Option<Violation>);

/// The same, however the stream is cut.
fn all(frames: &[Vec<u8>]) -> Read {
    let stream = frames.concat();
    let whole = read(&stream, []);
    for piece in [1, 2, 3, 5, 7, 64, 1_000, 8_191] {
        assert!(read(&stream, std::iter::repeat(piece)) == whole, "in pieces of {piece}");
    }
    whole
}

fn found(opcode: Opcode, payload: &[u8]) -> (Opcode, Vec<u8>) {
    (opcode, payload.to_vec())
}

#[test]
fn messages_of_every_length_class() {
    for length in [0, 1, 125, 126, 127, 128, 8_191, 8_192, 8_193, 20_000, LIMIT - 1, LIMIT] {
        let payload: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let read = all(&[frame(0x82, &payload), frame(0x82, b"next")]);
        assert!(
            read == (vec![found(Opcode::Binary, &payload), found(Opcode::Binary, b"next")], None),
            "{length} bytes"
        );
    }
    assert_eq!(all(&[frame(0x82, b"fits"), frame(0x82, &vec![0; LIMIT + 1])]).1, Some(Violation::TooBig));
}

#[test]
fn fragments_count_together_and_control_frames_come_between() {
    let read = all(&[
        frame(0x02, b"be"),
        frame(0x89, b"are you there?"),
        frame(0x00, b""),
        frame(0x00, b"gin"),
        frame(0x8a, b""),
        frame(0x80, b"s"),
        frame(0x81, "ganz".as_bytes()),
    ]);
    let expected = vec![
        found(Opcode::Ping, b"are you there?"),
        found(Opcode::Pong, b""),
        found(Opcode::Binary, b"begins"),
        found(Opcode::Text, b"ganz"),
    ];
    assert_eq!(read, (expected, None));
    for (second, expected) in [(LIMIT - 1_000, None), (LIMIT - 999, Some(Violation::TooBig))] {
        assert_eq!(all(&[frame(0x02, &[0; 1_000]), frame(0x80, &vec![0; second])]).1, expected);
    }
}

#[test]
fn frames_out_of_order() {
    for (frames, before) in [
        (vec![frame(0x80, b"continues nothing")], 0),
        (vec![frame(0x00, b"continues nothing")], 0),
        (vec![frame(0x02, b"begins"), frame(0x82, b"begins again")], 0),
        (vec![frame(0x01, b"begins"), frame(0x02, b"begins again")], 0),
        (vec![frame(0x02, b"begins"), frame(0x80, b"ends"), frame(0x80, b"ends again")], 1),
        (vec![frame(0x82, b"whole"), frame(0x80, b"continues nothing")], 1),
    ] {
        let (messages, violation) = all(&frames);
        assert_eq!((messages.len(), violation), (before, Some(Violation::Protocol)));
    }
}

#[test]
fn texts_are_checked_as_they_come() {
    let text = "κόσμε, \u{10ffff}, \u{0}";
    let cuts = (0..=text.len()).map(|at| text.as_bytes().split_at(at));
    for (first, second) in cuts {
        let read = all(&[frame(0x01, first), frame(0x80, second)]);
        assert_eq!(read, (vec![found(Opcode::Text, text.as_bytes())], None));
    }
    for broken in
        [&b"\xc3\x28"[..], b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xfe", b"\x80", b"well \xf0\x9f\x92"]
    {
        assert_eq!(all(&[frame(0x81, broken)]).1, Some(Violation::Utf8), "{}", broken.escape_ascii());
        assert_eq!(all(&[frame(0x01, broken), frame(0x80, b"")]).1, Some(Violation::Utf8));
        assert_eq!(all(&[frame(0x82, broken)]), (vec![found(Opcode::Binary, broken)], None));
    }
    // Before the end of the frame has come.
    let cut = frame(0x81, b"fine so far, \xff and so on");
    assert_eq!(all(&[cut[..6 + 14].to_vec()]).1, Some(Violation::Utf8));
    assert_eq!(all(&[cut[..6 + 13].to_vec()]), (Vec::new(), None));
}

#[test]
fn closes_and_pings_are_bounded_and_checked() {
    assert_eq!(all(&[frame(0x89, &[1; 125])]), (vec![found(Opcode::Ping, &[1; 125])], None));
    assert_eq!(all(&[frame(0x88, b"")]), (vec![found(Opcode::Close, b"")], None));
    assert_eq!(all(&[frame(0x88, b"\x03\xe8done")]), (vec![found(Opcode::Close, b"\x03\xe8done")], None));
    for (payload, violation) in
        [(&b"\x03"[..], Violation::Protocol), (b"\x03\xec", Violation::Protocol), (b"\x03\xe8\xff", Violation::Utf8)]
    {
        assert_eq!(all(&[frame(0x88, payload)]), (Vec::new(), Some(violation)));
        assert_eq!(all(&[frame(0x02, b"begins"), frame(0x88, payload)]), (Vec::new(), Some(violation)));
    }
    assert_eq!(all(&[b"\x88\x02\x03\xe9".to_vec()]), (Vec::new(), Some(Violation::BareClose)));
    assert_eq!(all(&[frame(0x02, b"begins"), b"\x88\0".to_vec()]), (Vec::new(), Some(Violation::BareClose)));
}

#[test]
fn nothing_is_kept_at_rest_and_nothing_is_taken_for_what_is_announced() {
    let mut reader = Reader::new(usize::MAX);
    assert_eq!(std::mem::size_of::<Reader>(), 16);
    let mut input = [frame(0x82, b"whole"), frame(0x89, b"x")].concat();
    let (taken, _) = reader.read(&mut input).unwrap();
    assert!(reader.is_between() && taken == 11);
    let terabyte = b"\x82\xff\0\0\x01\0\0\0\0\0abcd";
    for (announced, come) in [(125, 0), (125, 1), (8_192, 0), (8_192, 1), (1_u64 << 40, 0), (1 << 40, 1)] {
        let mut reader = Reader::new(usize::MAX);
        let header = match announced {
            125 => b"\x82\xfdabcd".to_vec(),
            8_192 => b"\x82\xfe\x20\0abcd".to_vec(),
            _ => terabyte.to_vec(),
        };
        let mut input = [&header[..], &b"x"[..come]].concat();
        assert_eq!(reader.read(&mut input).unwrap(), (input.len(), None));
        assert!(!reader.is_between() && reader.room().is_none());
        let capacity = reader.part.as_ref().unwrap().payload.capacity();
        assert!(capacity <= 8 * come, "{capacity} bytes where {announced} were announced and {come} came");
    }
    for (come, room) in [(0, 0), (DIRECT / 2 - 1, 0), (DIRECT / 2, DIRECT / 2), (3 * DIRECT, DIRECT)] {
        let mut reader = Reader::new(usize::MAX);
        reader.read(&mut [&terabyte[..], &vec![0; come]].concat()).unwrap();
        let there = reader.room().map_or(0, |(payload, there)| {
            assert!(payload.len() == come && payload.capacity() <= 4 * come, "a terabyte was announced");
            there
        });
        assert!(there >= room && (there > 0) == (room > 0), "{there} bytes of room after {come}");
    }
    // A ping between fragments leaves nothing behind but them.
    let mut reader = Reader::new(LIMIT);
    reader.read(&mut frame(0x02, b"begins")).unwrap();
    assert!(matches!(reader.read(&mut frame(0x89, b"")).unwrap(), (6, Some(_))));
    assert!(!reader.is_between());
    assert!(matches!(reader.read(&mut frame(0x80, b"ends")).unwrap(), (10, Some(_))));
    assert!(reader.is_between());
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..140),
        2 => "[a-zäκ€𝄞]{0,40}".prop_map(String::into_bytes),
        1 => (0..LIMIT + 10).prop_map(|length| vec![b'x'; length]),
        // Of 1014, which IANA has registered since, tungstenite does not know.
        1 => prop_oneof![Just(1000_u16), Just(1005), Just(4001), any::<u16>().prop_filter("1014", |code| *code != 1014)]
            .prop_map(|code| code.to_be_bytes().to_vec()),
    ]
}

/// Frames that mostly make sense, and some that do not.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => Just(0x82_u8), 3 => Just(0x81), 2 => Just(0x89), 1 => Just(0x8a), 1 => Just(0x88), 3 => Just(0x02), 2 => Just(0x01),
        3 => Just(0x00), 4 => Just(0x80), 1 => any::<u8>()
    ];
    prop::collection::vec((first, payload()), 0..12)
        .prop_map(|frames| frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect())
}

/// The same by tungstenite, up to a close.
fn by_tungstenite(stream: &[u8]) -> Read {
    let config = WebSocketConfig::default().max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Cursor::new(stream.to_vec()), Role::Server, Some(config));
    let mut all = Vec::new();
    loop {
        let (opcode, payload) = match socket.read() {
            Ok(Message::Binary(payload)) => (Opcode::Binary, payload.to_vec()),
            Ok(Message::Text(text)) => (Opcode::Text, text.as_bytes().to_vec()),
            Ok(Message::Ping(payload)) => (Opcode::Ping, payload.to_vec()),
            Ok(Message::Pong(payload)) => (Opcode::Pong, payload.to_vec()),
            Ok(Message::Frame(_)) => unreachable!("only when writing"),
            Ok(Message::Close(close)) => {
                let Some(close) = close else { return (all, None) };
                let may = close.code.is_allowed() && close.reason != "Protocol violation";
                return (all, Some(Violation::Protocol).filter(|_| !may));
            }
            Err(Error::Capacity(_)) => return (all, Some(Violation::TooBig)),
            Err(Error::Utf8(_)) => return (all, Some(Violation::Utf8)),
            Err(Error::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => {
                return (all, None);
            }
            Err(Error::Protocol(_)) => return (all, Some(Violation::Protocol)),
            Err(_) => return (all, None),
        };
        all.push((opcode, payload));
    }
}

proptest! {
    #[test]
    fn any_cut_reads_the_same(stream in frames(), pieces in prop::collection::vec(1_usize..3_000, 1..50)) {
        prop_assert!(read(&stream, []) == read(&stream, pieces.into_iter().cycle()));
    }

    /// Judged alike: the same messages, and the same violation. Of a frame that breaks two rules tungstenite sees first that it
    /// is too long.
    #[test]
    fn tungstenite_reads_the_same(stream in frames()) {
        let (mut ours, mut violation) = read(&stream, []);
        if let Some(close) = ours.iter().position(|(opcode, _)| *opcode == Opcode::Close) {
            ours.truncate(close);
            violation = None;
        }
        let (theirs, theirs_broken) = by_tungstenite(&stream);
        let breaks_two = violation == Some(Violation::Protocol) && theirs_broken == Some(Violation::TooBig);
        prop_assert!(ours == theirs && (violation == theirs_broken || breaks_two), "{violation:?}, {theirs_broken:?}");
    }

    #[test]
    fn no_bytes_break_a_promise(data in prop::collection::vec(any::<u8>(), 0..400)) {
        websocket(&data);
    }
}

/// Runs the committed corpus, and beginnings of each file.
#[test]
fn websocket_corpus() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/websocket");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let data = std::fs::read(entry.unwrap().path()).unwrap();
        for end in (0..=data.len()).rev().step_by(1 + data.len() / 500) {
            websocket(&data[..end]);
        }
        files += 1;
    }
    assert!(files >= 10, "{} holds {files} files only", folder.display());
}
