//! The meter of builds without the feature `metrics`, which records nothing.

use super::{CheckTimer, EndCounter, Meter};
use crate::flow::Verdict;

/// The meter, its timers and its counters: each is this type.
#[derive(Debug, Default)]
pub(crate) struct ClientMeter(());

impl Meter for ClientMeter {
    type CheckTimer = Self;

    const RECORDS: bool = false;

    fn start_check(&self, _: &str) -> Self {
        Self(())
    }
}

impl CheckTimer for ClientMeter {
    type EndCounter = Self;

    fn take(&mut self) -> Self {
        Self(())
    }

    fn stop<T>(&mut self, _: &Verdict<T>, _: bool, _: bool) -> Self {
        Self(())
    }
}

impl EndCounter for ClientMeter {}
