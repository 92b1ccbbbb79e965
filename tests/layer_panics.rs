//! A constant that makes no sense panics at the line that has it.

mod layer_support;

use std::panic::{self, catch_unwind};
use std::sync::{Arc, Mutex};

use layer_support::Recorder;
use tower_aperture::ApertureLayer;

// One test: the panic hook is one for the whole process.
#[test]
fn the_panic_names_the_callers_line() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = panic::take_hook();
    panic::set_hook(Box::new({
        let seen = seen.clone();
        move |info| {
            let at = info.location().map(|at| (at.file().to_owned(), at.line()));
            seen.lock().expect("no panic here").push(at);
        }
    }));
    let first = line!() + 1;
    let empty = catch_unwind(|| ApertureLayer::new(Recorder::accepting(), ""));
    let layer = || ApertureLayer::new(Recorder::accepting(), "test");
    let second = line!() + 1;
    let secret = catch_unwind(|| layer().label_from_header("session", "cookie"));
    panic::set_hook(hook);

    assert!(empty.is_err() && secret.is_err());
    let here = |line| Some((file!().to_owned(), line));
    let seen = seen.lock().expect("no panic in the hook");
    assert_eq!(*seen, [here(first), here(second)]);
}
