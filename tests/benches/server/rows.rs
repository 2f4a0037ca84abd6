//! The rows of the benchmark: what is measured, and how good it must be.

use crate::{
    content::Content,
    payload,
    report::Target,
    scenario::{Scenario, Work},
    serve::Order,
};

/// Every scenario.
pub(crate) fn all() -> Vec<Scenario> {
    let call = |connections, in_flight, params| Work::Call { connections, in_flight, params };
    let fan_out = |audience, at_once| Work::FanOut { audience, at_once, events: Order::Events };
    let small_event = Work::FanOut { audience: 1, at_once: 1, events: Order::SmallEvents };
    let growth = |content, beside| Work::Growth { content, beside };
    let rows = |rows| growth(Content::Rows(rows), Content::Rows(20));
    let entries = |entries| growth(Content::Entries(entries), Content::Entries(10));
    let keys = |keys| growth(Content::Keys(keys), Content::Keys(1));
    let flat = Target::new(1.5, 1.5, 1.0);
    let as_bare = Target::new(1.5, 1.05, 1.0);
    vec![
        Scenario::new("rpc-small-16x4", call(16, 4, payload::small), 2_000, as_bare),
        Scenario::new("rpc-small-256x1", call(256, 1, payload::small), 200, as_bare),
        Scenario::new("rpc-7kb-compressed", call(16, 1, payload::large), 200, as_bare),
        Scenario::new("fan-out-10-1", fan_out(10, 1), 3_000, as_bare),
        Scenario::new("fan-out-100-1", fan_out(100, 1), 600, as_bare),
        Scenario::new("fan-out-500-1", fan_out(500, 1), 150, as_bare),
        Scenario::new("fan-out-500-10", fan_out(500, 10), 50, as_bare),
        Scenario::new("fan-out-500-64", fan_out(500, 64), 15, as_bare),
        Scenario::new("fan-out-1000-1", fan_out(1_000, 1), 80, as_bare),
        Scenario::new("patch-10000-rows", Work::Patch, 1_500, as_bare),
        Scenario::new("growth-patch-10kb", rows(200), 20_000, flat).aiming(3.0),
        Scenario::new("growth-patch-100kb", rows(2_000), 20_000, flat).aiming(3.0),
        // In a slice as much is stored as one snapshot has, which is made then: half a microsecond of a change.
        Scenario::new("growth-patch-1mb", rows(20_000), 20_000, Target::new(2.0, 1.5, 1.0)).aiming(3.0),
        Scenario::new("growth-patch-10mb", rows(200_000), 20_000, flat).aiming(3.0),
        // Of ten entries everything stays in the processor's caches, here and with one key.
        Scenario::new("growth-map-1000", entries(1_000), 20_000, flat).aiming(4.0),
        Scenario::new("growth-map-10000", entries(10_000), 20_000, Target::new(2.5, 1.5, 1.0)).aiming(4.0),
        Scenario::new("growth-map-100000", entries(100_000), 20_000, Target::new(2.5, 1.5, 1.0)).aiming(4.0),
        Scenario::new("growth-keys-1000", keys(1_000), 20_000, Target::new(2.5, 1.5, 1.0)),
        Scenario::new("growth-keys-100000", keys(100_000), 20_000, Target::new(2.5, 1.5, 1.0)),
        Scenario::new("growth-fan-out-10000", Work::Slope { many: 10_000, few: 100 }, 4, Target::new(1.4, 1.1, 1.0)),
        Scenario::new("herd-10000", Work::Herd { connections: 10_000 }, 1, Target::new(1.35, 1.05, 1.0))
            .aiming(60.0)
            .beside("peak", Target::new(60.0e6, 60.0e6, 16.0e6)),
        Scenario::new("herd-10000-back", Work::Return { clients: 10_000 }, 1, Target::new(1.5, 1.2, 1.0)),
        Scenario::new("room-1000", Work::Room { members: 1_000 }, 1, Target::new(80.0, 40.0, 15.0))
            .beside("wire", Target::new(25_000.0, 25_000.0, 10_000.0)),
        Scenario::new("document-260000", Work::Document, 20_000, Target::new(2.5, 1.6, 1.0))
            .aiming(8.0)
            .beside("growth", Target::new(1.25, 1.1, 1.0)),
        Scenario::new("idle-memory-1000", Work::Idle { connections: 1_000 }, 1, Target::new(4_096.0, 2_000.0, 955.0)),
        Scenario::new("idle-memory-5000", Work::Idle { connections: 5_000 }, 1, Target::new(4_096.0, 2_000.0, 955.0)),
        Scenario::new("idle-memory-19000", Work::Idle { connections: 19_000 }, 1, Target::new(4_096.0, 2_000.0, 955.0)),
        Scenario::new("key-memory-100000", Work::Memory(Content::Keys(100_000)), 1, Target::new(950.0, 700.0, 400.0)),
        Scenario::new("state-memory-10mb", Work::Memory(Content::Rows(200_000)), 1, Target::new(8.0, 8.0, 3.0))
            .beside("peak", Target::new(16.0, 16.0, 6.0)),
        Scenario::new("set-10mb", Work::Set { rows: 200_000 }, 3, Target::new(12_000.0, 6_000.0, 2_500.0)),
        Scenario::new("longest-task-10mb", Work::Stall { rows: 200_000 }, 1, Target::new(10_000.0, 5_000.0, 1_000.0)),
        Scenario::new("native-event", Work::Receive, 400, Target::new(1.3, 1.15, 1.0)),
        Scenario::new(
            "wire-call-small",
            Work::Wire(Box::new(call(1, 1, payload::small))),
            100,
            Target::new(90.0, 90.0, 50.0),
        ),
        // An event of 56 bytes, and one of 24.
        Scenario::new("wire-event-small", Work::Wire(Box::new(fan_out(1, 1))), 100, Target::new(92.0, 92.0, 65.0)),
        Scenario::new("wire-event-24b", Work::Wire(Box::new(small_event)), 100, Target::new(60.0, 60.0, 33.0)),
    ]
}
