//! Updates that nobody should make: cut, flipped, forged, too deep, too slow.

use super::*;

/// Applies it to a document that holds the corpus; whatever it is, the document is whole afterwards.
fn check_hostile(document: &mut Document, update: &[u8], said: &str) -> bool {
    let before = document.state_vector();
    match take(document, update) {
        Err(error) => {
            assert!(!matches!(error, DocError::Damaged), "{update:?}");
            assert_eq!(document.state_vector(), before, "{update:?}");
            assert_eq!(said_by(document), said, "{update:?}");
            false
        }
        Ok(None) => false,
        Ok(Some(_)) => true,
    }
}

#[test]
fn truncated_updates_are_refused() {
    let updates = corpus();
    for (index, update) in updates.iter().enumerate() {
        let mut document = empty();
        updates[..index].iter().for_each(|update| drop(take(&mut document, update).unwrap()));
        let said = said_by(&mut document);
        for end in 0..update.len() {
            assert!(!check_hostile(&mut document, &update[..end], &said), "cut to {end}");
        }
        assert!(take(&mut document, &[&update[..], &[0]].concat()).is_err(), "something behind it");
    }
}

#[test]
fn flipped_bits_harm_nobody() {
    let updates = corpus();
    for (index, update) in updates.iter().enumerate() {
        let make = || {
            let mut document = empty();
            updates[..index].iter().for_each(|update| drop(take(&mut document, update).unwrap()));
            document
        };
        let mut document = make();
        let said = said_by(&mut document);
        for bit in 0..update.len() * 8 {
            let mut flipped = update.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if check_hostile(&mut document, &flipped, &said) {
                // It meant something else, and is as good as any other. Only where something goes whose neighbours are told
                // in the wrong order, documents may differ.
                let stored = document.compact().unwrap();
                let again = Document::load(Some(stored), Vec::new(), ROOM).unwrap();
                assert_eq!(again.state_vector(), document.state_vector(), "bit {bit} of update {index}");
                document = make();
            }
        }
    }
}

#[test]
fn hostile_updates_are_refused_before_they_cost_anything() {
    let said = said_by(&mut empty());
    let none = |raw: Raw| {
        let mut document = empty();
        assert!(!check_hostile(&mut document, &raw.0, &said), "{:?}", &raw.0[..raw.0.len().min(40)]);
        assert_eq!(document.held().0, 0);
    };
    let huge = 0xffff_ffff;
    // Counts that nothing follows.
    none(Raw(vec![]).number(huge));
    none(Raw::client(huge, 1, 0));
    none(Raw::client(1, 1, 0).bytes(&[8, 1, 1, b't']).number(huge));
    none(Raw::client(1, 1, 0).bytes(&[8, 1, 1, b't', 1, 118]).number(huge));
    none(Raw(vec![0]).number(huge));
    none(Raw(vec![0, 1, 1]).number(huge));
    // Clocks and clients out of range.
    none(Raw::client(1, 1, 0).bytes(&[0]).number(huge).bytes(&[0]));
    none(Raw::client(1, 1, huge).bytes(&[0, 1, 0]));
    none(Raw::client(1, 1 << 53, 0).bytes(&[0, 1, 0]));
    none(Raw::client(2, 1, 0x7fff_fff0).bytes(&[0, 8, 0, 8, 0]));
    // Values within values.
    let nested = [117, 1].repeat(300_000);
    none(Raw::client(1, 1, 0).bytes(&[8, 1, 1, b't', 1]).bytes(&nested).bytes(&[126, 0]));
    // Itself as neighbour, or as parent; a cycle of two clients; a parent that is none; one client twice.
    none(Raw::client(1, 1, 0).bytes(&[0x84, 1, 0, 1, b'x', 0]));
    none(Raw::client(1, 1, 0).bytes(&[7, 0, 1, 0, 1, 0]));
    none(Raw(vec![2, 1, 1, 0, 0x84, 2, 0, 1, b'x', 1, 2, 0, 0x84, 1, 0, 1, b'y', 0]));
    none(Raw::client(2, 1, 0).bytes(&[4, 1, 1, b't', 1, b'x', 4, 0, 1, 0, 1, b'y', 0]));
    none(Raw(vec![2, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0]));
    // Neighbours in different lists.
    none(Raw::client(3, 1, 0).bytes(&[4, 1, 1, b't', 1, b'x', 4, 1, 1, b'u', 1, b'y', 0xc4, 1, 0, 1, 1, 1, b'z', 0]));
    // Kinds that are not kept: old content, a document, a weak link, an XML hook.
    none(Raw::client(1, 1, 0).bytes(&[2, 1, 1, b't', 1, 1, b'1', 0]));
    none(Raw::client(1, 1, 0).bytes(&[9, 1, 1, b't', 1, b'g', 118, 0, 0]));
    none(Raw::client(1, 1, 0).bytes(&[7, 1, 1, b't', 7, 0]));
    none(Raw::client(1, 1, 0).bytes(&[7, 1, 1, b't', 5, 1, b'h', 0]));
}

#[test]
fn types_nest_up_to_the_bound_and_no_deeper() {
    // Each map holds the next one.
    let nest = |levels: u64| {
        let mut raw = Raw::client(levels, 1, 0).bytes(&[7, 1, 1, b't', 1]);
        for clock in 0..levels - 1 {
            raw = raw.bytes(&[0x27, 0, 1]).number(clock).bytes(&[1, b'k', 1]);
        }
        raw.bytes(&[0])
    };
    for (levels, fits) in [(99, true), (100, true), (101, false), (50_000, false)] {
        let mut document = empty();
        assert_eq!(take(&mut document, &nest(levels).0).is_ok(), fits, "{levels}");
        if fits {
            // All of them at once go with the first.
            assert!(take(&mut document, &[0, 1, 1, 1, 0, 1]).unwrap().is_some());
            assert!(document.compact().unwrap().len() < 32);
        }
    }
}

#[test]
fn updates_that_take_too_long_leave_nothing_behind() {
    let units: u64 = 500;
    let mut document = empty();
    let text = Raw::client(1, 1, 0).bytes(&[4, 1, 1, b't']).number(units);
    take(&mut document, &text.bytes(&[b'x'; 500]).bytes(&[0]).0).unwrap();
    // Each is meant for the beginning, and for the place before another character: yrs looks at all between.
    let mut raw = Raw::client(units, 2, 0);
    for clock in 0..units {
        raw = raw.bytes(&[0x44, 1]).number(clock).bytes(&[1, b'y']);
    }
    let hostile = raw.bytes(&[0]).0;
    let (before, said) = (document.state_vector(), said_by(&mut document));
    document.hurry();
    assert!(matches!(document.apply(&hostile, usize::MAX), Err(DocError::TooSlow)));
    assert_eq!((document.state_vector(), said_by(&mut document)), (before, said));
}
