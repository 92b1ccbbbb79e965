//! Invalid constants in the configuration of a layer panic at the caller's line.

use std::panic::{self, catch_unwind};
use std::sync::{Arc, Mutex};

use crate::layer_support::Recorder;
use tower_aperture::ApertureLayer;

// This file has one test only, because the panic hook is global to the process.
#[test]
fn the_panic_names_the_callers_line() {
    let locations = Arc::new(Mutex::new(Vec::new()));
    let hook = panic::take_hook();
    panic::set_hook(Box::new({
        let locations = locations.clone();
        move |info| {
            let at = info.location().map(|at| (at.file().to_owned(), at.line()));
            locations.lock().expect("the lock is not poisoned").push(at);
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
    let locations = locations.lock().expect("the lock is not poisoned");
    assert_eq!(*locations, [here(first), here(second)]);
}
