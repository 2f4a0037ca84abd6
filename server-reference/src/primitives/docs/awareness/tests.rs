use super::*;

const ANN: Author<'_> = of(1, Some("ann"));
const BOB: Author<'_> = of(2, Some("bob"));

const fn of(serial: u64, user: Option<&str>) -> Author<'_> {
    Author { seat: Seat::here(serial), user }
}

fn anonymous(serial: u64) -> Author<'static> {
    of(serial, None)
}

fn said(states: &[Said<'_>]) -> Vec<u8> {
    encode(states.len(), states.iter().copied())
}

/// Applies a connection's update; returns the clients in the update for the others.
fn check(awareness: &mut Awareness, author: Author<'_>, states: &[Said<'_>], told: &[Said<'_>]) {
    let news = awareness.apply(&author, &said(states), Instant::now()).unwrap();
    assert_eq!(news, (!told.is_empty()).then(|| said(told)), "{states:?}");
    assert_eq!(awareness.bytes, awareness.states.values().map(|state| state.text.len()).sum::<usize>());
}

#[test]
fn newer_clocks_win_and_clients_belong_to_their_connection() {
    let awareness = &mut Awareness::default();
    check(awareness, ANN, &[(7, 1, Some("{}"))], &[(7, 1, Some("{}"))]);
    check(awareness, ANN, &[(7, 1, Some("[]"))], &[]);
    check(awareness, ANN, &[(7, 3, Some("[1]"))], &[(7, 3, Some("[1]"))]);
    check(awareness, ANN, &[(7, 2, None), (7, 2, Some("2"))], &[]);
    // Bob repeats what he has heard, and lies about Ann.
    check(awareness, BOB, &[(7, 3, Some("[1]")), (7, 9, None), (8, 1, Some("0"))], &[(8, 1, Some("0"))]);
    assert_eq!(awareness.all(), Some(said(&[(7, 3, Some("[1]")), (8, 1, Some("0"))])));
    check(awareness, ANN, &[(7, 3, Some("[1]")), (7, 3, Some(" null "))], &[(7, 3, None)]);
    // Content that has been taken away belongs to nobody.
    check(awareness, BOB, &[(7, 1, Some("1"))], &[(7, 1, Some("1"))]);
}

#[test]
fn who_speaks_for_others_alone_is_told() {
    let awareness = &mut Awareness::default();
    check(awareness, ANN, &[(7, 3, Some("1"))], &[(7, 3, Some("1"))]);
    for lie in [(7, 4, Some("2")), (7, 3, None)] {
        let told = awareness.apply(&BOB, &said(&[lie]), Instant::now());
        assert!(matches!(told, Err(DocError::Taken { client: 7 })), "{lie:?}");
    }
    // To repeat what is known is no lie.
    check(awareness, BOB, &[(7, 3, Some("1")), (7, 2, None)], &[]);
    // Another connection of the same user takes over, also while the first one is thought to be there.
    let again = of(3, ANN.user);
    check(awareness, again, &[(7, 4, Some("2"))], &[(7, 4, Some("2"))]);
    assert_eq!(awareness.leave(ANN.seat, Instant::now()), None);
    check(awareness, again, &[(7, 4, None)], &[(7, 4, None)]);
}

#[test]
fn an_id_is_reserved_for_its_user_for_a_minute() {
    let now = Instant::now();
    let later = |seconds: u64| now + Duration::from_secs(seconds);
    let update = said(&[(7, 5, Some("1"))]);
    for (author, after, fits) in
        [(BOB, 59, false), (BOB, 60, true), (anonymous(3), 59, false), (of(9, ANN.user), 1, true)]
    {
        let awareness = &mut Awareness::default();
        awareness.apply(&ANN, &said(&[(7, 1, Some("1"))]), now).unwrap();
        awareness.leave(ANN.seat, now);
        let outcome = awareness.apply(&author, &update, later(after));
        assert_eq!(outcome.is_ok(), fits, "{author:?} after {after} s");
        assert_eq!(awareness.reserved.is_empty(), fits);
    }
    // Nobody knows whether an anonymous one who comes is the same.
    let awareness = &mut Awareness::default();
    awareness.apply(&anonymous(1), &said(&[(7, 1, Some("1"))]), now).unwrap();
    awareness.leave(Seat::here(1), now);
    assert!(awareness.apply(&anonymous(2), &update, now).is_ok());
    // Their number is bounded, and they are forgotten.
    let awareness = &mut Awareness::default();
    for client in 0..=MAX_RESERVED as u64 {
        awareness.apply(&ANN, &said(&[(client, 1, Some("1"))]), now).unwrap();
        awareness.leave(ANN.seat, now);
    }
    assert_eq!(awareness.reserved.len(), MAX_RESERVED);
    awareness.leave(ANN.seat, later(60));
    assert!(awareness.reserved.is_empty());
}

#[test]
fn the_states_of_one_update_are_bounded() {
    for (count, fits) in [(MAX_NAMED - 1, true), (MAX_NAMED, true), (MAX_NAMED + 1, false)] {
        let states: Vec<Said<'_>> = (0..count).map(|client| (client, 1, None)).collect();
        let outcome = Awareness::default().apply(&ANN, &said(&states), Instant::now());
        assert_eq!(outcome.is_ok(), fits, "{count}");
    }
}

#[test]
fn a_connection_takes_its_clients_with_it() {
    let awareness = &mut Awareness::default();
    check(awareness, ANN, &[(7, 4, Some("1")), (9, 5, Some("2"))], &[(7, 4, Some("1")), (9, 5, Some("2"))]);
    check(awareness, BOB, &[(8, 1, Some("3"))], &[(8, 1, Some("3"))]);
    assert_eq!(awareness.leave(ANN.seat, Instant::now()), Some(said(&[(7, 4, None), (9, 5, None)])));
    assert_eq!(awareness.leave(ANN.seat, Instant::now()), None);
    assert_eq!(awareness.all(), Some(said(&[(8, 1, Some("3"))])));
    assert!(awareness.leave(BOB.seat, Instant::now()).is_some() && awareness.all().is_none());
    assert_eq!(awareness.bytes, 0);
}

/// Tells `to` of a share of a connection of `from`, where it is connection 9 of another server; the clients told.
fn hand_over(from: &Awareness, serial: u64, to: &mut Awareness, told: &[Said<'_>]) {
    let share = from.share(serial);
    let news = to.take(Seat::elsewhere(serial), share.as_deref(), Instant::now());
    assert_eq!(news, (!told.is_empty()).then(|| said(told)), "{share:?}");
    assert_eq!(to.bytes, to.states.values().map(|state| state.text.len()).sum::<usize>());
}

#[test]
fn states_of_other_servers_are_as_those_of_this_one() {
    let (here, there) = (&mut Awareness::default(), &mut Awareness::default());
    check(there, ANN, &[(7, 1, Some("{}")), (8, 1, Some("1"))], &[(7, 1, Some("{}")), (8, 1, Some("1"))]);
    hand_over(there, 1, here, &[(7, 1, Some("{}")), (8, 1, Some("1"))]);
    hand_over(there, 1, here, &[]);
    assert_eq!(here.all(), there.all());
    assert_eq!((here.sharers(), there.sharers()), (vec![], vec![1]));
    // Another user is refused, and the same one takes over; not to remove it, while its connection is there.
    let lie = here.apply(&BOB, &said(&[(7, 2, Some("2"))]), Instant::now());
    assert!(matches!(lie, Err(DocError::Taken { client: 7 })));
    check(here, of(3, ANN.user), &[(7, 2, None)], &[]);
    check(here, of(3, ANN.user), &[(7, 2, Some("2"))], &[(7, 2, Some("2"))]);
    hand_over(here, 3, there, &[(7, 2, Some("2"))]);
    assert_eq!((there.robbed(), there.robbed(), here.robbed()), (vec![1], vec![], vec![]));
    hand_over(there, 1, here, &[]);
    // One is taken away, then all are gone: their ids stay their user's.
    check(there, ANN, &[(8, 2, None)], &[(8, 2, None)]);
    assert!(there.share(1).is_none());
    hand_over(there, 1, here, &[(8, 1, None)]);
    hand_over(&Awareness::default(), 3, there, &[(7, 2, None)]);
    assert!(there.all().is_none() && there.bytes == 0);
    assert!(there.apply(&BOB, &said(&[(7, 3, Some("3"))]), Instant::now()).is_err());
    check(there, ANN, &[(7, 3, Some("3"))], &[(7, 3, Some("3"))]);
}

#[test]
fn two_users_with_one_id_on_two_servers_keep_their_own() {
    let (here, there) = (&mut Awareness::default(), &mut Awareness::default());
    check(here, ANN, &[(7, 1, Some("1"))], &[(7, 1, Some("1"))]);
    check(there, BOB, &[(7, 5, Some("5")), (8, 1, Some("8"))], &[(7, 5, Some("5")), (8, 1, Some("8"))]);
    hand_over(there, 2, here, &[(8, 1, Some("8"))]);
    // Also in the minute after the first has gone; then the other is shown.
    here.leave(ANN.seat, Instant::now());
    hand_over(there, 2, here, &[]);
    let share = there.share(2).unwrap();
    let news = here.take(Seat::elsewhere(2), Some(&share), Instant::now() + RESERVED);
    assert_eq!(news, Some(said(&[(7, 5, Some("5"))])));
}

#[test]
fn what_other_servers_share_is_bounded_and_read_strictly() {
    let share = |user: &[u8], states: &[Said<'_>]| [user, &said(states)].concat();
    let now = Instant::now();
    for count in [MAX_STATES - 1, MAX_STATES, MAX_STATES + 1] {
        let states: Vec<Said<'_>> = (0..count as u64).map(|client| (client, 1, Some("1"))).collect();
        let awareness = &mut Awareness::default();
        awareness.take(Seat::elsewhere(1), Some(&share(&[0, 0], &states)), now);
        assert_eq!(awareness.states.len(), count.min(MAX_STATES));
    }
    let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let awareness = &mut Awareness::default();
    for serial in 0..=(MAX_BYTES / MAX_STATE) as u64 {
        let shown =
            awareness.take(Seat::elsewhere(serial), Some(&share(&[0, 0], &[(serial, 1, Some(&long(MAX_STATE)))])), now);
        assert_eq!(shown.is_some(), serial < (MAX_BYTES / MAX_STATE) as u64, "{serial}");
    }
    assert_eq!(awareness.bytes, MAX_BYTES);
    let whole = share(b"\x01\x03ann", &[(7, 1, Some("1"))]);
    for (bytes, fits) in [
        (whole.clone(), true),
        (share(b"\x01\x03\xff\xff\xff", &[(7, 1, Some("1"))]), false),
        (share(&[0, 0], &[(7, 1, Some(&long(MAX_STATE + 1)))]), false),
        (share(&[0, 0], &[(7, 1, Some("{"))]), false),
        ([&whole[..], &[0]].concat(), false),
    ] {
        assert_eq!(Awareness::default().take(Seat::elsewhere(1), Some(&bytes), now).is_some(), fits, "{bytes:?}");
    }
    for end in 0..whole.len() {
        assert!(Awareness::default().take(Seat::elsewhere(1), Some(&whole[..end]), now).is_none(), "cut to {end}");
    }
}

#[test]
fn states_are_bounded_in_number_and_size() {
    let awareness = &mut Awareness::default();
    for client in 0..MAX_STATES as u64 {
        check(awareness, ANN, &[(client, 1, Some("1"))], &[(client, 1, Some("1"))]);
    }
    assert!(matches!(awareness.apply(&ANN, &said(&[(99, 1, Some("1"))]), Instant::now()), Err(DocError::Crowded)));
    check(awareness, ANN, &[(3, 2, None)], &[(3, 2, None)]);
    check(awareness, ANN, &[(99, 1, Some("1"))], &[(99, 1, Some("1"))]);

    let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    for (bytes, fits) in [(MAX_STATE - 1, true), (MAX_STATE, true), (MAX_STATE + 1, false)] {
        assert_eq!(
            awareness.apply(&BOB, &said(&[(100, bytes as u32, Some(&long(bytes)))]), Instant::now()).is_ok(),
            fits
        );
    }
    let mut apply =
        |serial: u64, states: &[Said<'_>]| awareness.apply(&anonymous(serial), &said(states), Instant::now());
    let mut serial = 2;
    while apply(serial + 1, &[(1_001 + serial, 1, Some(&long(MAX_STATE)))]).is_ok() {
        serial += 1;
    }
    let left = MAX_BYTES - awareness.bytes;
    assert!(left < MAX_STATE);
    let mut apply = |states: &[Said<'_>]| awareness.apply(&anonymous(9_999), &said(states), Instant::now());
    assert!(apply(&[(1, 1, Some("1")), (9_999, 1, Some(&long(left + 1)))]).is_err());
    assert!(apply(&[(9_999, 1, Some(&long(left)))]).is_ok());
    assert_eq!(awareness.bytes, MAX_BYTES);
}

#[test]
fn what_others_could_not_read_is_refused() {
    let whole = said(&[(7, 1, Some("{\"name\":\"Ann\"}")), (8, 300, None)]);
    for end in 0..whole.len() {
        assert!(Awareness::default().apply(&ANN, &whole[..end], Instant::now()).is_err(), "cut to {end}");
    }
    let deep = "[".repeat(128) + &"]".repeat(128);
    for text in ["", "{", "undefined", "1 2", r#""\ud800""#, "1e999", &deep] {
        let awareness = &mut Awareness::default();
        assert!(awareness.apply(&ANN, &said(&[(7, 1, Some(text))]), Instant::now()).is_err(), "{text}");
        assert!(awareness.all().is_none());
    }
    let far = said(&[(1 << 53, 1, Some("1"))]);
    assert!(Awareness::default().apply(&ANN, &far, Instant::now()).is_err());
    assert!(Awareness::default().apply(&ANN, &[&whole[..], &[0]].concat(), Instant::now()).is_err());
}
