//! The type of a backend whose feature is off.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::{Backend, BackendTicket, CacheBackend, HttpBackend, ReportingBackend};
use crate::client::cache::CacheWrites;
use crate::flow::{
    CacheChange, CacheError, CacheKey, CacheLookup, Check, ControlPoint, FlowOutcome, FlowParams,
    HttpAttributes, LabelSource, PendingInvalidation, Ticket, Verdict,
};
use crate::meter::{ClientCheckTimer, ClientMeter};

/// A backend, ticket or check that cannot exist: the type has no values, so that its methods are
/// never called and it takes no space. The number keeps the types of different backends apart.
#[derive(Debug)]
pub(in crate::client) enum Absent<const BACKEND: usize> {}

impl<const BACKEND: usize> Backend for Absent<BACKEND> {
    type Ticket = Self;
    type Pending = Self;

    const QUEUES_IN_PROCESS: bool = false;

    fn decide_as<T, P>(
        &self,
        _: ControlPoint<'_>,
        _: &FlowParams<'_>,
        _: &dyn LabelSource,
        _: &mut bool,
        _: impl Fn(Self) -> T,
        _: impl FnOnce(Self) -> P,
    ) -> Check<T, P> {
        match *self {}
    }

    fn poll(pending: &mut Self, _: &mut Context<'_>) -> Poll<Verdict<Self>> {
        match *pending {}
    }
}

impl<const BACKEND: usize> HttpBackend for Absent<BACKEND> {
    fn decide_http(
        &self,
        _: &str,
        _: &FlowParams<'_>,
        _: &mut bool,
        _: &HttpAttributes<'_>,
        _: Option<String>,
    ) -> Check<Self, Self> {
        match *self {}
    }
}

impl<const BACKEND: usize> ReportingBackend for Absent<BACKEND> {
    type ReportedTicket = Self;

    async fn decide_with_report(
        &self,
        _: &str,
        _: &FlowParams<'_>,
        _: &mut ClientCheckTimer,
        _: &ClientMeter,
    ) -> (Verdict<Self>, bool) {
        match *self {}
    }
}

impl<const BACKEND: usize> CacheBackend for Absent<BACKEND> {
    async fn lookup(&self, _: CacheKey<'_>) -> Result<CacheLookup, CacheError> {
        match *self {}
    }

    async fn store(
        &self,
        _: CacheKey<'_>,
        _: Bytes,
        _: Duration,
    ) -> Result<CacheChange, CacheError> {
        match *self {}
    }

    async fn delete(&self, _: CacheKey<'_>) -> Result<CacheChange, CacheError> {
        match *self {}
    }

    fn store_later(
        &self,
        _: CacheKey<'_>,
        _: Bytes,
        _: Duration,
        _: &Arc<CacheWrites>,
    ) -> Option<CacheChange> {
        match *self {}
    }

    fn delete_later(&self, _: CacheKey<'_>, _: &Arc<CacheWrites>) -> Option<CacheChange> {
        match *self {}
    }

    fn invalidate_later(
        &self,
        _: CacheKey<'_>,
        _: PendingInvalidation,
        _: &Arc<CacheWrites>,
    ) -> Option<CacheChange> {
        match *self {}
    }
}

impl<const BACKEND: usize> Ticket for Absent<BACKEND> {
    fn end(self, _: FlowOutcome) {
        match self {}
    }
}

impl<const BACKEND: usize> BackendTicket for Absent<BACKEND> {}
