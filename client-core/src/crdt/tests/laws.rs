//! The laws of the theory, and that operations and states say the same.

use super::*;

fn merged(a: &Crdt, b: &Crdt) -> Crdt {
    let mut merged = a.clone();
    merged.merge(b).unwrap();
    check(&merged);
    merged
}

/// Those of `ops` whose bit is set.
fn some(ops: &[Op], mask: u64) -> impl Iterator<Item = &Op> {
    ops.iter().enumerate().filter(move |(index, _)| mask >> (index % 64) & 1 == 1).map(|(_, op)| op)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6 * 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(kind in kinds(), steps in steps(24), masks in any::<[u64; 3]>()) {
        let ops = history(kind, &steps);
        let [a, b, c] = masks.map(|mask| state(kind, some(&ops, mask)));
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a.clone());
        prop_assert_eq!(merged(&merged(&a, &b), &b), merged(&a, &b));
        let all = state(kind, some(&ops, masks[0] | masks[1] | masks[2]));
        prop_assert_eq!(merged(&merged(&a, &b), &c), all, "operations and states say the same");
    }

    #[test]
    fn operations_commute_and_replays_change_nothing(kind in kinds(), steps in steps(24), keys in vec(any::<u64>(), 48)) {
        let ops = history(kind, &steps);
        let expected = state(kind, &ops);
        let mut shuffled: Vec<&Op> = ops.iter().chain(&ops).collect();
        let mut keys = keys.iter().cycle();
        shuffled.sort_by_cached_key(|_| keys.next());
        let mut state = state(kind, shuffled);
        prop_assert_eq!(&state, &expected);
        for op in &ops {
            prop_assert_eq!(state.plan(op, &CrdtLimits::default()), Ok(Applied::Replay));
            prop_assert_eq!(state.apply(op, &CrdtLimits::default()), Ok(Applied::Replay));
        }
        prop_assert_eq!(&state, &expected);
    }

    #[test]
    fn operations_survive_being_written(kind in kinds(), steps in steps(24)) {
        for op in history(kind, &steps) {
            let text = op.to_json();
            let again = Op::parse(text.get(), &CrdtLimits::default()).unwrap();
            prop_assert!(again.to_json().get() == text.get());
            prop_assert_eq!(again, op);
        }
    }
}
