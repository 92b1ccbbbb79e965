//! The handle through which the inner service accesses the flow of its request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::classifier::{EndTicket, ResponseClassifier, SharedClassifier, TicketEnd};
use super::guard::FlowGuard;
use super::head::ResponseHead;
use super::holds::{HeldEnd, Holds};
use crate::cache::FlowCache;
use crate::flow::{CacheKey, CacheLookup, Caches, FlowDecision, FlowStatus, SettleError, Ticket};
use crate::settlement::LastSettlement;

/// A handle to the flow of a request, for the inner service. The layer inserts it as an extension
/// of the request if [`expose_flow`](crate::ApertureLayer::expose_flow) is set.
///
/// The handle returns the decision, gives access to the caches, sets the status of the flow, and
/// [settles](Self::settle) what it cost. It does not keep the flow open; see
/// [when a flow ends](crate::layer#when-a-flow-ends). For work that outlives the response, take a
/// [`hold`](Self::hold). A clone copies one pointer.
///
/// With the feature `axum`, `FlowHandle` is an extractor that responds with status 500 if the
/// request has no flow, and `Option<FlowHandle>` is an extractor that accepts such requests.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use axum::{Router, extract::Extension, routing::get};
/// use tower_aperture::layer::FlowHandle;
/// use tower_aperture::{ApertureLayer, FlowStatus};
///
/// async fn report(Extension(flow): Extension<FlowHandle>) -> String {
///     // The client gets status 200, but policies count the flow as an error.
///     flow.set_status(FlowStatus::Error);
///     format!("half a report, {:?}", flow.decision())
/// }
///
/// let layer = ApertureLayer::new(client, "report").expose_flow();
/// let app: Router = Router::new().route("/report", get(report)).route_layer(layer);
/// ```
#[derive(Clone)]
pub struct FlowHandle {
    shared: Arc<SharedFlow>,
}

struct SharedFlow {
    control_point: Arc<str>,
    decision: FlowDecision,
    result_key: Option<Box<str>>,
    caches: Option<Arc<dyn Caches>>,
    lookup: CacheLookup,
    /// Classifies the response if the application does not set a status.
    classify: Option<SharedClassifier>,
    /// The last status that the application set, and the bit [`ENDED`] once the flow is over.
    status: AtomicU8,
    /// True if the ticket of the flow can be settled.
    settles: bool,
    settlement: LastSettlement,
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
        (result_key, caches, lookup): (Option<Box<str>>, Option<Arc<dyn Caches>>, CacheLookup),
        guard: Option<&mut FlowGuard<T>>,
    ) -> Self {
        let settles = guard.as_ref().is_some_and(|guard| guard.settles());
        let make = |classify, status| {
            Arc::new(SharedFlow {
                control_point,
                decision,
                result_key,
                caches,
                lookup,
                classify,
                status: AtomicU8::new(status),
                settles,
                settlement: LastSettlement::new(),
                holds: Holds::new(status == ENDED),
            })
        };
        let shared = match guard {
            Some(guard) => {
                let shared = make(guard.take_classify(), NOT_SET);
                guard.set_classify(shared.clone());
                shared
            }
            None => make(None, ENDED),
        };
        Self { shared }
    }

    /// Returns the decision: accepted or unreachable or, in
    /// [shadow mode](crate::ApertureLayer::shadow_mode), rejected.
    #[must_use]
    pub fn decision(&self) -> FlowDecision {
        self.shared.decision
    }

    /// Returns the control point of the flow.
    #[must_use]
    pub fn control_point(&self) -> &str {
        &self.shared.control_point
    }

    /// Returns true if the flow has ended, or never started because the check was unreachable.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.shared.status.load(Ordering::Acquire) & ENDED != 0
    }

    pub(super) fn holds(&self) -> &Holds {
        &self.shared.holds
    }

    /// Ends the flow after its last hold was dropped.
    pub(super) fn end(&self, end: HeldEnd) {
        self.shared.end(end);
    }

    /// Sets the status of the flow, which replaces the status of the response. A later call
    /// replaces an earlier one. If the flow fails after the call, because the client disconnects or
    /// the body fails, it still ends as an error.
    ///
    /// Returns false, without effect, if the flow [has ended](Self::is_ended).
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

    /// Settles the flow with the tokens that it cost. The check took an estimate, and the end of the
    /// flow corrects the buckets that the estimate came from: for tokens of a language model, bytes
    /// or rows, which are known afterwards.
    ///
    /// The last call before the [end](crate::layer#when-a-flow-ends) counts, also if the request is
    /// cancelled, the handler panics, or the client disconnects. A response that streams is settled
    /// before its body yields its end: within the poll that returns `None` or the trailers, or in
    /// the drop of the body. A flow that is never settled costs its estimate. A rejected flow, which
    /// runs in [shadow mode](crate::ApertureLayer::shadow_mode), and an unreachable one took no
    /// tokens, so the call has no effect.
    ///
    /// [`Flow::settle`](crate::Flow::settle) says which buckets are corrected.
    ///
    /// # Errors
    ///
    /// Returns [`SettleError::InvalidTokens`] unless the tokens are a finite number, zero or more,
    /// [`SettleError::Ended`] after the end of the flow, and [`SettleError::Unsupported`] with an
    /// Agent.
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use axum::{Router, extract::Extension, routing::post};
    /// use tower_aperture::ApertureLayer;
    /// use tower_aperture::layer::FlowHandle;
    ///
    /// async fn complete(Extension(flow): Extension<FlowHandle>) -> &'static str {
    ///     let (poem, tokens) = ("a poem", 312);
    ///     if let Err(error) = flow.settle(f64::from(tokens)) {
    ///         eprintln!("the estimate counts: {error}");
    ///     }
    ///     poem
    /// }
    ///
    /// let layer = ApertureLayer::new(client, "completions").expose_flow();
    /// let app: Router = Router::new().route("/", post(complete)).route_layer(layer);
    /// ```
    pub fn settle(&self, actual_tokens: f64) -> Result<(), SettleError> {
        SettleError::check(actual_tokens)?;
        let shared = &*self.shared;
        match shared.decision {
            FlowDecision::Accepted if !shared.settles => Err(SettleError::Unsupported),
            FlowDecision::Accepted => shared.settlement.set(actual_tokens),
            FlowDecision::Rejected | FlowDecision::Unreachable => Ok(()),
        }
    }

    /// Returns the access to the flow's
    /// [result cache key](crate::ApertureLayer::result_cache_key). The result cache of a layer with
    /// `ApertureLayer::result_cache` is used by the layer alone.
    #[must_use]
    pub fn result_cache(&self) -> FlowCache<'_> {
        let shared = &*self.shared;
        let key = shared.result_key.as_deref();
        let key = key.map(|key| CacheKey::Result {
            control_point: &shared.control_point,
            key,
        });
        FlowCache::result_of_decider(&shared.lookup, key, shared.caches.as_deref())
    }

    /// Returns the access to a key of the global cache. The flow has its value only if the key is
    /// the layer's [global cache key](crate::ApertureLayer::global_cache_key).
    #[must_use]
    pub fn global_cache<'a>(&'a self, key: &'a str) -> FlowCache<'a> {
        let shared = &*self.shared;
        FlowCache::global_of_decider(&shared.lookup, key, shared.caches.as_deref())
    }
}

impl ResponseClassifier for SharedFlow {
    fn classify(&self, head: ResponseHead<'_>) -> FlowStatus {
        match &self.classify {
            Some(classify) => classify.classify(head),
            None => head.default_status(),
        }
    }

    fn close(&self, status: FlowStatus, failed: bool) -> Option<TicketEnd> {
        let failed = failed | self.holds.close()?;
        Some(self.mark_ended(status, failed))
    }

    fn defer(&self, ticket: EndTicket, status: FlowStatus, failed: bool) {
        let end = HeldEnd {
            ticket,
            status,
            failed,
        };
        if let Some(end) = self.holds.defer(end) {
            self.end(end);
        }
    }
}

impl SharedFlow {
    fn end(&self, end: HeldEnd) {
        (end.ticket)(self.mark_ended(end.status, end.failed));
    }

    /// Records that the flow is over. Returns how it ends.
    fn mark_ended(&self, response_status: FlowStatus, failed: bool) -> TicketEnd {
        let settled = self.settlement.end();
        let status = match self.status.fetch_or(ENDED, Ordering::AcqRel) {
            _ if failed => FlowStatus::Error,
            OK => FlowStatus::Ok,
            ERROR => FlowStatus::Error,
            UNSET => FlowStatus::Unset,
            _ => response_status,
        };
        TicketEnd { status, settled }
    }
}

// Omits keys and values, because they may identify people.
impl fmt::Debug for FlowHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowHandle")
            .field("control_point", &self.shared.control_point)
            .field("decision", &self.shared.decision)
            .field("lookup", &self.shared.lookup)
            .field("is_ended", &self.is_ended())
            .finish()
    }
}
