//! The two modes of an engine: its limits are in process, and are decided at once, or they may be
//! in a shared store, whose replies flows wait for.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::shared::SharedStore;
use super::{Engine, EngineBuilder};

/// The mode of an [`Engine`]: [`InProcess`] or [`Shared`]. Only these two types implement it.
///
/// ```
/// use tower_aperture::Engine;
/// use tower_aperture::engine::EngineMode;
///
/// /// Takes engines of both modes.
/// fn accepted_flows<M: EngineMode>(engine: &Engine<M>) -> u64 {
///     engine.stats().accepted
/// }
///
/// assert_eq!(accepted_flows(&Engine::builder().build()?), 0);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
pub trait EngineMode: sealed::Sealed + Clone + fmt::Debug + Send + Sync + 'static {}

/// The mode of an engine whose limits are all in this process. Only such an engine can decide at
/// once: [`Engine::check`] and [`Engine::check_http`].
///
/// See [`Shared`] for an example.
#[derive(Clone, Copy, Debug)]
pub enum InProcess {}

/// The mode of an engine whose limits may be in a [shared store](EngineBuilder::shared). A decision
/// may have to wait for the store, so it is a future: [`Engine::start`], [`Engine::start_http`], or
/// [`Decider`](aperture_core::Decider).
///
/// An engine in process converts into this mode, for code that takes engines of both modes. Its
/// limits stay in process.
///
/// ```
/// use tower_aperture::engine::{CheckInput, Engine, Shared};
/// use tower_aperture::FlowParams;
///
/// async fn accepts(engine: impl Into<Engine<Shared>>) -> bool {
///     let params = FlowParams::new();
///     let (report, _ticket) = engine.into().start(&CheckInput::new("checkout", &params)).await;
///     report.accepted()
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// assert!(accepts(Engine::builder().build()?).await);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// # }).unwrap();
/// ```
///
/// This mode has no checks that decide at once:
///
/// ```compile_fail,E0599
/// use tower_aperture::engine::{CheckInput, Engine, Shared};
/// use tower_aperture::FlowParams;
///
/// fn accepts(engine: &Engine<Shared>) -> bool {
///     let params = FlowParams::new();
///     engine.check(&CheckInput::new("checkout", &params)).accepted()
/// }
/// ```
///
/// The same function compiles for an engine in process:
///
/// ```
/// use tower_aperture::engine::{CheckInput, Engine, InProcess};
/// use tower_aperture::FlowParams;
///
/// fn accepts(engine: &Engine<InProcess>) -> bool {
///     let params = FlowParams::new();
///     engine.check(&CheckInput::new("checkout", &params)).accepted()
/// }
/// # assert!(accepts(&Engine::builder().build()?));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Shared {}

impl EngineMode for InProcess {}
impl EngineMode for Shared {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::InProcess {}
    impl Sealed for super::Shared {}
}

/// Returns the same engine, whose limits stay in process.
impl From<Engine> for Engine<Shared> {
    fn from(engine: Engine) -> Self {
        Self {
            shared: engine.shared,
            mode: PhantomData,
        }
    }
}

/// Returns the same builder, for code that shares limits only if it is given a store.
impl From<EngineBuilder> for EngineBuilder<Shared> {
    fn from(builder: EngineBuilder) -> Self {
        Self {
            settings: builder.settings,
            mode: PhantomData,
        }
    }
}

impl EngineBuilder {
    /// Shares limits with all engines that have a store of the same content: the buckets of rate
    /// limiters and quota schedulers, and the slots of concurrency limiters and concurrency
    /// schedulers. See [Shared limits](super#shared-limits).
    ///
    /// A flow that such a component selects waits for the reply of the store, so it is decided by
    /// [`Engine::start`], or by a [`Decider`](aperture_core::Decider) whose future is awaited. The
    /// engine is of the mode [`Shared`], which has no [`Engine::check`].
    ///
    /// ```
    /// use std::sync::Weak;
    /// use std::time::Duration;
    /// use tower_aperture::engine::shared::{
    ///     SharedStore, SlotListener, StoreAbsence, StoreKey, StoreOperation, StoreReply,
    /// };
    /// use tower_aperture::engine::{CheckInput, Engine};
    /// use tower_aperture::FlowParams;
    ///
    /// /// A store that is away, while two engines share it.
    /// #[derive(Debug)]
    /// struct Away;
    ///
    /// impl SharedStore for Away {
    ///     fn submit(&self, _: StoreOperation, reply: StoreReply) {
    ///         drop(reply);
    ///     }
    ///     fn deadline(&self) -> Duration {
    ///         Duration::from_millis(20)
    ///     }
    ///     fn is_available(&self) -> bool {
    ///         false
    ///     }
    ///     fn nodes(&self) -> u32 {
    ///         2
    ///     }
    ///     fn absence(&self) -> StoreAbsence {
    ///         StoreAbsence::LocalShare
    ///     }
    ///     fn decided_without(&self) {}
    ///     fn listen(&self, _: StoreKey, _: Weak<dyn SlotListener>) {}
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let engine = Engine::builder()
    ///     .policy_text("four-an-hour.yaml", "
    /// blueprint: rate-limiting/base
    /// policy:
    ///   policy_name: four-an-hour
    ///   rate_limiter:
    ///     bucket_capacity: 4
    ///     fill_amount: 4
    ///     parameters: {interval: 3600s}
    ///     selectors: [{control_point: checkout}]
    /// ")
    ///     .shared(Away)
    ///     .build()?;
    /// let params = FlowParams::new();
    /// let input = CheckInput::new("checkout", &params);
    /// for accepted in [true, true, false] {
    ///     assert_eq!(engine.start(&input).await.0.accepted(), accepted);
    /// }
    /// assert_eq!(engine.stats().decided_without_store, 3);
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn shared(mut self, store: impl SharedStore) -> EngineBuilder<Shared> {
        self.settings.shared = Some(Arc::new(store));
        self.into()
    }
}
