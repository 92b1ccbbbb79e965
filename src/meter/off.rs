//! The same without the feature: nothing, in as many words.

use std::time::Duration;

use crate::flow::{CacheEvent, CacheLookup, CacheValue, FlowStatus, Verdict};

#[derive(Debug, Default)]
pub(crate) struct Meter(());

#[derive(Debug)]
pub(crate) struct Asked(());

#[derive(Debug, Default)]
pub(crate) struct Held(());

impl Meter {
    pub(crate) const fn ask(&self, _: &str) -> Asked {
        Asked(())
    }

    pub(crate) const fn labels_dropped(&self, _: u32) {}

    pub(crate) const fn labels_shortened(&self, _: u32) {}

    pub(crate) const fn cached(&self, _: CacheEvent) {}

    pub(crate) const fn wrote(&self, _: bool) {}

    pub(crate) const fn looked_up(&self, _: &CacheLookup) {}

    pub(crate) const fn looked_up_result(&self, _: &CacheValue) {}

    pub(crate) const fn looked_up_global(&self, _: &CacheValue) {}
}

impl Asked {
    pub(crate) const fn pass_on(&mut self) -> Self {
        Self(())
    }

    pub(crate) const fn waits(&mut self) {}

    pub(crate) fn waited(&mut self, _: impl FnOnce() -> Option<Duration>) {}

    pub(crate) const fn answered<T>(&mut self, _: &Verdict<T>, _: bool, _: bool) -> Held {
        Held(())
    }
}

impl Held {
    pub(crate) const fn ended(self, _: FlowStatus) {}
}
