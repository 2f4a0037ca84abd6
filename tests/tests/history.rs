//! The checker of histories: correct ones pass, and each forgery is found as what it is.

use datasole_tests::history::forge::{FORGERIES, Forge, Forgery};
use datasole_tests::history::generate;
use datasole_tests::history::{
    Counts, Digest, Event, Function, History, How, Id, Kind, Loss, Mark, Placed, Promises, Violation, check,
};
use datasole_tests::random::Random;

const SEEDS: u64 = 400;
const STEPS: usize = 900;

#[test]
fn correct_histories_hold() {
    let mut total = [0; 14];
    for seed in 0..SEEDS {
        let (history, promises) = generate::history(seed, STEPS);
        let verdict = check(&history, &promises);
        assert!(verdict.holds(), "seed {seed}\n{}", verdict.story(&history));
        total.iter_mut().zip(fields(&verdict.counts)).for_each(|(total, count)| *total += count);
    }
    println!("{total:?}");
    for count in total {
        assert!(count > SEEDS, "too little at stake: {total:?}");
    }
}

#[test]
fn every_forgery_is_found() {
    let failures: Vec<String> = FORGERIES.iter().filter_map(|forgery| try_forgery(forgery).err()).collect();
    assert!(failures.is_empty(), "{} forgeries:\n{}", failures.len(), failures.join("\n"));
}

/// Every seed, until one is not found as what it is.
fn try_forgery(forgery: &Forgery) -> Result<(), String> {
    let mut applied = 0;
    for seed in 0..SEEDS {
        let (mut history, promises) = generate::history(seed, STEPS);
        let mut random = Random::new(seed ^ 0xf0f0);
        if (forgery.apply)(&mut Forge { history: &mut history, random: &mut random, promises: &promises }).is_none() {
            continue;
        }
        applied += 1;
        let verdict = check(&history, &promises);
        let told = |what| Err(format!("{what}: {}, seed {seed}\n{}", forgery.name, verdict.story(&history)));
        let Some(found) = verdict.violations.iter().find(|found| (forgery.breaks)(found)) else {
            return told("not found");
        };
        let own = |other: &Violation| other.clause() == found.clause() || forgery.besides.contains(&other.clause());
        if !verdict.violations.iter().all(own) {
            return told("more than forged");
        }
    }
    println!("{applied:>4} of {SEEDS}: {}", forgery.name);
    if applied > SEEDS / 2 { Ok(()) } else { Err(format!("possible only {applied} times: {}", forgery.name)) }
}

fn fields(counts: &Counts) -> [u64; 14] {
    let &Counts { acknowledged, failed, in_doubt, came_true, observed, recovered, resets, .. } = counts;
    let &Counts { replayed, compared, forgiven, members, disturbed, grants, messages, .. } = counts;
    [
        acknowledged,
        failed,
        in_doubt,
        came_true,
        observed,
        recovered,
        resets,
        replayed,
        compared,
        forgiven,
        members,
        disturbed,
        grants,
        messages,
    ]
}

#[test]
fn a_loss_is_forgiven_only_where_declared() {
    let mut taken = 0;
    for seed in 0..SEEDS {
        let (history, promises) = generate::history(seed, STEPS);
        let forgiven = check(&history, &promises).counts.forgiven;
        let lost = |loss| {
            let verdict = check(&history, &Promises { loss, ..promises });
            let lost = verdict.violations.iter().filter(|found| matches!(found, Violation::Lost { .. })).count();
            lost as u64
        };
        assert_eq!(lost(Loss::Any), 0, "seed {seed}");
        assert_eq!(lost(Loss::Never), forgiven, "seed {seed}");
        taken += u64::from(forgiven > 0);
    }
    assert!(taken > SEEDS / 4, "only {taken} histories with a loss");
}

#[test]
fn what_is_written_as_lines_is_read_back() {
    for seed in 0..20 {
        let (history, promises) = generate::history(seed, STEPS);
        let mut lines = Vec::new();
        history.write(&mut lines).unwrap();
        let mut read = History::default();
        read.read(&lines[..]).unwrap();
        let mut again = Vec::new();
        read.write(&mut again).unwrap();
        assert_eq!(String::from_utf8(lines).unwrap(), String::from_utf8(again).unwrap());
        assert_eq!(check(&history, &promises).counts, check(&read, &promises).counts);
    }
}

#[test]
fn a_line_is_read_as_documented() {
    let line = r#"{"t":1200,"process":4,"node":1,"type":"ok","stream":"state:cart","f":"write","how":"set","id":17,"mark":{"epoch":9,"seq":3}}"#;
    let mut history = History::default();
    history.read(format!("\n{line}\n").as_bytes()).unwrap();
    let key = history.key("state:cart");
    let mark = Some(Mark { epoch: 9, seq: 3 });
    let function = Function::Write { how: How::Set, id: Id(17), mark };
    assert_eq!(history.events, [Event { time: 1200, process: 4, node: 1, kind: Kind::Ok, key, function }]);
    let wrong = history.read(&b"\n{\"t\":1}\n"[..]).unwrap_err();
    assert!(wrong.to_string().starts_with("line 2: "), "{wrong}");
}

#[test]
fn a_story_names_the_events() {
    let (mut history, promises) = generate::history(7, STEPS);
    let lost = history.events.iter().rev().find_map(|event| match event.function {
        Function::Write { id, .. } if event.kind == Kind::Ok => Some((event.key, id)),
        _ => None,
    });
    let (key, lost) = lost.unwrap();
    for event in history.events.iter_mut().filter(|event| event.key == key) {
        if let Function::ReadFinal { entries } = &mut event.function {
            entries.retain(|entry| entry.id != lost);
        }
    }
    let story = check(&history, &Promises { loss: Loss::Never, ..promises }).story(&history);
    assert!(story.contains(&format!("id {} was acknowledged or observed and is lost", lost.0)), "{story}");
    assert!(story.lines().any(|line| line.starts_with('>') && line.contains("read-final")), "{story}");
    assert!(story.lines().any(|line| line.contains("Invoke") && line.contains(&lost.0.to_string())), "{story}");
}

/// Run with `--ignored --nocapture` to see what a schedule costs.
#[test]
#[ignore = "tells a rate"]
fn rate() {
    let histories: Vec<_> = (0..200).map(|seed| generate::history(seed, STEPS)).collect();
    let events: usize = histories.iter().map(|(history, _)| history.events.len()).sum();
    let begun = std::time::Instant::now();
    let held = (0..10).flat_map(|_| &histories).filter(|(history, promises)| check(history, promises).holds()).count();
    let spent = begun.elapsed().as_secs_f64();
    assert_eq!(held, 10 * histories.len());
    let (per_event, per_second) = (spent * 1e9 / (10 * events) as f64, held as f64 / spent);
    println!("{per_event:.0} ns an event, {per_second:.0} histories of {} events a second", events / histories.len());
}

/// A history of these events, each with its time, kind and function, of one process through node 0 and on one key.
fn told(events: &[(u64, Kind, Function)]) -> History {
    let mut history = History::default();
    let key = history.key("it");
    history.events.extend(events.iter().cloned().map(|(time, kind, function)| {
        let (process, node) = (1, 0);
        Event { time, process, node, kind, key, function }
    }));
    history
}

/// Fails unless exactly these promises are broken, once each time that they are named.
#[track_caller]
fn expect(history: &History, promises: &Promises, clauses: &[u8]) {
    let verdict = check(history, promises);
    let broken: Vec<u8> = verdict.violations.iter().map(Violation::clause).collect();
    assert_eq!(broken, clauses, "{}", verdict.story(history));
}

#[test]
fn a_window_grants_its_limit_and_its_slack() {
    let grants = |times: &[u64]| {
        let grant = |(time, id)| (time, Kind::Ok, Function::Grant { id: Id(id), cost: 5, limit: 10, window: 1000 });
        told(&times.iter().copied().zip(1..).map(grant).collect::<Vec<_>>())
    };
    let strict = Promises::default();
    expect(&grants(&[0, 500, 1000, 1500]), &strict, &[]);
    expect(&grants(&[0, 500, 999]), &strict, &[9]);
    expect(&grants(&[0, 500, 999]), &Promises { slack: 499, ..strict }, &[9]);
    expect(&grants(&[0, 500, 999]), &Promises { slack: 500, ..strict }, &[]);
    // Two breaches that do not overlap are two.
    expect(&grants(&[0, 1, 2, 5000, 5001, 5002]), &strict, &[9, 9]);
}

#[test]
fn a_grant_that_may_be_outside_of_the_window_does_not_count() {
    let grant = |id, time, kind| (time, kind, Function::Grant { id: Id(id), cost: 1, limit: 1, window: 1000 });
    let asked = |until| {
        told(&[
            grant(1, 0, Kind::Invoke),
            grant(2, 500, Kind::Invoke),
            grant(1, 600, Kind::Ok),
            grant(2, until, Kind::Ok),
        ])
    };
    expect(&asked(999), &Promises::default(), &[9]);
    expect(&asked(1000), &Promises::default(), &[]);
}

#[test]
fn a_grant_that_is_long_pending_may_be_before_later_windows() {
    let grant = |id, time, kind| (time, kind, Function::Grant { id: Id(id), cost: 1, limit: 1, window: 1000 });
    let pending = told(&[
        grant(1, 0, Kind::Invoke),
        grant(2, 1_200, Kind::Invoke),
        grant(2, 1_300, Kind::Ok),
        grant(1, 1_400, Kind::Ok),
    ]);
    expect(&pending, &Promises::default(), &[]);
}

#[test]
fn a_room_may_lag_by_the_bound_and_not_longer() {
    let promises = Promises { presence: 1000, ..Promises::default() };
    let join = (0, Kind::Ok, Function::Join { id: Id(1) });
    let leave = (5000, Kind::Ok, Function::Leave { id: Id(1) });
    let shown = |time, ids: &[u64]| (time, Kind::Ok, Function::Members { ids: ids.iter().copied().map(Id).collect() });
    expect(&told(&[join.clone(), shown(1000, &[])]), &promises, &[]);
    expect(&told(&[join.clone(), shown(1001, &[])]), &promises, &[8]);
    expect(&told(&[join.clone(), leave.clone(), shown(6000, &[1])]), &promises, &[]);
    expect(&told(&[join.clone(), leave, shown(6001, &[1])]), &promises, &[8]);
    expect(&told(&[join.clone(), shown(10, &[1, 1])]), &promises, &[8]);
    // A frozen node's view is not judged until the bound has gone by since it was thawed.
    let (frozen, thawed) = ((1, Kind::Info, Function::Frozen), (4000, Kind::Info, Function::Thawed));
    let disturbed = |time| told(&[join.clone(), frozen.clone(), thawed.clone(), shown(time, &[])]);
    expect(&disturbed(5000), &promises, &[]);
    expect(&disturbed(5001), &promises, &[8]);
}

#[test]
fn real_time_is_strict_and_holds_for_writes_in_doubt() {
    let write = |id, time, kind, mark| (time, kind, Function::Write { how: How::Edit, id: Id(id), mark });
    let mark = |seq| Some(Mark { epoch: 1, seq });
    let read = |ids: [u64; 2]| {
        let entries = ids.into_iter().zip(1..).map(|(id, seq)| Placed { id: Id(id), mark: mark(seq) }).collect();
        (100, Kind::Ok, Function::ReadFinal { entries })
    };
    let history = |begun, ended: Kind| {
        told(&[
            write(1, 0, Kind::Invoke, None),
            write(1, 10, Kind::Ok, mark(2)),
            write(2, begun, Kind::Invoke, None),
            write(2, 20, ended, None),
            read([2, 1]),
        ])
    };
    expect(&history(10, Kind::Ok), &Promises::default(), &[]);
    expect(&history(11, Kind::Ok), &Promises::default(), &[6]);
    expect(&history(11, Kind::Info), &Promises::default(), &[6]);
}

fn write(time: u64, id: u64, kind: Kind, at: Option<(u64, u64)>) -> (u64, Kind, Function) {
    let mark = at.map(|(epoch, seq)| Mark { epoch, seq });
    (time, kind, Function::Write { how: How::Append, id: Id(id), mark })
}

fn read(time: u64, entries: &[(u64, u64, u64)]) -> (u64, Kind, Function) {
    let placed = |&(id, epoch, seq)| Placed { id: Id(id), mark: Some(Mark { epoch, seq }) };
    (time, Kind::Ok, Function::ReadFinal { entries: entries.iter().map(placed).collect() })
}

#[test]
fn a_generation_takes_no_entry_in_front_of_one_that_is_left() {
    let run = |left| {
        let begun = [write(0, 1, Kind::Invoke, None), write(0, 2, Kind::Invoke, None)];
        let ended = [write(5, 1, Kind::Ok, Some((1, 1))), write(6, 2, Kind::Ok, Some((1, 2)))];
        let rest = [(9, Kind::Info, Function::Generation), left];
        told(&[begun, ended, rest].concat())
    };
    let any = Promises { loss: Loss::Any, ..Promises::default() };
    expect(&run(read(10, &[(1, 1, 1)])), &any, &[]);
    expect(&run(read(10, &[(2, 1, 2)])), &any, &[3]);
}

#[test]
fn an_entry_that_a_generation_takes_over_is_one_entry() {
    let run = |generation: &[(u64, Kind, Function)], answered| {
        let seen = Function::Observe { id: Id(1), mark: Mark { epoch: 1, seq: 1 }, hash: None };
        let begun = [write(1, 1, Kind::Invoke, None), (2, Kind::Ok, seen)];
        let ended = [write(5, 1, Kind::Ok, Some(answered)), read(9, &[(1, 2, 1)])];
        let mut all = [&begun[..], generation, &ended[..]].concat();
        all.sort_by_key(|(time, ..)| *time);
        told(&all)
    };
    let begins = |time| [(time, Kind::Info, Function::Generation)];
    expect(&run(&begins(3), (2, 1)), &Promises::default(), &[]);
    expect(&run(&begins(3), (2, 2)), &Promises::default(), &[4]);
    // Nothing was stored then.
    expect(&run(&begins(0), (2, 1)), &Promises::default(), &[4]);
    expect(&run(&[], (2, 1)), &Promises::default(), &[4]);
}

#[test]
fn an_entry_seen_before_it_was_written_is_a_phantom() {
    let seen = |time| (time, Kind::Ok, Function::Observe { id: Id(1), mark: Mark { epoch: 1, seq: 1 }, hash: None });
    expect(&told(&[write(5, 1, Kind::Invoke, None), seen(5), read(9, &[(1, 1, 1)])]), &Promises::default(), &[]);
    expect(&told(&[seen(4), write(5, 1, Kind::Invoke, None), read(9, &[(1, 1, 1)])]), &Promises::default(), &[5]);
}

#[test]
fn a_subscription_goes_on_in_its_life_and_never_back() {
    let since = |from, recovered, epoch, seq| {
        let (since, mark) = (Some(Mark { epoch: 1, seq: from }), Mark { epoch, seq });
        told(&[(1, Kind::Ok, Function::Subscribe { since, recovered, mark, hash: None })])
    };
    let cases: [(_, _, _, &[u8]); 6] = [
        (true, 1, 3, &[]),
        (true, 1, 2, &[2]),
        (true, 2, 0, &[2]),
        (false, 1, 3, &[]),
        (false, 1, 2, &[2]),
        (false, 2, 0, &[]),
    ];
    for (recovered, epoch, seq, broken) in cases {
        expect(&since(3, recovered, epoch, seq), &Promises::default(), broken);
    }
    // Before the first entry there is nothing, in whatever life.
    for (epoch, seq, broken) in [(1, 0, &[][..]), (2, 0, &[]), (2, 1, &[2])] {
        expect(&since(0, true, epoch, seq), &Promises::default(), broken);
    }
}

#[test]
fn a_message_reaches_its_address_only_and_not_if_it_failed() {
    let (send, receive) = (Function::Send { id: Id(1) }, Function::Receive { id: Id(1) });
    let run = |kind| told(&[(0, Kind::Invoke, send.clone()), (1, kind, send.clone()), (2, Kind::Ok, receive.clone())]);
    expect(&run(Kind::Info), &Promises::default(), &[]);
    expect(&run(Kind::Fail), &Promises::default(), &[10]);
    let mut strayed = run(Kind::Ok);
    let key = strayed.key("another");
    strayed.events[2].key = key;
    expect(&strayed, &Promises::default(), &[10]);
}

#[test]
fn the_last_life_begins_with_what_is_left() {
    let base = Digest::default().after(How::Append, Id(1));
    let behind = base.after(How::Append, Id(2));
    let run = |left: Digest, value: Digest, entry: bool| {
        let snapshot = |seq, value: Digest| Function::Snapshot { mark: Mark { epoch: 2, seq }, hash: value.hash() };
        let mut events = vec![write(0, 1, Kind::Invoke, None), write(1, 1, Kind::Ok, Some((1, 1)))];
        events.extend([(2, Kind::Info, Function::Generation), (3, Kind::Ok, snapshot(0, left))]);
        if entry {
            events.extend([write(4, 2, Kind::Invoke, None), write(5, 2, Kind::Ok, Some((2, 1)))]);
            events.push((6, Kind::Ok, snapshot(1, value)));
        }
        events.push(read(9, if entry { &[(1, 1, 1), (2, 2, 1)] } else { &[(1, 1, 1)] }));
        told(&events)
    };
    expect(&run(base, behind, false), &Promises::default(), &[]);
    expect(&run(behind, behind, false), &Promises::default(), &[7]);
    expect(&run(base, behind, true), &Promises::default(), &[]);
    expect(&run(base, base, true), &Promises::default(), &[7]);
    expect(&run(behind, behind, true), &Promises::default(), &[7]);
}

#[test]
fn a_malformed_history_is_told_as_that_alone() {
    let [begun, ended] = [write(0, 1, Kind::Invoke, None), write(1, 1, Kind::Ok, Some((1, 1)))];
    let strict = Promises::default();
    expect(&told(&[begun.clone(), ended.clone(), ended.clone()]), &strict, &[0]);
    expect(&told(&[begun.clone(), begun.clone(), ended.clone()]), &strict, &[0]);
    expect(&told(&[begun.clone(), write(1, 1, Kind::Fail, Some((1, 1)))]), &strict, &[0]);
    expect(&told(&[write(2, 1, Kind::Invoke, None), ended.clone()]), &strict, &[0]);
    expect(&told(std::slice::from_ref(&ended)), &strict, &[0]);
    let mut strayed = told(&[begun, ended]);
    let key = strayed.key("another");
    strayed.events[1].key = key;
    expect(&strayed, &strict, &[0]);
}
