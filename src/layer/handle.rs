//! The handle by which the inner service reaches the flow of its request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::config::Classify;
use super::guard::{Guard, Judge};
use super::head::ResponseHead;
use super::hold::{EndTicket, FlowHold, HeldEnd, Holds};
use crate::flow::{
    CacheError, CacheLookup, CachePlace, CacheRefusal, CacheValue, Caches, FlowDecision,
    FlowStatus, Ticket,
};

/// A request's flow in the hands of the inner service, an extension of the request where the layer
/// was told to [expose](crate::ApertureLayer::expose_flow) it.
///
/// It tells what was decided and what the caches had, writes to the caches, and says how the work
/// went. The handle itself does not keep the flow open, see
/// [when a flow ends](crate::layer#when-a-flow-ends). For work that outlives the response take a
/// [`hold`](Self::hold). Cloning is a pointer bump.
///
/// With the feature `axum` it is an extractor, which answers 500 where there is no flow, and
/// `Option<FlowHandle>` one that does not.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use axum::{Router, extract::Extension, routing::get};
/// use tower_aperture::layer::FlowHandle;
/// use tower_aperture::{ApertureLayer, FlowStatus};
///
/// async fn report(Extension(flow): Extension<FlowHandle>) -> String {
///     // Half a report is a 200 to the client, and an error to the policy.
///     flow.set_status(FlowStatus::Error);
///     format!("half a report, {:?}", flow.decision())
/// }
///
/// let layer = ApertureLayer::new(client, "report").expose_flow();
/// let app: Router = Router::new().route("/report", get(report)).route_layer(layer);
/// ```
#[derive(Clone)]
pub struct FlowHandle {
    shared: Arc<Shared>,
}

struct Shared {
    control_point: Arc<str>,
    decision: FlowDecision,
    result_key: Option<Box<str>>,
    caches: Option<Arc<dyn Caches>>,
    found: CacheLookup,
    /// What judges the flow when the handle says nothing.
    classify: Option<Classify>,
    /// What was said last, and whether the flow is over.
    status: AtomicU8,
    holds: Holds,
}

const NOT_SET: u8 = 0;
const OK: u8 = 1;
const ERROR: u8 = 2;
const UNSET: u8 = 3;
const ENDED: u8 = 0x80;

impl FlowHandle {
    pub(super) fn new<T: Ticket>(
        control_point: Arc<str>,
        decision: FlowDecision,
        (result_key, caches, found): (Option<Box<str>>, Option<Arc<dyn Caches>>, CacheLookup),
        guard: Option<&mut Guard<T>>,
    ) -> Self {
        let make = |classify, status| {
            Arc::new(Shared {
                control_point,
                decision,
                result_key,
                caches,
                found,
                classify,
                status: AtomicU8::new(status),
                holds: Holds::new(status == ENDED),
            })
        };
        let shared = match guard {
            Some(guard) => {
                let shared = make(guard.take_classify(), NOT_SET);
                guard.judge_by(shared.clone());
                shared
            }
            None => make(None, ENDED),
        };
        Self { shared }
    }

    /// What was decided: accepted, or unreachable; or rejected, where the layer only
    /// [tries](crate::ApertureLayer::shadow_mode) what would be.
    #[must_use]
    pub fn decision(&self) -> FlowDecision {
        self.shared.decision
    }

    /// Where the flow entered.
    #[must_use]
    pub fn control_point(&self) -> &str {
        &self.shared.control_point
    }

    /// The flow is over, or was never answered for.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.shared.status.load(Ordering::Acquire) & ENDED != 0
    }

    /// Keeps the flow open until the hold is dropped, beyond the end of the response: for a
    /// WebSocket, a CONNECT tunnel or a background job, which is to keep its concurrency slot. See
    /// [`FlowHold`].
    ///
    /// Take it before the response is returned. When the flow [is ended](Self::is_ended), or when
    /// nobody decided about it, the hold keeps nothing and [says so](FlowHold::is_open).
    pub fn hold(&self) -> FlowHold {
        FlowHold::new(self.clone())
    }

    pub(super) fn holds(&self) -> &Holds {
        &self.shared.holds
    }

    /// Ends the flow, which no hold keeps open any more.
    pub(super) fn end(&self, end: HeldEnd) {
        self.shared.end(end);
    }

    /// Says how the work went, in place of what the layer makes of the response; the last call
    /// counts. A flow that fails after that, because the client leaves or the body breaks, is an
    /// error all the same.
    ///
    /// Returns false when the flow [is ended](Self::is_ended): the status comes too late.
    pub fn set_status(&self, status: FlowStatus) -> bool {
        let code = match status {
            FlowStatus::Ok => OK,
            FlowStatus::Error => ERROR,
            FlowStatus::Unset => UNSET,
        };
        let set = |known: u8| (known & ENDED == 0).then_some(code);
        let status = &self.shared.status;
        status
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, set)
            .is_ok()
    }

    /// The value of the [result cache key](crate::ApertureLayer::result_cache_key), as it was when
    /// the flow started; `None` is a miss.
    ///
    /// # Errors
    ///
    /// When there is no such key, nobody answered, or the cache refused.
    pub fn result_cache(&self) -> Result<Option<Bytes>, CacheError> {
        let found = self.shared.found.result.as_ref();
        read(found.ok_or(CacheError::NotRequested)?)
    }

    /// The value of a [global cache key](crate::ApertureLayer::global_cache_key), as it was when
    /// the flow started; `None` is a miss.
    ///
    /// # Errors
    ///
    /// When the layer has no such key, nobody answered, or the cache refused.
    pub fn global_cache(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        read(
            self.shared
                .found
                .global(key)
                .ok_or(CacheError::UnknownKey)?,
        )
    }

    /// Stores a value under the flow's result cache key, for `ttl`, as
    /// [`ApertureClient::set_result_cache`](crate::ApertureClient::set_result_cache) does. The
    /// caches outlive the flow: this works when it is over, too.
    ///
    /// # Errors
    ///
    /// When there is no such key, the value is not taken, or there are no caches.
    pub async fn set_result_cache(
        &self,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        let place = self.result_place()?;
        self.caches()?.set(place, value.into(), ttl).await
    }

    /// Deletes the value under the flow's result cache key; a missing one is no error.
    ///
    /// # Errors
    ///
    /// When there is no such key, the Agent does not answer, or there are no caches.
    pub async fn delete_result_cache(&self) -> Result<(), CacheError> {
        let place = self.result_place()?;
        self.caches()?.delete(place).await
    }

    /// Stores a value in the global cache for `ttl`, as
    /// [`ApertureClient::set_global_cache`](crate::ApertureClient::set_global_cache) does.
    ///
    /// # Errors
    ///
    /// When the value is not taken, or there are no caches.
    pub async fn set_global_cache(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        let place = CachePlace::Global { key };
        self.caches()?.set(place, value.into(), ttl).await
    }

    /// Deletes a value of the global cache; a missing one is no error.
    ///
    /// # Errors
    ///
    /// When the Agent does not answer, or there are no caches.
    pub async fn delete_global_cache(&self, key: &str) -> Result<(), CacheError> {
        self.caches()?.delete(CachePlace::Global { key }).await
    }

    fn caches(&self) -> Result<&dyn Caches, CacheError> {
        self.shared.caches.as_deref().ok_or(CacheError::Unsupported)
    }

    fn result_place(&self) -> Result<CachePlace<'_>, CacheError> {
        Ok(CachePlace::Result {
            control_point: &self.shared.control_point,
            key: self.shared.result_key.as_deref().ok_or(CacheError::NoKey)?,
        })
    }
}

fn read(value: &CacheValue) -> Result<Option<Bytes>, CacheError> {
    let refused = |refusal: CacheRefusal| CacheError::Server(refusal.into_text());
    value.clone().map_err(refused)
}

impl Judge for Shared {
    fn judge(&self, head: ResponseHead<'_>) -> FlowStatus {
        match &self.classify {
            Some(classify) => classify.judge(head),
            None => head.judged(),
        }
    }

    fn close(&self, status: FlowStatus, failed: bool) -> Option<FlowStatus> {
        let failed = failed | self.holds.close()?;
        Some(self.ended(status, failed))
    }

    fn keep(&self, ticket: EndTicket, status: FlowStatus, failed: bool) {
        let end = HeldEnd {
            ticket,
            status,
            failed,
        };
        if let Some(end) = self.holds.keep(end) {
            self.end(end);
        }
    }
}

impl Shared {
    fn end(&self, end: HeldEnd) {
        let status = self.ended(end.status, end.failed);
        (end.ticket)(status);
    }

    /// Notes that the flow is over. Returns the status it ends with.
    fn ended(&self, judged: FlowStatus, failed: bool) -> FlowStatus {
        match self.status.fetch_or(ENDED, Ordering::AcqRel) {
            _ if failed => FlowStatus::Error,
            OK => FlowStatus::Ok,
            ERROR => FlowStatus::Error,
            UNSET => FlowStatus::Unset,
            _ => judged,
        }
    }
}

/// Neither keys nor values: they may identify people.
impl fmt::Debug for FlowHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowHandle")
            .field("control_point", &self.shared.control_point)
            .field("decision", &self.shared.decision)
            .field("found", &self.shared.found)
            .field("is_ended", &self.is_ended())
            .finish()
    }
}
