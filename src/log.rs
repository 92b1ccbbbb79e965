//! `tracing` where the feature is on, nothing where it is off.
#![allow(unused_macros)]

macro_rules! log_event {
    ($level:ident, $($arg:tt)*) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!(target: "tower_aperture", $($arg)*);
    }};
}
