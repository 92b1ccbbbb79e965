//! The sources of labels and control points, their precedence, and the headers that are never sent.

use std::borrow::Cow;
use std::panic::catch_unwind;

use http::HeaderValue;
use tower_aperture::layer::{extension, extension_str, header};
use tower_aperture::{ApertureLayer, LabelLimits, Labels, RequestHead};

use super::{check_of, pass, request};
use crate::layer_support::Recorder;

fn tier_of(head: RequestHead<'_>) -> &str {
    head.header("x-tier").unwrap_or("free")
}

#[tokio::test]
async fn without_settings_only_baggage_sets_labels() {
    let headers = [("x-user-id", "7"), ("baggage", "user=ann,tier=a%20b")];
    let asked = check_of(|layer| layer, request(&headers)).await;
    assert_eq!(asked.labels.len(), 2);
    assert_eq!(asked.label("user"), Some("ann"));
    assert_eq!(asked.label("tier"), Some("a b"));
}

#[tokio::test]
async fn extractors_prevail_over_constants_and_both_over_baggage() {
    let headers = [
        ("x-user", "from-header"),
        (
            "baggage",
            "user=from-baggage,service=from-baggage,extra=from-baggage",
        ),
    ];
    let asked = check_of(
        |layer| {
            layer
                .label_from_header("user", "x-user")
                .label("user", "constant")
                .label("service", "constant")
                .labels(|_, labels| labels.insert("kind", "read"))
                .label("kind", "constant")
        },
        request(&headers),
    )
    .await;
    assert_eq!(asked.label("user"), Some("from-header"));
    assert_eq!(asked.label("service"), Some("constant"));
    assert_eq!(asked.label("extra"), Some("from-baggage"));
    assert_eq!(asked.label("kind"), Some("read"));
}

#[tokio::test]
async fn the_last_of_several_sources_of_a_label_prevails() {
    let headers = [("x-user", "header")];
    let asked = check_of(
        |layer| {
            layer
                .labels(|_, labels| labels.insert("user", "closure"))
                .label_from_header("user", "x-user")
        },
        request(&headers),
    )
    .await;
    assert_eq!(asked.label("user"), Some("header"));
    let asked = check_of(
        |layer| {
            layer
                .label_from_header("user", "x-user")
                .labels(|_, labels| labels.insert("user", "closure"))
        },
        request(&headers),
    )
    .await;
    assert_eq!(asked.label("user"), Some("closure"));
    let asked = check_of(|layer| layer.label("a", "1").label("a", "2"), request(&[])).await;
    assert_eq!(asked.labels, [("a".to_owned(), "2".to_owned())]);
}

#[tokio::test]
async fn a_client_cannot_set_a_label_that_the_application_sets() {
    let asked = check_of(
        |layer| layer.label("user", "anonymous").label("tier", "free"),
        request(&[
            ("baggage", "user=admin,tier=gold"),
            ("user", "admin"),
            ("tier", "gold"),
        ]),
    )
    .await;
    assert_eq!(asked.label("user"), Some("anonymous"));
    assert_eq!(asked.label("tier"), Some("free"));
}

#[tokio::test]
async fn baggage_can_be_turned_off() {
    let asked = check_of(
        |layer| layer.baggage(false),
        request(&[("baggage", "user=ann")]),
    )
    .await;
    assert!(asked.labels.is_empty());
}

#[tokio::test]
async fn a_header_without_a_text_value_sets_no_label_so_the_default_applies() {
    let by_name = |layer: ApertureLayer<Recorder>| layer.label_from_header("user", "X-User");
    let by_reader = |layer: ApertureLayer<Recorder>| layer.label_from("user", header("X-User"));
    for headers in [
        &[][..],
        &[("x-user", "")],
        &[("x-user", "  \t ")],
        &[("x-user", ""), ("x-user", " ")],
        &[("x-user", "\u{fc}")],
        &[("x-user", "a\u{fc}"), ("x-user", "")],
    ] {
        let request = || request(headers);
        assert!(check_of(by_name, request()).await.labels.is_empty());
        assert!(check_of(by_reader, request()).await.labels.is_empty());
        let asked = check_of(|layer| by_name(layer.label("user", "anyone")), request()).await;
        assert_eq!(asked.label("user"), Some("anyone"), "{headers:?}");
        let asked = check_of(|layer| by_reader(layer.label("user", "anyone")), request()).await;
        assert_eq!(asked.label("user"), Some("anyone"), "{headers:?}");
    }
    let mut odd = request(&[]);
    let value = HeaderValue::from_bytes(b"a\xffb").expect("opaque bytes are valid");
    odd.headers_mut().append("x-user", value);
    assert!(check_of(by_name, odd).await.labels.is_empty());
}

#[tokio::test]
async fn blanks_around_a_header_value_are_trimmed() {
    for value in ["7", " 7", "7\t", "  7  "] {
        let asked = check_of(
            |layer| layer.label_from_header("user", "x-user"),
            request(&[("x-user", value)]),
        )
        .await;
        assert_eq!(asked.label("user"), Some("7"), "{value:?}");
    }
}

#[tokio::test]
async fn several_values_are_joined_without_empty_ones() {
    let build = |layer: ApertureLayer<Recorder>| layer.label_from_header("user", "x-user");
    let asked = check_of(
        build,
        request(&[("x-user", "a"), ("x-user", "b"), ("x-user", "c")]),
    )
    .await;
    assert_eq!(asked.label("user"), Some("a,b,c"));
    let asked = check_of(
        build,
        request(&[
            ("x-user", ""),
            ("x-user", "b"),
            ("x-user", "\u{fc}"),
            ("x-user", " c "),
        ]),
    )
    .await;
    assert_eq!(asked.label("user"), Some("b,c"));
    let asked = check_of(build, request(&[("x-user", ""), ("x-user", "7")])).await;
    assert_eq!(
        asked.label("user"),
        Some("7"),
        "an empty line does not make a different key"
    );
}

#[test]
fn secret_headers_are_refused_as_labels() {
    for name in [
        "authorization",
        "Proxy-Authorization",
        "COOKIE",
        "Set-Cookie",
    ] {
        let layer = || ApertureLayer::new(Recorder::accepting(), "test");
        let error = layer()
            .try_label_from_header("user", name)
            .expect_err("an error");
        let expected = format!(
            "the header `{}` is a secret and cannot be a label",
            name.to_ascii_lowercase()
        );
        assert_eq!(error.to_string(), expected);
        assert!(catch_unwind(|| layer().label_from_header("user", name)).is_err());
    }
}

#[test]
fn invalid_names_are_refused() {
    let layer = ApertureLayer::new(Recorder::accepting(), "test");
    for name in ["", "x user", "x-\u{fc}ser"] {
        let error = layer
            .clone()
            .try_label_from_header("user", name)
            .expect_err("an error");
        assert_eq!(
            error.to_string(),
            format!("`{name}` is not the name of a header")
        );
    }
    let error = ApertureLayer::try_new(Recorder::accepting(), "").expect_err("an error");
    assert_eq!(error.to_string(), "the control point is empty");
    assert!(catch_unwind(|| ApertureLayer::new(Recorder::accepting(), "")).is_err());
}

#[tokio::test]
async fn secret_headers_are_not_sent_by_default() {
    let headers = [
        ("authorization", "Bearer secret"),
        ("cookie", "session=secret"),
        ("x-user", "7"),
    ];
    let asked = check_of(
        |layer| layer.label_from_header("user", "x-user"),
        request(&headers),
    )
    .await;
    assert!(!format!("{asked:?}").contains("secret"));
}

#[tokio::test]
async fn over_the_limit_baggage_is_dropped_before_extractors_and_those_before_constants() {
    let limits = |count| LabelLimits {
        count,
        ..LabelLimits::default()
    };
    let build = |count| {
        move |layer: ApertureLayer<Recorder>| {
            layer
                .label_limits(limits(count))
                .label("constant", "1")
                .label_from_header("user", "x-user")
        }
    };
    let request = || request(&[("x-user", "7"), ("baggage", "a=1,b=2")]);
    let asked = check_of(build(2), request()).await;
    assert_eq!(
        (asked.label("user"), asked.label("constant")),
        (Some("7"), Some("1"))
    );
    assert_eq!((asked.labels.len(), asked.dropped), (2, 2));
    let asked = check_of(build(1), request()).await;
    assert_eq!(asked.label("constant"), Some("1"));
    assert_eq!((asked.labels.len(), asked.dropped), (1, 3));
}

#[tokio::test]
async fn closures_can_borrow_from_the_request() {
    let asked = check_of(
        |layer| {
            layer.labels(|head: RequestHead<'_>, labels: &mut Labels<'_>| {
                labels.insert("tier", tier_of(head));
                labels.insert("path", head.uri().path());
                labels.insert("method", head.method().as_str());
                labels.insert("version", format!("{:?}", head.version()));
            })
        },
        request(&[("x-tier", "gold")]),
    )
    .await;
    assert_eq!(asked.label("tier"), Some("gold"));
    assert_eq!(asked.label("path"), Some("/cart"));
    assert_eq!(asked.label("method"), Some("GET"));
    assert_eq!(asked.label("version"), Some("HTTP/1.1"));
}

#[derive(Clone)]
struct Route(&'static str);

impl Route {
    fn as_str(&self) -> &str {
        self.0
    }
}

#[tokio::test]
async fn extensions_of_any_type_are_read() {
    let build = |layer: ApertureLayer<Recorder>| {
        layer
            .label_from("route", extension_str::<Route>(Route::as_str))
            .label_from("port", extension::<u16>(u16::to_string))
            .label_from("query", |head| {
                head.uri().query().unwrap_or_default().into()
            })
    };
    let mut known = request(&[]);
    known.extensions_mut().insert(Route("/cart"));
    known.extensions_mut().insert(8080_u16);
    let asked = check_of(build, known).await;
    assert_eq!(asked.label("route"), Some("/cart"));
    assert_eq!(asked.label("port"), Some("8080"));
    assert_eq!(asked.label("query"), Some("id=1"));
    let asked = check_of(build, request(&[])).await;
    assert_eq!((asked.label("route"), asked.label("port")), (None, None));
}

#[tokio::test]
async fn a_control_point_may_come_from_the_request() {
    fn by_path(head: RequestHead<'_>) -> Cow<'_, str> {
        head.uri().path().into()
    }

    let recorder = Recorder::accepting();
    let decider = || recorder.clone();
    let annotated =
        ApertureLayer::with_control_point(decider(), |head: RequestHead<'_>| -> Cow<'_, str> {
            head.uri().path().into()
        });
    pass(&annotated, request(&[])).await;
    let mut with_route = request(&[]);
    with_route.extensions_mut().insert(Route("/cart/{id}"));
    pass(
        &ApertureLayer::with_control_point(decider(), by_path),
        request(&[]),
    )
    .await;
    pass(
        &ApertureLayer::with_control_point(decider(), |head| head.uri().path().into()),
        request(&[]),
    )
    .await;
    pass(
        &ApertureLayer::with_control_point(decider(), |head: RequestHead<'_>| {
            Cow::Owned(format!("{}-made", head.method()))
        }),
        request(&[]),
    )
    .await;
    pass(
        &ApertureLayer::with_control_point(decider(), extension_str::<Route>(Route::as_str)),
        with_route,
    )
    .await;
    let names: Vec<_> = recorder
        .asked()
        .into_iter()
        .map(|asked| asked.control_point)
        .collect();
    assert_eq!(names, ["/cart", "/cart", "/cart", "GET-made", "/cart/{id}"]);
}
