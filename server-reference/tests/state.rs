//! Live states: what can be set, patched, updated and removed, and that whatever is refused leaves no trace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use datasole_server::{
    Draft, Limits, Server, StateError,
    patch::{Operation, Patch, PatchLimits, Pointer},
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

fn server(max_payload: usize) -> Server {
    Server::builder()
        .limits(Limits::default().with(|limits| {
            limits.max_payload = max_payload;
            limits.max_key = 8;
        }))
        .build()
}

fn patch(operations: Value) -> Patch {
    Patch::parse(&operations.to_string(), &PatchLimits::default()).unwrap()
}

/// What a snapshot's frame needs beside a value: the envelope, and a key of one byte with every byte escaped.
const AROUND: usize = 128 + 6;

#[tokio::test]
async fn any_json_value_is_a_state() {
    let server = server(1_000);
    let state = server.state();
    let roots = [
        json!(null),
        json!(false),
        json!(0),
        json!(-1.5),
        json!(""),
        json!("text"),
        json!([]),
        json!([1, [2]]),
        json!({}),
        json!({"": {"__proto__": null}}),
    ];
    assert_eq!(state.get("k").await.unwrap(), None);
    for (n, from) in roots.iter().enumerate() {
        for to in &roots {
            state.set("k", from).await.unwrap();
            let before = state.set("k", from).await.unwrap();
            let after = state.set("k", to).await.unwrap();
            assert_eq!(state.get("k").await.unwrap().as_ref(), Some(to), "from {from}");
            assert_eq!(after.seq - before.seq, u64::from(from != to), "no entry without a change: {from} to {to}");
        }
        state.remove("k").await.unwrap();
        state.remove("k").await.unwrap();
        assert_eq!(state.get("k").await.unwrap(), None, "round {n}");
    }
}

/// A text that was written elsewhere is the value that it says.
#[tokio::test]
async fn a_value_may_be_text_already() {
    let server = server(1_000);
    let state = server.state();
    for value in [json!(null), json!("\u{1}é"), json!({"rows": [{"id": 1}, {"id": 2}]})] {
        let text = to_raw_value(&value).unwrap();
        let set = state.set("k", &text).await.unwrap();
        assert_eq!(state.get("k").await.unwrap(), Some(value.clone()));
        assert_eq!(state.set("k", &value).await.unwrap(), set, "no change");
    }
}

#[tokio::test]
async fn keys_below_at_and_above_the_limit() {
    let server = server(1_000);
    let state = server.state();
    let add = patch(json!([{"op": "add", "path": "", "value": 1}]));
    for (key, fits) in [("1234567", true), ("12345678", true), ("123456789", false), ("", false)] {
        let outcomes = [
            state.set(key, &1).await.map(drop),
            state.patch(key, &add).await.map(drop),
            state.update(key, |draft| draft.set("", 2)).await.map(drop),
        ];
        for outcome in outcomes {
            assert_eq!(outcome.is_ok(), fits, "{key}");
            assert!(fits || matches!(outcome, Err(StateError::Key { limit: 8, .. })));
        }
        assert_eq!(state.get(key).await.unwrap(), fits.then(|| json!(2)));
        state.remove(key).await.unwrap();
    }
    for key in ["b", "a", "c"] {
        state.set(key, &0).await.unwrap();
    }
    state.remove("b").await.unwrap();
    assert_eq!(state.keys().await.unwrap(), ["a", "c"]);
}

#[tokio::test]
async fn values_below_at_and_above_the_frame_limit() {
    let server = server(1_000);
    let state = server.state();
    for existing in [None, Some(json!("before"))] {
        for (bytes, fits) in [(999, true), (1_000, true), (1_001, false)] {
            // As JSON text the string has two quotes.
            let value = json!("x".repeat(bytes - AROUND - 2));
            let replace = Patch::from_operations(vec![Operation::Add {
                path: Pointer::parse("").unwrap(),
                value: value.clone().into(),
            }]);
            for way in 0..3 {
                state.remove("k").await.unwrap();
                if let Some(existing) = &existing {
                    state.set("k", existing).await.unwrap();
                }
                let outcome = match way {
                    0 => state.set("k", &value).await,
                    1 => state.patch("k", &replace).await,
                    _ => state.update("k", |draft| draft.set("", &value)).await,
                };
                match (outcome, fits) {
                    (Ok(_), true) => assert_eq!(state.get("k").await.unwrap().as_ref(), Some(&value)),
                    (Err(StateError::TooLarge { bytes: needed, limit: 1_000, .. }), false) => {
                        assert_eq!(needed, bytes);
                        assert_eq!(state.get("k").await.unwrap(), existing, "refused is not stored");
                    }
                    (outcome, _) => panic!("{bytes} bytes, way {way}: {outcome:?}"),
                }
            }
        }
    }
}

/// The bound that is kept instead of measuring is only a bound: what is refused is what really does not fit.
#[tokio::test]
async fn a_state_grows_by_patches_up_to_the_limit() {
    let server = server(2_000);
    let state = server.state();
    let append = patch(json!([{"op": "add", "path": "/-", "value": 12_345}]));
    let exact = (2_000 - AROUND - 2 + 1) / 6;
    for round in 0..3 {
        state.set("k", &json!([])).await.unwrap();
        for n in 0..exact {
            match n % 2 {
                0 => state.patch("k", &append).await.unwrap(),
                _ => state.update("k", |draft| draft.insert("/-", 12_345)).await.unwrap(),
            };
            // Changes that do not grow it cost nothing in the end, however long their text is.
            state.update("k", |draft| draft.set("/0", 12_345)).await.unwrap();
        }
        let full = state.get("k").await.unwrap().unwrap();
        assert_eq!(full.as_array().map(Vec::len), Some(exact), "round {round}");
        for _ in 0..3 {
            assert!(matches!(state.patch("k", &append).await, Err(StateError::TooLarge { .. })));
            assert_eq!(state.get("k").await.unwrap().as_ref(), Some(&full));
        }
        state.update("k", |draft| draft.remove("/0")).await.unwrap();
        state.patch("k", &append).await.unwrap();
        assert_eq!(state.get("k").await.unwrap(), Some(full));
    }
}

#[tokio::test]
async fn patches_of_what_is_not_there() {
    let server = server(1_000);
    let state = server.state();
    for operations in [
        json!([{"op": "add", "path": "/a", "value": 1}]),
        json!([{"op": "remove", "path": "/a"}]),
        json!([{"op": "add", "path": "", "value": {}}, {"op": "test", "path": "/a", "value": 1}]),
        json!([{"op": "add", "path": "", "value": {}}, {"op": "remove", "path": "/a"}]),
    ] {
        let outcome = state.patch("k", &patch(operations.clone())).await;
        assert!(matches!(outcome, Err(StateError::Patch(_))), "{operations}");
        assert_eq!(state.get("k").await.unwrap(), None, "{operations}");
        assert_eq!(state.keys().await.unwrap(), [""; 0]);
    }
    let nothing = state.patch("k", &patch(json!([]))).await.unwrap();
    assert_eq!(nothing.seq, 0);
    let both = json!([{"op": "add", "path": "", "value": {}}, {"op": "add", "path": "/a", "value": 1}]);
    assert_eq!(state.patch("k", &patch(both)).await.unwrap().seq, 1);
    assert_eq!(state.get("k").await.unwrap(), Some(json!({"a": 1})));
}

/// Where there is nothing, the first member or element begins the whole.
#[tokio::test]
async fn an_update_of_what_is_not_there() {
    let server = server(1_000);
    let state = server.state();
    for exists in [false, true] {
        for (pointer, value) in
            [("/latest", json!({"latest": 1})), ("/0", json!([1])), ("/-", json!([1])), ("/1", json!({"1": 1}))]
        {
            for insert in [false, true] {
                state.remove("k").await.unwrap();
                if exists {
                    state.set("k", &()).await.unwrap();
                }
                let update = state.update("k", |draft| match insert {
                    true => draft.insert(pointer, 1),
                    false => draft.set(pointer, 1),
                });
                update.await.unwrap();
                assert_eq!(state.get("k").await.unwrap(), Some(value.clone()), "{pointer}");
            }
        }
        // A deeper place has no container, and what is there is not replaced.
        state.remove("k").await.unwrap();
        state.update("k", |draft| draft.set("/a/b", 1)).await.unwrap_err();
        assert_eq!(state.get("k").await.unwrap(), None);
        state.set("k", &false).await.unwrap();
        state.update("k", |draft| draft.set("/a", 1)).await.unwrap_err();
    }
}

/// As `State::set` does, by its text.
#[tokio::test]
async fn an_update_takes_values_as_they_are_written() {
    let server = server(1_000);
    let state = server.state();
    let raw = RawValue::from_string("[1e2,-0,{\"b\":1,\"a\":0.1}]".into()).unwrap();
    state.set("set", &(0.1_f32, &raw)).await.unwrap();
    state.update("drawn", |draft| draft.set("", (0.1_f32, &raw))).await.unwrap();
    let expected = r#"[0.1,[100.0,-0.0,{"a":0.1,"b":1}]]"#;
    for key in ["set", "drawn"] {
        assert_eq!(state.get(key).await.unwrap().unwrap().to_string(), expected, "{key}");
    }
    // A value that cannot be a tree is refused, and the value is as it was.
    let raw = RawValue::from_string("1e400".into()).unwrap();
    for insert in [false, true] {
        let update = |draft: &mut Draft<'_>| if insert { draft.insert("/0", &raw) } else { draft.set("/0", &raw) };
        assert!(matches!(state.update("drawn", update).await, Err(StateError::Json(_))));
    }
    assert_eq!(state.get("drawn").await.unwrap().unwrap().to_string(), expected);
}

#[tokio::test]
async fn an_update_that_is_refused_leaves_no_trace() {
    let server = server(1_000);
    let state = server.state();
    for existing in [None, Some(json!({"n": 1, "rows": [1, 2]}))] {
        if let Some(existing) = &existing {
            state.set("k", existing).await.unwrap();
        }
        let own = state.update("k", |draft| {
            draft.set("", json!({"n": 7, "rows": []}))?;
            draft.insert("/rows/0", json!({"deep": [1]}))?;
            draft.set("/rows/0/deep/0", 2)?;
            draft.remove("/n")?;
            assert_eq!(
                draft.get("").map(Value::from),
                Some(json!({"rows": [{"deep": [2]}]})),
                "it sees its own changes"
            );
            Err(StateError::Rejected("on second thoughts".into()))
        });
        assert!(matches!(own.await, Err(StateError::Rejected(_))));
        for wrong in ["/missing/1", "/rows/-/x", "no pointer", "/rows/01"] {
            let outcome = state.update("k", |draft| {
                draft.set("", json!({"rows": []}))?;
                draft.set(wrong, 1)
            });
            assert!(matches!(outcome.await, Err(StateError::Patch(_))), "{wrong}");
        }
        for (start, amount) in [(json!("text"), 1), (json!(1.5), 1), (json!(i64::MAX), 1), (json!(i64::MIN), -1)] {
            let outcome = state.update("k", |draft| {
                draft.set("", &start)?;
                draft.add("", amount)
            });
            assert!(matches!(outcome.await, Err(StateError::Rejected(_))), "{start}");
        }
        assert_eq!(state.get("k").await.unwrap(), existing);
        let before = u64::from(existing.is_some());
        assert_eq!(state.update("k", |_| Ok(())).await.unwrap().seq, before, "nothing was published");
    }
    // A step that failed may be passed over; the others count.
    state.update("k", |draft| draft.remove("/missing").or_else(|_| draft.add("/n", 1))).await.unwrap();
    assert_eq!(state.get("k").await.unwrap().unwrap()["n"], 2);
}

#[tokio::test]
async fn what_is_nested_too_deeply_is_refused() {
    let server = server(100_000);
    let state = server.state();
    let nested = |depth: usize| (0..depth).fold(json!(0), |inner, _| json!([inner]));
    state.set("k", &nested(100)).await.unwrap();
    assert!(state.set("k", &nested(200)).await.is_err());
    assert!(state.update("k", |draft| draft.set("", nested(200))).await.is_err());
    assert_eq!(state.get("k").await.unwrap(), Some(nested(100)));
}

#[tokio::test]
async fn typed_values() {
    let server = server(1_000);
    let state = server.state();
    assert_eq!(state.get_as::<Vec<i64>>("k").await.unwrap(), None);
    state.set("k", &vec![1, 2]).await.unwrap();
    assert_eq!(state.get_as::<Vec<i64>>("k").await.unwrap(), Some(vec![1, 2]));
    assert!(matches!(state.get_as::<String>("k").await, Err(StateError::Json(_))));
    let unwritable = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(matches!(state.set("k", &unwritable).await, Err(StateError::Json(_))));
    assert_eq!(state.get_as::<Vec<i64>>("k").await.unwrap(), Some(vec![1, 2]));
}

const WRITERS: i64 = 16;
const CHANGES: i64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_at_the_same_time_lose_nothing() {
    let server = server(100_000);
    server.state().set("k", &json!({"sum": 0, "rows": []})).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let server = server.clone();
        tokio::spawn(async move {
            let state = server.state();
            let append = patch(json!([{"op": "add", "path": "/rows/-", "value": writer}]));
            for change in 0..CHANGES {
                state.update("k", |draft| draft.add("/sum", 1)).await.unwrap();
                if change % 10 == 0 {
                    state.patch("k", &append).await.unwrap();
                    state.set("other", &change).await.unwrap();
                    state.remove("other").await.unwrap();
                }
                if change % 7 == 0 {
                    let refused = state.update("k", |draft| {
                        draft.set("/sum", -1)?;
                        Err(StateError::Rejected("no".into()))
                    });
                    refused.await.unwrap_err();
                }
                tokio::task::yield_now().await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let value = server.state().get("k").await.unwrap().unwrap();
    assert_eq!(value["sum"], WRITERS * CHANGES);
    for writer in 0..WRITERS {
        let own = value["rows"].as_array().unwrap().iter().filter(|&row| *row == writer).count();
        assert_eq!(own as i64, CHANGES / 10);
    }
    let entries = 1 + WRITERS * CHANGES + WRITERS * CHANGES / 10;
    let position = server.state().update("k", |_| Ok(())).await.unwrap();
    assert_eq!(position.seq as i64, entries, "each change is one entry");
    assert_eq!(server.state().get("other").await.unwrap(), None);
}
