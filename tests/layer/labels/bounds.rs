//! A client cannot displace labels of the application, and limits apply to values of any length.

use std::net::{IpAddr, Ipv4Addr};

use http::Request;
use tower_aperture::layer::{extension, header, joined, query};
use tower_aperture::{ApertureLayer, FlowParams, LabelLimits, Labels, RequestHead};

use super::{check_of, request};
use crate::layer_support::{Asked, Recorder};

/// Configures a layer with a label for the address, constants that selectors need, and readers of
/// values that a client sends.
fn shop(layer: ApertureLayer<Recorder>) -> ApertureLayer<Recorder> {
    layer
        .label_from_header("user_id", "x-user-id")
        .label_from("plan", query("plan"))
        .label_from("path", |head: RequestHead<'_>| head.uri().path().into())
        .label_from("key", joined((header("x-user-id"), header("x-kind"))))
        .labels(|head: RequestHead<'_>, labels: &mut Labels<'_>| {
            labels.insert("kind", head.header("x-kind").unwrap_or_default());
        })
        .label_from("ip", extension::<IpAddr>(IpAddr::to_string))
        .label("service", "shop")
        .label("zone", "eu-west")
}

fn from_client(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = request(headers);
    *request.uri_mut() = path.parse().expect("a target");
    request
        .extensions_mut()
        .insert(IpAddr::V4(Ipv4Addr::LOCALHOST));
    request
}

fn bytes(asked: &Asked) -> usize {
    let labels = asked.labels.iter();
    labels.map(|(key, value)| key.len() + value.len()).sum()
}

#[tokio::test]
async fn a_huge_value_of_a_client_displaces_no_label_of_the_application() {
    for size in [150, 201, 1000, 8000, 8192, 60_000] {
        let long = "x".repeat(size);
        let path = format!("/{long}?plan={long}");
        for (path, headers) in [
            ("/cart", &[("x-user-id", &*long)][..]),
            ("/cart", &[("x-kind", &long)]),
            (&path, &[]),
            (&path, &[("x-user-id", &long), ("x-kind", &long)]),
            ("/cart", &[("baggage", &format!("a={long},b={long}"))]),
            (
                &path,
                &[
                    ("x-user-id", &long),
                    ("x-user-id", &long),
                    ("baggage", &long),
                ],
            ),
        ] {
            if path.len() > 60_000 {
                // The path is longer than a URI may be.
                continue;
            }
            let asked = check_of(shop, from_client(path, headers)).await;
            for (key, value) in [
                ("ip", "127.0.0.1"),
                ("service", "shop"),
                ("zone", "eu-west"),
            ] {
                assert_eq!(asked.label(key), Some(value), "{size}");
            }
            let sent = headers.iter().any(|(name, _)| *name == "x-user-id");
            assert_eq!(asked.label("user_id").is_some(), sent, "{size}");
            assert_eq!(asked.dropped, 0, "{size}");
            assert!(asked.shortened > 0 || size <= 200, "{size}");
            assert!(bytes(&asked) <= 8192 && asked.labels.len() <= 64);
        }
    }
}

/// Returns the label that a layer makes from a header's value.
async fn label_of(value: &str) -> String {
    let asked = check_of(
        |layer| layer.label_from_header("user_id", "x-user-id"),
        request(&[("x-user-id", value)]),
    )
    .await;
    asked.label("user_id").expect("a label").to_owned()
}

#[tokio::test]
async fn a_long_value_is_shortened_to_a_prefix_and_128_bits_of_its_sha_256() {
    let long = "a".repeat(1000);
    // These are the digests of `sha256sum`, so every process makes the same label.
    let expected = format!("{}~41edece42d63e8d9bf515a9ba6932e1c", &long[..64]);
    assert_eq!(label_of(&long).await, expected);
    let other = format!("{}b", &long[..999]);
    let expected = format!("{}~806ea84a818130f76686a2d0426897c7", &long[..64]);
    assert_eq!(label_of(&other).await, expected);

    let fits = "a".repeat(200);
    assert_eq!(label_of(&fits).await, fits);
    assert_eq!(label_of(&"a".repeat(201)).await.len(), 97);
    // A shortened value stays the same when the next service reads it.
    assert_eq!(label_of(&expected).await, expected);
}

#[tokio::test]
async fn every_reader_shortens_the_same_value_to_the_same_label() {
    let long = format!("{}/\u{fc}", "k".repeat(300));
    let encoded = long.replace('\u{fc}', "%C3%BC");
    let owned = long.clone();
    let asked = check_of(
        move |layer| {
            let hook_value = owned.clone();
            layer
                .label_from("query", query("user"))
                .label_from("text", move |_: RequestHead<'_>| owned.clone().into())
                .labels(move |_, labels: &mut Labels<'_>| labels.insert("hook", hook_value.clone()))
        },
        {
            let mut request = request(&[("baggage", &*format!("member={encoded}"))]);
            *request.uri_mut() = format!("/?user={encoded}").parse().expect("a target");
            request
        },
    )
    .await;
    let direct = FlowParams::new().client_label("direct", &*long);
    let key = direct.labels.get("direct").expect("a label");
    assert!(key.starts_with(&"k".repeat(64)) && key.len() == 97);
    for reader in ["query", "text", "hook", "member"] {
        assert_eq!(asked.label(reader), Some(key), "{reader}");
    }
    assert_eq!(asked.shortened, 4);
}

#[tokio::test]
async fn the_application_can_set_the_limit_of_values() {
    let long = "v".repeat(1000);
    for (limit, length) in [(999, 97), (1000, 1000), (50, 50), (33, 32), (0, 32)] {
        let asked = check_of(
            |layer| {
                layer
                    .label_value_limit(limit)
                    .label_from_header("user_id", "x-user-id")
                    .label("constant", "c".repeat(500))
            },
            request(&[("x-user-id", &long)]),
        )
        .await;
        assert_eq!(
            asked.label("user_id").map(str::len),
            Some(length),
            "{limit}"
        );
        assert_eq!(asked.label("constant").map(str::len), Some(500));
    }
}

#[tokio::test]
async fn sixty_four_readers_of_long_values_keep_their_labels() {
    let long = "l".repeat(200);
    let headers: Vec<_> = (0..62)
        .map(|at| (format!("x-{at}"), long.clone()))
        .collect();
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let asked = check_of(
        |mut layer| {
            for (name, _) in &headers {
                layer = layer.label_from_header((*name).to_owned(), name);
            }
            layer
                .label("service", "shop")
                .label_from("ip", extension::<IpAddr>(IpAddr::to_string))
        },
        from_client("/", &headers),
    )
    .await;
    assert_eq!((asked.labels.len(), asked.dropped), (64, 0));
    assert!(asked.shortened > 0 && bytes(&asked) <= 8192);
    assert_eq!(asked.label("ip"), Some("127.0.0.1"));
}

#[tokio::test]
async fn labels_that_a_closure_copies_from_a_client_are_dropped_before_named_ones() {
    let flood: Vec<_> = (0..1000).map(|at| format!("p{at}={at}")).collect();
    let big: Vec<_> = (0..90)
        .map(|at| format!("p{at}={}", "b".repeat(150)))
        .collect();
    let key = "k".repeat(9000);
    for query in [flood.join("&"), big.join("&"), format!("{key}=1&tier=gold")] {
        let asked = check_of(
            |layer| {
                layer
                    .labels(|head: RequestHead<'_>, labels: &mut Labels<'_>| {
                        for pair in head.uri().query().unwrap_or_default().split('&') {
                            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                            labels.insert(key.to_owned(), value.to_owned());
                        }
                    })
                    .label_from("ip", extension::<IpAddr>(IpAddr::to_string))
                    .label("service", "shop")
            },
            from_client(&format!("/?{query}"), &[("baggage", "extra=1")]),
        )
        .await;
        assert_eq!(asked.label("ip"), Some("127.0.0.1"));
        assert_eq!(asked.label("service"), Some("shop"));
        assert!(asked.labels.len() <= 64 && bytes(&asked) <= 8192);
        assert!(asked.dropped > 0);
        if query.contains("tier=gold") {
            assert_eq!(
                asked.label("tier"),
                Some("gold"),
                "the largest label is dropped"
            );
            assert_eq!((asked.labels.len(), asked.dropped), (4, 1));
        }
    }
}

#[tokio::test]
async fn over_the_limit_the_largest_label_of_the_client_is_dropped_first() {
    let limits = LabelLimits {
        count: 64,
        bytes: 200,
    };
    let (a, b) = ("a".repeat(120), "b".repeat(150));
    let asked = check_of(
        |layer| {
            layer
                .label_limits(limits)
                .label_from_header("a", "x-a")
                .label_from_header("b", "x-b")
                .label_from_header("c", "x-c")
                .label("own", "o".repeat(60))
        },
        request(&[
            ("x-a", &a),
            ("x-b", &b),
            ("x-c", "small"),
            ("baggage", "d=1"),
        ]),
    )
    .await;
    // Both long values are shortened, and one label is still over the limit.
    assert_eq!(asked.label("own").map(str::len), Some(60));
    assert_eq!(asked.label("c"), Some("small"));
    assert_eq!(
        asked.labels.len(),
        4,
        "a or b is dropped, and the baggage fits: {asked:?}"
    );
    assert_eq!((asked.dropped, asked.shortened), (1, 2));
    assert!(bytes(&asked) <= 200);
}

#[cfg(feature = "embedded")]
mod in_process {
    use std::convert::Infallible;

    use tower::{Layer, ServiceExt, service_fn};
    use tower_aperture::layer::OnReject;
    use tower_aperture::{ApertureClient, Decider, Engine};

    use super::*;
    use crate::layer_support::inner::{Body, hello};

    /// Returns a client that accepts one request for each value of a label, from `shop` only.
    fn client(label: &str) -> ApertureClient {
        let policy = format!(
            "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors:
        - control_point: test
          label_matcher: {{match_labels: {{service: shop}}}}
        in_ports:
          bucket_capacity: {{constant_signal: {{value: 1}}}}
          fill_amount: {{constant_signal: {{value: 1}}}}
        parameters: {{interval: 3600s, limit_by_label_key: {label}}}
"
        );
        let engine = Engine::builder().policy_text("policy", policy).build();
        ApertureClient::embedded(engine.expect("a valid policy"))
    }

    async fn status<D, R>(layer: &ApertureLayer<D, R>, request: Request<()>) -> u16
    where
        D: Decider + Clone,
        R: OnReject<Body>,
    {
        let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(hello()));
        let response = layer.layer(inner).oneshot(request).await;
        response.expect("a response").status().as_u16()
    }

    #[tokio::test]
    async fn a_user_with_a_long_name_is_limited_like_any_other() {
        let client = client("user_id");
        let layer = ApertureLayer::new(client.clone(), "test")
            .label_from_header("user_id", "x-user-id")
            .label("service", "shop");
        for size in [10, 199, 200, 300, 8000, 100_000] {
            for last in ["1", "2"] {
                let user = format!("{}{last}", "u".repeat(size));
                let request = || request(&[("x-user-id", &user)]);
                assert_eq!(status(&layer, request()).await, 200, "{size}");
                assert_eq!(status(&layer, request()).await, 429, "{size}");
            }
        }
        let stats = client.stats();
        assert_eq!(
            stats.labels_shortened, 16,
            "four sizes for two users, each sent twice"
        );
        assert_eq!((stats.labels_dropped, stats.undecided), (0, 0));
    }

    #[tokio::test]
    async fn a_limit_by_address_holds_with_any_headers() {
        let junk = ["j".repeat(8000), "%+ ,;".repeat(1500), "=".repeat(7000)];
        for http in [false, true] {
            let client = client("ip");
            let mut layer = ApertureLayer::new(client.clone(), "test");
            for at in 0..40 {
                layer = layer.label_from_header(format!("junk{at}"), format!("x-junk-{at}"));
            }
            let layer = layer
                .label_from("ip", extension::<IpAddr>(IpAddr::to_string))
                .label("service", "shop");
            let headers: Vec<_> = (0..40).map(|at| format!("x-junk-{at}")).collect();
            let request = |junk: &str| {
                let headers: Vec<_> = headers.iter().map(|name| (&**name, junk)).collect();
                from_client("/", &headers)
            };
            let mut statuses = Vec::new();
            for junk in &junk {
                statuses.push(match http {
                    false => status(&layer, request(junk)).await,
                    true => status(&layer.clone().check_http(), request(junk)).await,
                });
            }
            assert_eq!(statuses, [200, 429, 429], "by attributes: {http}");
            assert_eq!(client.stats().undecided, 0);
            assert_eq!(client.stats().labels_dropped, 0);
        }
    }

    #[tokio::test]
    async fn a_flow_without_a_layer_keeps_its_labels_beside_a_huge_one() {
        let client = client("user_id");
        let user = "u".repeat(9000);
        for last in ["1", "2"] {
            for expected in [true, false] {
                let params = FlowParams::new()
                    .label("user_id", format!("{user}{last}"))
                    .label("service", "shop");
                let flow = client.start_flow("test", params).await;
                assert_eq!(flow.should_run(), expected);
            }
        }
    }
}
