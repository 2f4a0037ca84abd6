//! The scripts, each with the texts that it stands on.

use redis::Script;

use crate::backend::log::TURN;

/// Every script, by the work that it does.
pub(super) struct Scripts {
    pub(super) append: Script,
    pub(super) load: Script,
    pub(super) snapshot: Script,
    pub(super) remove: Script,
    pub(super) keys: Script,
    pub(super) take_turn: Script,
    pub(super) end_turn: Script,
    pub(super) generation: Script,
    pub(super) put: Script,
    pub(super) set_field: Script,
    pub(super) take: Script,
    pub(super) lease: Script,
    pub(super) renew: Script,
    pub(super) leases: Script,
}

const STREAM: &str = include_str!("scripts/stream.lua");
const TURNS: &str = include_str!("scripts/turn.lua");

fn script(parts: &[&str]) -> Script {
    Script::new(&parts.concat().replace("TURN", &TURN.as_millis().to_string()))
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            append: script(&[STREAM, TURNS, include_str!("scripts/append.lua")]),
            load: script(&[STREAM, include_str!("scripts/load.lua")]),
            snapshot: script(&[STREAM, include_str!("scripts/snapshot.lua")]),
            remove: script(&[STREAM, include_str!("scripts/remove.lua")]),
            keys: script(&[STREAM, include_str!("scripts/keys.lua")]),
            take_turn: script(&[include_str!("scripts/take_turn.lua")]),
            end_turn: script(&[TURNS, include_str!("scripts/end_turn.lua")]),
            generation: script(&[include_str!("scripts/generation.lua")]),
            put: script(&[include_str!("scripts/put.lua")]),
            set_field: script(&[include_str!("scripts/set_field.lua")]),
            take: script(&[include_str!("scripts/take.lua")]),
            lease: script(&[include_str!("scripts/lease.lua")]),
            renew: script(&[include_str!("scripts/renew.lua")]),
            leases: script(&[include_str!("scripts/leases.lua")]),
        }
    }
}
