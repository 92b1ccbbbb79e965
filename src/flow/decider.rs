use std::future::Future;
use std::sync::Arc;

use super::{
    CacheLookup, Caches, Denial, FlowError, FlowOutcome, FlowParams, HttpAttributes, HttpExtras,
    Quota,
};

/// Decides whether flows may run: an [`ApertureClient`](crate::ApertureClient), or your own.
///
/// ```
/// use std::future::Ready;
/// use tower_aperture::{
///     ApertureLayer, Check, Decider, Denial, FlowOutcome, FlowParams, RejectReason, Ticket, Verdict,
/// };
///
/// #[derive(Clone)]
/// struct WeekdaysOnly;
///
/// struct Nothing;
///
/// impl Ticket for Nothing {
///     fn end(self, _: FlowOutcome) {}
/// }
///
/// impl Decider for WeekdaysOnly {
///     type Ticket = Nothing;
///     type Pending = Ready<Verdict<Nothing>>;
///
///     fn decide(&self, _: &str, params: &FlowParams<'_>) -> Check<Nothing, Self::Pending> {
///         Check::Ready(match params.labels.get("day") {
///             Some("sunday") => Verdict::Rejected(Denial::new(RejectReason::Unknown), Nothing),
///             _ => Verdict::Accepted(Nothing),
///         })
///     }
/// }
///
/// let layer = ApertureLayer::new(WeekdaysOnly, "checkout").label_from_header("day", "x-day");
/// # let _ = layer;
/// ```
pub trait Decider {
    /// Held from the answer to the end of the flow.
    type Ticket: Ticket;
    /// A decision that needs waiting. Dropping it must give up the flow, and give back what was
    /// granted meanwhile.
    type Pending: Future<Output = Verdict<Self::Ticket>>;

    /// Decides at once where it can.
    ///
    /// The parameters borrow from the request: what a pending decision needs of them must be
    /// copied.
    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<Self::Ticket, Self::Pending>;

    /// Decides about an HTTP request by its attributes, where the layer was told to
    /// [ask like that](crate::ApertureLayer::http).
    ///
    /// By default the attributes are ignored: labels and control point decide, as in
    /// [`decide`](Self::decide).
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        let _ = request;
        self.decide(control_point, params)
    }

    /// Returns whether a policy names this control point; `None` if the decider cannot tell, which
    /// is the default.
    ///
    /// A layer asks it about names that clients bring up, on the request's path. See
    /// [names that clients choose](crate::layer#names-that-clients-choose).
    fn knows_control_point(&self, name: &str) -> Option<bool> {
        let _ = name;
        None
    }

    /// Returns whether a policy compares a label with this value, or with a pattern that matches
    /// it; `None` if the decider cannot tell, which is the default.
    ///
    /// A layer asks it about services and methods of gRPC that become labels, once for each name
    /// while there is room for new ones.
    fn compares_label_value(&self, value: &str) -> Option<bool> {
        let _ = value;
        None
    }

    /// The caches that flows are looked up in, where there are some to write to; by default there
    /// are none. Asked on the request's path, but only by layers that store responses or
    /// [expose](crate::ApertureLayer::expose_flow) flows.
    fn caches(&self) -> Option<Arc<dyn Caches>> {
        None
    }
}

/// A decision, or the wait for one.
///
/// See [`Decider`] for an example.
#[derive(Debug)]
pub enum Check<T, F> {
    /// Decided at once.
    Ready(Verdict<T>),
    /// To be awaited.
    Pending(F),
}

/// What was decided, with the ticket of an answered flow.
///
/// See [`Decider`] for an example.
#[derive(Debug)]
pub enum Verdict<T> {
    /// The flow may run.
    Accepted(T),
    /// The flow must not run.
    Rejected(Denial, T),
    /// Nobody answered; such a flow has no end to report.
    Unreachable(FlowError),
}

/// An answered flow that has to be ended.
///
/// It is `Send` and `'static` because the end of a flow may be left to another task, see
/// [`FlowHold`](crate::layer::FlowHold). See [`Decider`] for an example.
pub trait Ticket: Send + 'static {
    /// Ends the flow. Called exactly once, from any thread, and must not block: it may run while
    /// a response is dropped or a panic unwinds.
    fn end(self, outcome: FlowOutcome);

    /// Takes what the caches had for the flow, when it asked them; given once. By default there
    /// is nothing.
    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        None
    }

    /// Takes what limiters said of their quotas, for a flow that
    /// [asked](crate::FlowParams::quotas); given once. By default there is nothing.
    fn take_quotas(&mut self) -> Vec<Quota> {
        Vec::new()
    }

    /// Takes what the answer to [`Decider::decide_http`] says beside yes and no; given once. By
    /// default there is nothing.
    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        None
    }
}
