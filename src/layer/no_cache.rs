//! Stubs that replace the cache if the feature `response-cache` is disabled. Their types have no
//! values, so none of the methods is ever called.
#![allow(clippy::needless_pass_by_value, clippy::unused_self, dead_code)]

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::head::RequestHead;
use super::request_extras::Hit;
use crate::flow::Caches;

pub(crate) enum CacheSettings {}
pub(crate) enum CacheUse {}
pub(crate) enum BodyRecorder {}

impl CacheSettings {
    pub(crate) fn cache_use(
        self: &Arc<Self>,
        _: RequestHead<'_>,
        _: impl FnOnce() -> Arc<str>,
        _: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<CacheUse> {
        match **self {}
    }

    pub(crate) fn invalidation(
        self: &Arc<Self>,
        _: RequestHead<'_>,
        _: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<CacheUse> {
        match **self {}
    }
}

impl CacheUse {
    pub(crate) fn key(&self) -> Option<&str> {
        match *self {}
    }

    pub(crate) fn answer_from(&mut self, _: &Bytes) -> Option<Hit> {
        match *self {}
    }

    pub(crate) fn is_invalidating(&self) -> bool {
        match *self {}
    }

    pub(crate) fn start(&mut self) {}

    pub(crate) fn record<B: Body>(self, _: &Response<B>, _: bool) -> Option<Box<BodyRecorder>> {
        match self {}
    }
}

impl BodyRecorder {
    pub(crate) fn copy(&mut self, _: usize) -> Option<&mut Vec<u8>> {
        match *self {}
    }

    pub(crate) fn enter(&mut self) {}

    pub(crate) fn leave(&mut self) {}

    pub(crate) fn discard(&mut self) {}

    pub(crate) fn finish(&mut self) {}
}
