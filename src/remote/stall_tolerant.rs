//! Waits for a future until a deadline and a short moment beyond, and longer if the timer fired late.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the task of a connection may need to run when the timer and the answer are ready
/// together.
const FINAL_WAIT: Duration = Duration::from_millis(2);

/// The longest total postponement of the deadline after stalls of the process.
const MAX_POSTPONEMENT: Duration = Duration::from_millis(500);

pin_project! {
    /// A future with a deadline. The output is `None` if the deadline passes first.
    ///
    /// If both are ready, the output of the future counts. A timer that fires late means that the
    /// process or the runtime stalled, and the answer may be unread in the socket. The deadline is
    /// then postponed by as much as the timer was late, by at least [`FINAL_WAIT`] and by at most
    /// [`MAX_POSTPONEMENT`] in all, so that the task of the connection can read the answer.
    pub(super) struct WithDeadline<F> {
        #[pin]
        future: F,
        deadline: Option<Instant>,
        // Created if the future is not ready at its first poll.
        #[pin]
        timer: Option<StallTolerantSleep>,
    }
}

pin_project! {
    /// The timer of [`WithDeadline`]. It is ready when the deadline and any postponement have
    /// passed.
    pub(super) struct StallTolerantSleep {
        #[pin]
        sleep: Sleep,
        due: Instant,
        // How much longer the deadline may be postponed.
        postponement_left: Duration,
        fired: bool,
    }
}

/// Waits for `future` until `deadline`. Without a deadline it waits only for the future.
pub(super) fn with_deadline<F: Future>(deadline: Option<Instant>, future: F) -> WithDeadline<F> {
    WithDeadline {
        future,
        deadline,
        timer: None,
    }
}

impl<F: Future> Future for WithDeadline<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        if let Some(deadline) = this.deadline.take() {
            this.timer.set(Some(StallTolerantSleep::new(deadline)));
        }
        match this.timer.as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    }
}

impl StallTolerantSleep {
    pub(super) fn new(deadline: Instant) -> Self {
        Self {
            sleep: sleep_until(deadline),
            due: deadline,
            postponement_left: MAX_POSTPONEMENT,
            fired: false,
        }
    }
}

impl Future for StallTolerantSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            std::task::ready!(this.sleep.as_mut().poll(cx));
            let now = Instant::now();
            let late = now.saturating_duration_since(*this.due);
            if *this.fired && late < FINAL_WAIT {
                return Poll::Ready(());
            }
            *this.fired = true;
            let more = late.max(FINAL_WAIT).min(*this.postponement_left);
            if more.is_zero() {
                return Poll::Ready(());
            }
            *this.postponement_left -= more;
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
        let started = Instant::now();
        let end = with_deadline(Some(started + deadline), pending::<()>()).await;
        assert_eq!(end, None);
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_on_time_is_postponed_by_the_final_wait() {
        for deadline in [
            Duration::ZERO,
            Duration::from_millis(7),
            Duration::from_secs(9),
        ] {
            let waited = waited(deadline).await;
            let most = deadline + FINAL_WAIT + Duration::from_millis(2);
            assert!((deadline..=most).contains(&waited), "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_ready_with_the_timer_counts() {
        let deadline = Instant::now() + Duration::from_millis(5);
        let answer = async {
            sleep_until(deadline).await;
            "answer"
        };
        assert_eq!(with_deadline(Some(deadline), answer).await, Some("answer"));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_stall_the_deadline_is_postponed_by_its_length() {
        for (stall, postponed) in [(30, 30), (499, 499), (5_000, 500)] {
            let mut waiting = Box::pin(with_deadline(
                Some(Instant::now() + Duration::from_millis(10)),
                pending::<()>(),
            ));
            let first = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
            assert!(first.is_pending());
            tokio::time::advance(Duration::from_millis(10 + stall)).await;
            let resumed = Instant::now();
            assert_eq!(waiting.await, None);
            let waited = resumed.elapsed();
            let most = Duration::from_millis(postponed + 5);
            assert!(waited >= Duration::from_millis(postponed - 5), "{waited:?}");
            assert!(waited <= most, "{waited:?}");
        }
    }

    #[tokio::test]
    async fn without_a_deadline_it_only_waits_for_the_future() {
        assert_eq!(with_deadline(None, async { 1 }).await, Some(1));
    }
}
