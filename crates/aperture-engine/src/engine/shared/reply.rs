//! The reply to an operation on a shared store: completed once, or dropped.

use std::fmt;

use super::operation::StoreOutcome;

/// Why a shared store did not carry out an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// The store is given up, has too many operations under way, or dropped the reply.
    Unavailable,
    /// The store answered with an error.
    Refused(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable => f.write_str("the shared store is not available"),
            Self::Refused(reason) => write!(f, "the shared store refused an operation: {reason}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Completes one operation of a shared store. Dropping it completes the operation with
/// [`StoreError::Unavailable`].
///
/// `T` is the outcome of the operation.
#[must_use = "dropping a reply completes it with an error"]
pub struct StoreReply<T = StoreOutcome>(Option<Box<Complete<T>>>);

type Complete<T> = dyn FnOnce(Result<T, StoreError>) + Send;

impl<T> StoreReply<T> {
    /// Returns a reply that calls `complete` once, with the outcome.
    ///
    /// The call must be short and must not block: a store may make it on the task of its connection.
    pub fn new(complete: impl FnOnce(Result<T, StoreError>) + Send + 'static) -> Self {
        Self(Some(Box::new(complete)))
    }

    /// Completes the operation.
    pub fn complete(mut self, outcome: Result<T, StoreError>) {
        if let Some(complete) = self.0.take() {
            complete(outcome);
        }
    }
}

impl<T> Drop for StoreReply<T> {
    fn drop(&mut self) {
        if let Some(complete) = self.0.take() {
            complete(Err(StoreError::Unavailable));
        }
    }
}

impl<T> fmt::Debug for StoreReply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreReply").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Outcomes = Arc<Mutex<Vec<Result<StoreOutcome, StoreError>>>>;

    fn recorded() -> (StoreReply, Outcomes) {
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&outcomes);
        let reply = StoreReply::new(move |outcome| into.lock().expect("no panic").push(outcome));
        (reply, outcomes)
    }

    #[test]
    fn a_reply_is_completed_once_whether_it_is_completed_or_dropped() {
        let (reply, outcomes) = recorded();
        reply.complete(Ok(StoreOutcome::Left(true)));
        assert_eq!(
            *outcomes.lock().expect("no panic"),
            [Ok(StoreOutcome::Left(true))]
        );
        let (reply, outcomes) = recorded();
        drop(reply);
        assert_eq!(
            *outcomes.lock().expect("no panic"),
            [Err(StoreError::Unavailable)]
        );
    }
}
