//! Events and spans of builds without the feature `tracing`, which compile to nothing.

/// A span that cannot exist.
pub(super) type SpanHandle = std::convert::Infallible;

pub(super) const fn new_span(_: &str) -> Option<SpanHandle> {
    None
}

pub(super) fn in_span<T>(span: &SpanHandle, _: impl FnOnce() -> T) -> T {
    match *span {}
}

/// Emits nothing, because the feature `tracing` is not enabled. The arguments are type-checked, so
/// that they count as used, and not evaluated.
#[macro_export]
macro_rules! log_event {
    (target: $target:literal, $level:ident, $($arg:tt)*) => {
        if false {
            $crate::__use_arguments!($($arg)*);
        }
    };
    ($level:ident, $($arg:tt)*) => {
        if false {
            $crate::__use_arguments!($($arg)*);
        }
    };
}

/// Uses the fields and the text of an event.
#[doc(hidden)]
#[macro_export]
macro_rules! __use_arguments {
    ($text:literal $($arg:tt)*) => {
        let _ = ::core::format_args!($text $($arg)*);
    };
    ($field:ident = % $value:expr, $($arg:tt)*) => {
        let _ = &$value;
        $crate::__use_arguments!($($arg)*)
    };
    ($field:ident = ? $value:expr, $($arg:tt)*) => {
        let _ = &$value;
        $crate::__use_arguments!($($arg)*)
    };
    ($field:ident = $value:expr, $($arg:tt)*) => {
        let _ = &$value;
        $crate::__use_arguments!($($arg)*)
    };
    ($field:ident, $($arg:tt)*) => {
        let _ = &$field;
        $crate::__use_arguments!($($arg)*)
    };
    (% $field:ident, $($arg:tt)*) => {
        let _ = &$field;
        $crate::__use_arguments!($($arg)*)
    };
    (? $field:ident, $($arg:tt)*) => {
        let _ = &$field;
        $crate::__use_arguments!($($arg)*)
    };
}
