//! Waits for a future until a deadline, and a little longer where the deadline itself came late.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the task of a connection may take to be run when timer and answer are ready together.
const LAST_LOOK: Duration = Duration::from_millis(2);

/// The most that the deadline is put off, in all, after stalls of the process.
const MOST_PUT_OFF: Duration = Duration::from_millis(500);

pin_project! {
    /// A future with a deadline; the output is `None` when the deadline passes.
    ///
    /// The future goes first: when both are ready, its output counts. A timer that fires late
    /// means that the process or the runtime stalled, and the answer may lie unread in the socket.
    /// The deadline is then put off by as long as the timer was late, within
    /// [`MOST_PUT_OFF`], so that the task of the connection can read it.
    pub(super) struct Within<F> {
        #[pin]
        future: F,
        deadline: Option<Instant>,
        // Made when the future is not ready at once.
        #[pin]
        patience: Option<Patience>,
    }
}

pin_project! {
    /// A deadline as [`Within`] sees it.
    pub(super) struct Patience {
        #[pin]
        sleep: Sleep,
        due: Instant,
        // How much longer it may be put off.
        left: Duration,
        fired: bool,
    }
}

/// Without a deadline this is the future itself.
pub(super) fn within<F: Future>(deadline: Option<Instant>, future: F) -> Within<F> {
    Within {
        future,
        deadline,
        patience: None,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        if let Some(deadline) = this.deadline.take() {
            this.patience.set(Some(Patience::new(deadline)));
        }
        match this.patience.as_pin_mut() {
            Some(patience) => patience.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    }
}

impl Patience {
    pub(super) fn new(deadline: Instant) -> Self {
        Self {
            sleep: sleep_until(deadline),
            due: deadline,
            left: MOST_PUT_OFF,
            fired: false,
        }
    }
}

/// Is ready when the deadline has passed and enough was waited for a stall.
impl Future for Patience {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            std::task::ready!(this.sleep.as_mut().poll(cx));
            let now = Instant::now();
            let late = now.saturating_duration_since(*this.due);
            if *this.fired && late < LAST_LOOK {
                return Poll::Ready(());
            }
            *this.fired = true;
            let more = late.max(LAST_LOOK).min(*this.left);
            if more.is_zero() {
                return Poll::Ready(());
            }
            *this.left -= more;
            *this.due = now + more;
            this.sleep.as_mut().reset(*this.due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use super::*;

    async fn waited(deadline: Duration) -> Duration {
        let begun = Instant::now();
        let end = within(Some(begun + deadline), pending::<()>()).await;
        assert_eq!(end, None);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_on_time_is_put_off_by_one_look() {
        for deadline in [
            Duration::ZERO,
            Duration::from_millis(7),
            Duration::from_secs(9),
        ] {
            let waited = waited(deadline).await;
            let most = deadline + LAST_LOOK + Duration::from_millis(2);
            assert!((deadline..=most).contains(&waited), "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_ready_with_the_timer_wins() {
        let deadline = Instant::now() + Duration::from_millis(5);
        let answer = async {
            sleep_until(deadline).await;
            "answer"
        };
        assert_eq!(within(Some(deadline), answer).await, Some("answer"));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_stall_the_answer_has_time_to_be_read() {
        for (stall, put_off) in [(30, 30), (499, 499), (5_000, 500)] {
            let mut waiting = Box::pin(within(
                Some(Instant::now() + Duration::from_millis(10)),
                pending::<()>(),
            ));
            let first = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
            assert!(first.is_pending());
            tokio::time::advance(Duration::from_millis(10 + stall)).await;
            let resumed = Instant::now();
            assert_eq!(waiting.await, None);
            let waited = resumed.elapsed();
            let most = Duration::from_millis(put_off + 5);
            assert!(waited >= Duration::from_millis(put_off - 5), "{waited:?}");
            assert!(waited <= most, "{waited:?}");
        }
    }

    #[tokio::test]
    async fn without_a_deadline_it_only_waits_for_the_future() {
        assert_eq!(within(None, async { 1 }).await, Some(1));
    }
}
