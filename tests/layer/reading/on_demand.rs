//! Labels are read on demand: a decider that asks for few labels pays for those, and gets the values
//! that it would get from all of them.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::decider::{ControlPoint, LabelSource};
use tower_aperture::layer::reader;
use tower_aperture::{
    ApertureLayer, Check, Decider, FlowOutcome, FlowParams, Labels, Ticket, Verdict,
};

use super::{Inner, limited, send};
use crate::layer_support::inner::hello;

/// The keys that the requests and layers of these tests use.
const KEYS: [&str; 7] = ["user", "tier", "path", "region", "owned", "member", "none"];

/// A ticket whose end has no effect if `needs_end` is false. Counts its drops.
struct CountedTicket {
    needs_end: bool,
    dropped: Arc<AtomicUsize>,
}

impl Ticket for CountedTicket {
    fn end(self, _: FlowOutcome) {}

    fn needs_end(&self) -> bool {
        self.needs_end
    }
}

impl Drop for CountedTicket {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// Accepts each flow, and compares labels that are read one by one with all labels.
#[derive(Clone, Default)]
struct Comparing {
    needs_end: bool,
    dropped: Arc<AtomicUsize>,
}

impl Decider for Comparing {
    type Ticket = CountedTicket;
    type Pending = Ready<Verdict<CountedTicket>>;

    fn decide(&self, _: &str, _: &FlowParams<'_>) -> Check<CountedTicket, Self::Pending> {
        Check::Ready(Verdict::Accepted(CountedTicket {
            needs_end: self.needs_end,
            dropped: Arc::clone(&self.dropped),
        }))
    }

    fn decide_from(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
    ) -> Check<CountedTicket, Self::Pending> {
        let one_by_one = || KEYS.map(|key| labels.get(key).map(str::to_owned));
        let first = one_by_one();
        let mut all = Labels::new();
        labels.fill(&mut all);
        let expected = KEYS.map(|key| all.get(key).map(str::to_owned));
        assert_eq!(first, expected);
        assert_eq!(one_by_one(), expected);
        self.decide(control_point.name(), params)
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{1,8}",
        1 => Just(String::new()),
        1 => Just("  ".to_owned()),
        1 => "[a-z]{190,260}",
    ]
}

fn headers() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let name = prop_oneof![
        Just("x-user"),
        Just("x-tier"),
        Just("x-region"),
        Just("x-other")
    ];
    let member = prop_oneof![Just("user"), Just("member"), Just("path"), Just("none")];
    let baggage = (member, "[a-z%2]{0,6}").prop_map(|(key, value)| format!("{key}={value}"));
    prop::collection::vec(
        prop_oneof![
            3 => (name, value()),
            1 => (Just("baggage"), baggage),
        ],
        0..6,
    )
}

proptest! {
    #[test]
    fn a_label_has_the_same_value_alone_as_with_all_others(
        headers in headers(),
        region in prop::bool::ANY,
        baggage in prop::bool::ANY,
        limit in prop_oneof![Just(200_usize), Just(100)],
    ) {
        let mut layer = ApertureLayer::new(Comparing::default(), "checkout")
            .label_from_header("user", "x-user")
            .label_from("tier", |head| Cow::Borrowed(head.header("x-tier").unwrap_or_default()))
            .label_from_header("tier", "x-user")
            .label_from("path", |head| Cow::Borrowed(head.uri().path()))
            .label_from("owned", |head| Cow::Owned(head.uri().path().to_uppercase()))
            .label_from("member", |head| match head.headers().len() {
                0 | 3 => Cow::Borrowed(""),
                headers => Cow::Owned(headers.to_string()),
            })
            .label_value_limit(limit)
            .baggage(baggage);
        if region {
            layer = layer.label("region", "eu").label_from_header("region", "x-region");
        }
        let mut request = Request::get("/cart");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let request = request.body(()).expect("a valid request");
        runtime.block_on(send(&layer, &Inner::default(), request));
    }
}

#[tokio::test]
async fn the_reader_of_a_label_that_no_policy_names_does_not_run() {
    let reads = Arc::new(AtomicUsize::new(0));
    let reader_of = |text: &'static str| {
        let reads = Arc::clone(&reads);
        reader(move |_| {
            reads.fetch_add(1, Ordering::SeqCst);
            Cow::Borrowed(text)
        })
    };
    let client = limited(1000, "control_point: checkout", "limit_by_label_key: user");
    let layer = ApertureLayer::new(client, "checkout");
    let unread = layer.clone().label_from("tier", reader_of("gold"));
    let inner = Inner::default();
    send(&unread, &inner, Request::new(())).await;
    assert_eq!(reads.load(Ordering::SeqCst), 0);
    let read = layer.label_from("user", reader_of("42"));
    send(&read, &inner, Request::new(())).await;
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    // A required label is read, whatever the policies name.
    let required = unread.require_label("tier");
    send(&required, &inner, Request::new(())).await;
    assert_eq!(reads.load(Ordering::SeqCst), 2);
    assert_eq!(inner.ran(), 3);
}

#[tokio::test]
async fn a_ticket_whose_end_has_no_effect_is_dropped_before_the_request_runs() {
    for needs_end in [true, false] {
        let decider = Comparing {
            needs_end,
            ..Comparing::default()
        };
        let dropped = Arc::clone(&decider.dropped);
        let expected = usize::from(!needs_end);
        let seen = Arc::clone(&dropped);
        let inner = service_fn(move |_: Request<()>| {
            assert_eq!(seen.load(Ordering::SeqCst), expected);
            std::future::ready(Ok::<_, Infallible>(hello()))
        });
        let mut service = ApertureLayer::new(decider.clone(), "checkout").layer(inner.clone());
        let response = service.ready().await.expect("ready").call(Request::new(()));
        let response = response.await.expect("a response");
        assert_eq!(dropped.load(Ordering::SeqCst), expected);
        drop(response);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }
}
