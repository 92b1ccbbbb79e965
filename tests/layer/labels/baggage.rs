//! `baggage` cannot set a label that the layer names, and each line and member is read by itself.

use std::net::IpAddr;

use http::Request;
use tower_aperture::layer::{
    baggage_member, extension, extension_str, grpc_method, header, joined, path_template, query,
};
use tower_aperture::{ApertureLayer, LabelLimits, Labels, RequestHead};

use super::{check_of, request};
use crate::layer_support::{Asked, Recorder};

/// Inserted by an authenticating layer for the callers that it knows.
#[derive(Clone)]
struct Tier(String);

/// Adds a label `tier` by some kind of reader, which finds no value in the requests of these tests.
type Build = fn(ApertureLayer<Recorder>) -> ApertureLayer<Recorder>;

const READERS: [(&str, Build); 12] = [
    ("by name", |layer| layer.label_from_header("tier", "x-tier")),
    ("header", |layer| layer.label_from("tier", header("x-tier"))),
    ("query", |layer| layer.label_from("tier", query("tier"))),
    ("joined", |layer| {
        layer.label_from("tier", joined((header("x-tier"), query("tier"))))
    }),
    ("template", |layer| {
        layer.label_from("tier", path_template::<Tier>(|tier| &tier.0))
    }),
    ("grpc", |layer| layer.label_from("tier", grpc_method)),
    ("text", |layer| {
        layer.label_from("tier", extension_str::<Tier>(|tier| &tier.0))
    }),
    ("extension", |layer| {
        layer.label_from("tier", extension::<IpAddr>(IpAddr::to_string))
    }),
    ("closure", |layer| {
        layer.label_from("tier", |head| {
            let fragment = head.uri().path().strip_prefix("/tiers/");
            fragment.unwrap_or_default().into()
        })
    }),
    ("other member", |layer| {
        layer.label_from("tier", baggage_member("other"))
    }),
    ("closure of many", |layer| {
        layer
            .labels(|head: RequestHead<'_>, labels: &mut Labels<'_>| {
                if let Some(Tier(tier)) = head.extensions().get() {
                    labels.insert("tier", &**tier);
                }
            })
            .reserve_label("tier")
    }),
    ("by name, and a closure before it", |layer| {
        layer
            .labels(|_, _| ())
            .label_from_header("tier", "x-tier")
            .label("service", "shop")
    }),
];

/// Lines of baggage that each try to set `tier`, and that set `plan`.
const LINES: [&[&str]; 9] = [
    &["tier=gold,plan=free"],
    &["plan=free,tier=gold"],
    &["plan=free", "tier=gold"],
    &["tier=gold", "plan=free"],
    &["tier=gold,tier=gold", "tier=gold", "plan=free;tier=gold"],
    &["%74ier=gold,plan=free"],
    &["plan=free,%74%69%65%72=gold"],
    &[" tier = gold ; x=1 , plan\t=\tfree"],
    &["tier=,plan=free,tier=%67old"],
];

fn with_baggage(lines: &[&str]) -> Request<()> {
    let headers: Vec<_> = lines.iter().map(|line| ("baggage", *line)).collect();
    request(&headers)
}

fn is_tier(key: &str) -> bool {
    let key = key.replace("%74", "t").replace("%69", "i");
    key.replace("%65", "e").replace("%72", "r") == "tier"
}

fn expect_no_tier(asked: &Asked, context: &str) {
    let tier = asked.labels.iter().find(|(key, _)| is_tier(key));
    assert_eq!(tier, None, "{context}");
    assert_eq!(asked.label("plan"), Some("free"), "{context}");
}

#[tokio::test]
async fn a_key_that_the_layer_names_never_comes_from_baggage() {
    for (reader, build) in READERS {
        for lines in LINES {
            let asked = check_of(build, with_baggage(lines)).await;
            expect_no_tier(&asked, &format!("{reader}: {lines:?}"));
        }
        // The same for checks by attributes.
        let recorder = Recorder::accepting();
        let layer = build(ApertureLayer::new(recorder.clone(), "test")).send_header("x-other");
        super::pass(&layer, with_baggage(LINES[0])).await;
        expect_no_tier(&recorder.question(), reader);
    }
    let asked = check_of(|layer| layer, with_baggage(&["tier=gold"])).await;
    assert_eq!(
        asked.label("tier"),
        Some("gold"),
        "the layer does not name the key"
    );
}

#[tokio::test]
async fn a_default_label_prevails_over_baggage() {
    for (reader, build) in READERS {
        let asked = check_of(
            |layer| build(layer.label("tier", "none")),
            with_baggage(LINES[0]),
        )
        .await;
        assert_eq!(asked.label("tier"), Some("none"), "{reader}");
    }
}

#[tokio::test]
async fn a_reader_of_a_baggage_member_finds_its_value() {
    let asked = check_of(
        |layer| layer.label_from("tenant", baggage_member("tenant-id")),
        with_baggage(&["tenant=eve,tenant-id=7,%zz"]),
    )
    .await;
    assert_eq!(asked.label("tenant"), Some("7"));
}

#[tokio::test]
async fn a_malformed_member_removes_no_other_member() {
    for bad in [
        "", " ", "a b=1", "=", "=x", "novalue", "x=%zz", "x=%", "x=\"q\"", "x=a\\b", "x=\u{fc}",
        "\u{fc}=1", "x=1;=", "x=1; a b",
    ] {
        for line in [
            format!("{bad},tier=gold,plan=free"),
            format!("tier=gold,{bad},plan=free"),
            format!("tier=gold,plan=free,{bad}"),
        ] {
            let asked = check_of(|layer| layer, with_baggage(&[&line])).await;
            assert_eq!(asked.label("tier"), Some("gold"), "{line:?}");
            assert_eq!(asked.label("plan"), Some("free"), "{line:?}");
            assert_eq!(asked.labels.len(), 2, "{line:?}");
        }
        for lines in [[bad, "tier=gold"], ["tier=gold", bad]] {
            let asked = check_of(|layer| layer, with_baggage(&lines)).await;
            assert_eq!(
                asked.labels,
                [("tier".to_owned(), "gold".to_owned())],
                "{lines:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_clients_line_of_any_size_does_not_displace_the_gateways_line() {
    let many = |count: usize| {
        let members: Vec<_> = (0..count).map(|at| format!("m{at}=1")).collect();
        members.join(",")
    };
    for bad in [
        format!("big={}", "b".repeat(20_000)),
        format!("{}=1", "k".repeat(9000)),
        many(65),
        many(200),
        many(5000),
        ",".repeat(3000),
    ] {
        for lines in [[&*bad, "x=1,tenant=7"], ["x=1,tenant=7", &bad]] {
            let asked =
                check_of(|layer| layer.label("service", "shop"), with_baggage(&lines)).await;
            assert_eq!(asked.label("tenant"), Some("7"));
            assert_eq!(asked.label("service"), Some("shop"));
            assert!(asked.labels.len() <= 64);
        }
    }
    // If both are in one line, the gateway's members come last.
    let asked = check_of(
        |layer| layer,
        with_baggage(&[&format!("{},tenant=7", many(300))]),
    )
    .await;
    assert_eq!(asked.label("tenant"), Some("7"));
    assert_eq!((asked.labels.len(), asked.dropped), (64, 237));
}

#[tokio::test]
async fn the_last_well_formed_value_of_a_repeated_key_counts_across_lines() {
    for (lines, expected) in [
        (&["tenant=a,tenant=b"][..], "b"),
        (&["tenant=a", "tenant=b"], "b"),
        (&["tenant=a", "tenant=%"], "a"),
        (&["tenant=a,x", "y=1"], "a"),
    ] {
        let asked = check_of(|layer| layer, with_baggage(lines)).await;
        assert_eq!(asked.label("tenant"), Some(expected), "{lines:?}");
    }
    // The same when the labels exceed the limit.
    let many: Vec<_> = (0..80).map(|at| format!("m{at}=1")).collect();
    let first = format!("{},tenant=a", many.join(","));
    let asked = check_of(
        |layer| {
            layer.label_limits(LabelLimits {
                count: 10,
                ..LabelLimits::default()
            })
        },
        with_baggage(&[&first, "y=1,tenant=b,z=1"]),
    )
    .await;
    assert_eq!(asked.label("tenant"), Some("b"));
    assert_eq!((asked.labels.len(), asked.dropped), (10, 73));
}

#[cfg(feature = "embedded")]
#[tokio::test]
async fn checks_by_attributes_take_no_named_key_from_baggage() {
    use std::convert::Infallible;

    use tower::{Layer, ServiceExt, service_fn};
    use tower_aperture::{ApertureClient, Engine};

    use crate::layer_support::inner::hello;

    let policy = "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors:
        - control_point: test
          label_matcher: {match_labels: {tier: gold}}
        in_ports:
          bucket_capacity: {constant_signal: {value: 0}}
          fill_amount: {constant_signal: {value: 1}}
        parameters: {interval: 3600s}
";
    let engine = Engine::builder().policy_text("policy", policy).build();
    let client = ApertureClient::embedded(engine.expect("a valid policy"));
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(hello()));
    for (named, expected) in [(false, 429), (true, 200)] {
        let mut layer = ApertureLayer::http(client.clone(), "test").send_header("baggage");
        if named {
            layer = layer.label_from_header("tier", "x-tier");
        }
        for lines in [&["tier=gold"][..], &["x", "tier=gold"], &["tier=gold,"]] {
            let response = layer.layer(inner).oneshot(with_baggage(lines)).await;
            assert_eq!(
                response.expect("a response").status(),
                expected,
                "{lines:?}"
            );
        }
    }
}
