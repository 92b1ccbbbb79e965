//! What `baggage` can set: nothing that the layer names, and each line and member on its own.

use std::net::IpAddr;

use http::Request;
use tower_aperture::layer::{
    baggage_member, extension, extension_str, grpc_method, header, joined, path_template, query,
};
use tower_aperture::{ApertureLayer, LabelLimits, Labels, RequestHead};

use super::layer_support::{Asked, Recorder};
use super::{ask, request};

/// Left by a layer that checks who calls, for those that it knows.
#[derive(Clone)]
struct Tier(String);

/// A label `tier` by every kind of reader; in the requests here each of them finds nothing.
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

/// Each sets `tier` by some trick, and `plan` beside it.
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

fn with(lines: &[&str]) -> Request<()> {
    let headers: Vec<_> = lines.iter().map(|line| ("baggage", *line)).collect();
    request(&headers)
}

fn is_tier(key: &str) -> bool {
    let key = key.replace("%74", "t").replace("%69", "i");
    key.replace("%65", "e").replace("%72", "r") == "tier"
}

fn expect_no_tier(asked: &Asked, what: &str) {
    let tier = asked.labels.iter().find(|(key, _)| is_tier(key));
    assert_eq!(tier, None, "{what}");
    assert_eq!(asked.label("plan"), Some("free"), "{what}");
}

#[tokio::test]
async fn a_key_that_the_layer_names_never_comes_from_baggage() {
    for (reader, build) in READERS {
        for lines in LINES {
            let asked = ask(build, with(lines)).await;
            expect_no_tier(&asked, &format!("{reader}: {lines:?}"));
        }
        // By attributes too.
        let recorder = Recorder::accepting();
        let layer = build(ApertureLayer::new(recorder.clone(), "test")).send_header("x-other");
        super::pass(&layer, with(LINES[0])).await;
        expect_no_tier(&recorder.question(), reader);
    }
    let asked = ask(|layer| layer, with(&["tier=gold"])).await;
    assert_eq!(asked.label("tier"), Some("gold"), "nothing names it");
}

#[tokio::test]
async fn a_default_stands_against_baggage() {
    for (reader, build) in READERS {
        let asked = ask(|layer| build(layer.label("tier", "none")), with(LINES[0])).await;
        assert_eq!(asked.label("tier"), Some("none"), "{reader}");
    }
}

#[tokio::test]
async fn what_a_reader_takes_from_baggage_by_name_is_there() {
    let asked = ask(
        |layer| layer.label_from("tenant", baggage_member("tenant-id")),
        with(&["tenant=eve,tenant-id=7,%zz"]),
    )
    .await;
    assert_eq!(asked.label("tenant"), Some("7"));
}

#[tokio::test]
async fn a_bad_member_costs_nothing_but_itself() {
    for bad in [
        "", " ", "a b=1", "=", "=x", "novalue", "x=%zz", "x=%", "x=\"q\"", "x=a\\b", "x=\u{fc}",
        "\u{fc}=1", "x=1;=", "x=1; a b",
    ] {
        for line in [
            format!("{bad},tier=gold,plan=free"),
            format!("tier=gold,{bad},plan=free"),
            format!("tier=gold,plan=free,{bad}"),
        ] {
            let asked = ask(|layer| layer, with(&[&line])).await;
            assert_eq!(asked.label("tier"), Some("gold"), "{line:?}");
            assert_eq!(asked.label("plan"), Some("free"), "{line:?}");
            assert_eq!(asked.labels.len(), 2, "{line:?}");
        }
        for lines in [[bad, "tier=gold"], ["tier=gold", bad]] {
            let asked = ask(|layer| layer, with(&lines)).await;
            assert_eq!(
                asked.labels,
                [("tier".to_owned(), "gold".to_owned())],
                "{lines:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_clients_line_of_any_size_leaves_the_gateways() {
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
            let asked = ask(|layer| layer.label("service", "shop"), with(&lines)).await;
            assert_eq!(asked.label("tenant"), Some("7"));
            assert_eq!(asked.label("service"), Some("shop"));
            assert!(asked.labels.len() <= 64);
        }
    }
    // In one line a gateway's members are the last.
    let asked = ask(|layer| layer, with(&[&format!("{},tenant=7", many(300))])).await;
    assert_eq!(asked.label("tenant"), Some("7"));
    assert_eq!((asked.labels.len(), asked.dropped), (64, 237));
}

#[tokio::test]
async fn of_a_repeated_key_the_last_well_formed_value_counts_over_all_lines() {
    for (lines, expected) in [
        (&["tenant=a,tenant=b"][..], "b"),
        (&["tenant=a", "tenant=b"], "b"),
        (&["tenant=a", "tenant=%"], "a"),
        (&["tenant=a,x", "y=1"], "a"),
    ] {
        let asked = ask(|layer| layer, with(lines)).await;
        assert_eq!(asked.label("tenant"), Some(expected), "{lines:?}");
    }
    // And where there is no room for all.
    let many: Vec<_> = (0..80).map(|at| format!("m{at}=1")).collect();
    let first = format!("{},tenant=a", many.join(","));
    let asked = ask(
        |layer| {
            layer.label_limits(LabelLimits {
                count: 10,
                ..LabelLimits::default()
            })
        },
        with(&[&first, "y=1,tenant=b,z=1"]),
    )
    .await;
    assert_eq!(asked.label("tenant"), Some("b"));
    assert_eq!((asked.labels.len(), asked.dropped), (10, 73));
}

#[cfg(feature = "embedded")]
#[tokio::test]
async fn an_engine_that_is_asked_by_attributes_does_not_take_a_named_key_from_baggage() {
    use std::convert::Infallible;

    use tower::{Layer, ServiceExt, service_fn};
    use tower_aperture::{ApertureClient, Engine};

    use super::layer_support::inner::hello;

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
    let client = ApertureClient::embedded(engine.expect("the policy is right"));
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(hello()));
    for (named, expected) in [(false, 429), (true, 200)] {
        let mut layer = ApertureLayer::http(client.clone(), "test").send_header("baggage");
        if named {
            layer = layer.label_from_header("tier", "x-tier");
        }
        for lines in [&["tier=gold"][..], &["x", "tier=gold"], &["tier=gold,"]] {
            let answer = layer.layer(inner).oneshot(with(lines)).await;
            assert_eq!(answer.expect("a response").status(), expected, "{lines:?}");
        }
    }
}
