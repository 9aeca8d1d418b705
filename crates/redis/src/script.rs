//! The scripts that run inside Redis: each looks and writes at once, in one round trip.

use redis::Script;

pub(crate) struct Scripts {
    pub(crate) find: Script,
    pub(crate) put: Script,
    pub(crate) remove: Script,
    pub(crate) remove_fields: Script,
    pub(crate) shed: Script,
    pub(crate) touch: Script,
    pub(crate) last_used: Script,
    pub(crate) unused: Script,
    pub(crate) begin_fill: Script,
    pub(crate) forget_lost: Script,
    pub(crate) end_fill: Script,
    pub(crate) mark_incomplete: Script,
    pub(crate) hold: Script,
    pub(crate) release: Script,
}

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("lua/prelude.lua"), include_str!($file)))
    };
}

impl Scripts {
    pub(crate) fn new() -> Scripts {
        Scripts {
            find: script!("lua/find.lua"),
            put: script!("lua/put.lua"),
            remove: script!("lua/remove.lua"),
            remove_fields: script!("lua/remove_fields.lua"),
            shed: script!("lua/shed.lua"),
            touch: script!("lua/touch.lua"),
            last_used: script!("lua/last_used.lua"),
            unused: script!("lua/unused.lua"),
            begin_fill: script!("lua/begin_fill.lua"),
            forget_lost: script!("lua/forget_lost.lua"),
            end_fill: script!("lua/end_fill.lua"),
            mark_incomplete: script!("lua/mark_incomplete.lua"),
            hold: script!("lua/hold.lua"),
            release: script!("lua/release.lua"),
        }
    }
}
