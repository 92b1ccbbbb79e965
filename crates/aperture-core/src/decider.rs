//! The interface between the layer and the client or engine that decides.

use std::future::Future;
use std::sync::Arc;

use super::{
    CacheLookup, Caches, ControlPoint, Denial, FlowError, FlowOutcome, FlowParams, HttpAttributes,
    HttpExtras, LabelSource, Quota, SettleError,
};

/// Decides whether flows may run. `ApertureClient` implements it, and your
/// own types may.
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
/// struct NoopTicket;
///
/// impl Ticket for NoopTicket {
///     fn end(self, _: FlowOutcome) {}
/// }
///
/// impl Decider for WeekdaysOnly {
///     type Ticket = NoopTicket;
///     type Pending = Ready<Verdict<NoopTicket>>;
///
///     fn decide(&self, _: &str, params: &FlowParams<'_>) -> Check<NoopTicket, Self::Pending> {
///         Check::Ready(match params.labels.get("day") {
///             Some("sunday") => Verdict::Rejected(Denial::new(RejectReason::Unknown), NoopTicket),
///             _ => Verdict::Accepted(NoopTicket),
///         })
///     }
/// }
///
/// let layer = ApertureLayer::new(WeekdaysOnly, "checkout").label_from_header("day", "x-day");
/// # let _ = layer;
/// ```
pub trait Decider {
    /// Kept from the verdict until the end of the flow.
    type Ticket: Ticket;
    /// The future of a verdict that takes time. Dropping it must abandon the flow and return the
    /// tokens and slots that were granted meanwhile.
    type Pending: Future<Output = Verdict<Self::Ticket>>;

    /// Decides about a flow, at once if possible.
    ///
    /// The parameters borrow from the request; a pending decision must copy those that it needs.
    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<Self::Ticket, Self::Pending>;

    /// Decides about a flow whose labels and trace are read on demand. `params` have neither; a layer
    /// may pass the same ones for all its requests. Everything else is as in
    /// [`decide`](Self::decide).
    ///
    /// The default copies the parameters, reads all labels and calls `decide`. A decider that reads
    /// few labels saves the cost of the others.
    fn decide_from(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
    ) -> Check<Self::Ticket, Self::Pending> {
        self.decide(control_point.name(), &params.with_labels_from(labels))
    }

    /// Decides like [`decide_from`](Self::decide_from). Returns `None` for an accepted flow whose
    /// [end has no effect](Ticket::needs_end), whose ticket the caller would drop.
    #[doc(hidden)]
    #[inline]
    fn admit(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
    ) -> Option<Check<Self::Ticket, Self::Pending>> {
        match self.decide_from(control_point, params, labels) {
            Check::Ready(Verdict::Accepted(ticket)) if !ticket.needs_end() => None,
            check => Some(check),
        }
    }

    /// Accepts and counts a flow without a look at its labels, if the memo of its control point says
    /// that nothing is to be decided there. Returns false, without effect, for any other flow.
    #[doc(hidden)]
    #[inline(always)]
    fn passes(&self, control_point: ControlPoint<'_>, params: &FlowParams<'_>) -> bool {
        let _ = (control_point, params);
        false
    }

    /// Decides about a flow by the attributes of its HTTP request, for layers that are
    /// set up so by `ApertureLayer::http`.
    ///
    /// The default ignores the attributes and calls [`decide`](Self::decide) with the labels and
    /// the control point.
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        let _ = request;
        self.decide(control_point, params)
    }

    /// Returns whether a policy names this control point, or `None` if that is unknown. The default
    /// is `None`.
    ///
    /// A layer calls it for names that clients choose, while a request waits. See
    /// names that clients choose; see the docs of `layer`.
    fn knows_control_point(&self, name: &str) -> Option<bool> {
        let _ = name;
        None
    }

    /// Returns whether a policy compares a label with this value, or with a pattern that matches
    /// it, or `None` if that is unknown. The default is `None`.
    ///
    /// A layer calls it for gRPC services and methods that become labels, once for each name while
    /// its table has room for new ones.
    fn compares_label_value(&self, value: &str) -> Option<bool> {
        let _ = value;
        None
    }

    /// Returns the caches of this decider, or `None` if it has none. The default is `None`.
    ///
    /// Layers that store responses or expose flows (`ApertureLayer::expose_flow`) call it
    /// while a request waits.
    fn caches(&self) -> Option<Arc<dyn Caches>> {
        None
    }
}

/// A verdict, or the future of one.
///
/// See [`Decider`] for an example.
#[derive(Debug)]
pub enum Check<T, F> {
    /// The verdict was reached at once.
    Ready(Verdict<T>),
    /// The verdict is to be awaited.
    Pending(F),
}

/// A decision about a flow, with the flow's ticket if it was accepted or rejected.
///
/// See [`Decider`] for an example.
#[derive(Debug)]
pub enum Verdict<T> {
    /// The flow may run.
    Accepted(T),
    /// The flow must not run.
    Rejected(Denial, T),
    /// No decision was reached; the flow has no ticket and reports no end.
    Unreachable(FlowError),
}

/// The state of an accepted or rejected flow, kept until its end.
///
/// It is `Send` and `'static` because another task may end the flow, see
/// `FlowHold`. See [`Decider`] for an example.
pub trait Ticket: Send + 'static {
    /// Ends the flow. It is called exactly once, on any thread, and must not block: it may run
    /// while a response is dropped or a panic unwinds.
    fn end(self, outcome: FlowOutcome);

    /// Records that the head of the flow's response is there, and its body may follow. The outcome
    /// is what the head shows of it. Called at most once; a flow without an HTTP response only
    /// [ends](Self::end). It must not block. The default does nothing.
    fn response_started(&mut self, outcome: FlowOutcome) {
        let _ = outcome;
    }

    /// Returns whether the end of the flow has an effect. The default is true.
    ///
    /// If it has none, a layer may drop the ticket of an accepted flow instead of keeping it until
    /// the end, unless the application has a handle of the flow.
    fn needs_end(&self) -> bool {
        true
    }

    /// Returns whether [`settle`](Self::settle) is supported. The default is false.
    fn settles(&self) -> bool {
        false
    }

    /// Corrects the tokens of an accepted flow at once: the check took an estimate, and the flow
    /// costs `actual_tokens`. A later call replaces an earlier one. The default is an error.
    ///
    /// It may run while a response is dropped or a panic unwinds, and must not block.
    ///
    /// # Errors
    ///
    /// Returns [`SettleError::Unsupported`] if the ticket cannot be settled, and
    /// [`SettleError::InvalidTokens`] for tokens that are not finite or are less than zero.
    fn settle(&mut self, actual_tokens: f64) -> Result<(), SettleError> {
        let _ = actual_tokens;
        Err(SettleError::Unsupported)
    }

    /// Takes the result of the flow's cache lookup. Returns `None` if the flow has no cache keys,
    /// and after the first call. The default is `None`.
    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        None
    }

    /// Takes the quotas that limiters reported for a flow that
    /// [requests them](crate::FlowParams::quotas). Returns none after the first call. The default
    /// is none.
    fn take_quotas(&mut self) -> Vec<Quota> {
        Vec::new()
    }

    /// Takes the quotas like [`take_quotas`](Self::take_quotas), and passes them on without memory of
    /// their own. The default calls `take_quotas`.
    fn take_quotas_with(&mut self, read: &mut dyn FnMut(&[Quota])) {
        read(&self.take_quotas());
    }

    /// Takes the headers and the body that came with a verdict of [`Decider::decide_http`]. Returns
    /// `None` after the first call. The default is `None`.
    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        None
    }
}
