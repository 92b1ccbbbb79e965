//! Tests of the builder's checks and error messages.

use super::address::parse;
use super::build::metadata;
use super::*;

fn build_error(builder: ApertureClientBuilder) -> String {
    builder.build().expect_err("refused").to_string()
}

fn builder_for(address: &str) -> ApertureClientBuilder {
    ApertureClientBuilder::new().address(address)
}

#[test]
fn addresses_are_host_and_port_with_or_without_a_scheme() {
    for (address, insecure, uri, secure) in [
        ("agent:8089", Some(true), "http://agent:8089/", false),
        ("agent:8089", None, "https://agent:8089/", true),
        ("agent:8089", Some(false), "https://agent:8089/", true),
        ("[::1]:8089", Some(true), "http://[::1]:8089/", false),
        ("10.0.0.1:443", None, "https://10.0.0.1:443/", true),
        ("http://agent:8089", None, "http://agent:8089/", false),
        (
            "HTTP://agent:8089/",
            Some(true),
            "http://agent:8089/",
            false,
        ),
        ("http://agent", None, "http://agent:80/", false),
        ("https://agent", None, "https://agent:443/", true),
        ("https://[::1]", Some(false), "https://[::1]:443/", true),
    ] {
        let (parsed, tls) = parse(address, insecure).expect(address);
        assert_eq!(
            (parsed.to_string().as_str(), tls),
            (uri, secure),
            "{address}"
        );
    }
}

#[test]
fn the_error_names_an_invalid_address() {
    for address in [
        "agent",
        "agent:",
        "agent:0",
        "agent:99999",
        "agent:port",
        ":8089",
        "::1",
        "[::1]",
        "[::1",
        "http://",
        "http://agent:8089/path",
        "agent:8089?x",
        "ftp://agent:21",
        "unix:///run/agent",
        "two words:1",
        "a\nb:1",
    ] {
        let refused = build_error(builder_for(address).insecure(true));
        assert!(refused.contains(address), "{address}: {refused}");
    }
}

#[test]
fn the_error_names_an_address_that_does_not_fit_the_others() {
    let with = |addresses: &[&str]| {
        let addresses = addresses.iter().copied();
        ApertureClientBuilder::new().addresses(addresses)
    };
    let build = |addresses: &[&str]| with(addresses).insecure(true).build();
    assert_eq!(build(&["a:1", " b:1 "]).expect("good").agents().len(), 2);
    for (addresses, named) in [
        (&["a:1", "b"][..], "`b`"),
        (&["a:1", "a:2", "a:1"], "`a:1`: the address is repeated"),
        (&["a:1,b:1"], "`addresses` takes several"),
        (&["a:1", ""], "missing"),
        (&[], "missing"),
    ] {
        let refused = build(addresses).expect_err("refused").to_string();
        assert!(refused.contains(named), "{refused}");
    }
    let mixed = with(&["http://a:1", "https://b:1"]);
    assert!(build_error(mixed).contains("`https://b:1`: all addresses must be secure"));
    let many: Vec<_> = (1..=65).map(|port| format!("a:{port}")).collect();
    let many = ApertureClientBuilder::new().addresses(many).insecure(true);
    assert!(build_error(many).contains("65"));
    let one = with(&["a:1", "b:1"]).address("c:1").insecure(true);
    assert_eq!(one.build().expect("good").agents().len(), 1);
}

#[test]
fn no_address_is_an_error() {
    let missing = "the agent address is missing";
    assert_eq!(build_error(ApertureClientBuilder::new()), missing);
    assert_eq!(build_error(builder_for("")), missing);
    assert_eq!(build_error(builder_for("  ")), missing);
}

#[test]
fn scheme_and_insecure_must_agree() {
    assert!(build_error(builder_for("http://agent:1").insecure(false)).contains("http://agent:1"));
    assert!(build_error(builder_for("https://agent:1").insecure(true)).contains("https://agent:1"));
}

#[test]
fn a_password_in_the_address_is_refused_and_not_shown() {
    let refused = build_error(builder_for("http://user:sesame@agent:1"));
    assert!(!refused.contains("sesame"), "{refused}");
}

#[test]
fn an_invalid_key_is_refused_and_not_shown() {
    for key in ["sesame\n", "ses\u{e4}me", "sesame\0", "sesame\t"] {
        let error = builder_for("agent:1")
            .insecure(true)
            .api_key(key)
            .build()
            .expect_err("refused");
        assert!(error.to_string().contains("API key"));
        assert!(!format!("{error}{error:?}").contains("ses"));
    }
    assert!(
        builder_for("agent:1")
            .insecure(true)
            .api_key("")
            .build()
            .is_ok()
    );
}

#[test]
fn a_valid_key_is_marked_sensitive() {
    let key = metadata(b"sesame").expect("good").expect("there");
    assert!(key.is_sensitive());
    assert!(metadata(b"").expect("good").is_none());
}

#[test]
fn debug_shows_neither_key_nor_identity() {
    let builder = builder_for("agent:1")
        .api_key("sesame")
        .client_identity("certificate", "private");
    let shown = format!("{builder:?}");
    assert!(shown.contains("agent:1"));
    for secret in ["sesame", "private", "certificate"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn the_error_names_settings_out_of_range() {
    let base = || builder_for("agent:1").insecure(true);
    assert!(build_error(base().connections(0)).contains("connections 0"));
    assert!(build_error(base().connections(65)).contains("connections 65"));
    assert!(build_error(base().breaker(5, Duration::ZERO)).contains("probe interval"));
    assert!(build_error(base().connect_timeout(Duration::ZERO)).contains("connect timeout"));
    let second = Duration::from_secs(1);
    assert!(build_error(base().keep_alive(Duration::ZERO, second)).contains("interval"));
    assert!(build_error(base().keep_alive(second, Duration::ZERO)).contains("keep-alive timeout"));
}

#[test]
fn tls_settings_without_tls_are_refused() {
    let refused = build_error(builder_for("agent:1").insecure(true).server_name("agent"));
    assert!(refused.contains("without TLS"), "{refused}");
}

#[cfg(feature = "tls")]
#[test]
fn the_error_names_the_kind_of_an_unreadable_certificate_or_key() {
    assert!(
        build_error(builder_for("agent:1").ca_certificate("no pem")).contains("CA certificate")
    );
    let refused = build_error(builder_for("agent:1").client_identity("no pem", "no key"));
    assert!(refused.contains("client identity"), "{refused}");
    let refused = build_error(builder_for("agent:1").server_name("not a name"));
    assert!(refused.contains("server name"), "{refused}");
    assert!(builder_for("agent:1").build().is_ok());
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_secure_address_without_the_feature_is_an_error() {
    let refused = build_error(builder_for("agent:1"));
    assert!(
        refused.contains("`tls`") && refused.contains("agent:1"),
        "{refused}"
    );
}

fn from_vars(vars: &[(&str, &str)]) -> Result<ApertureClientBuilder, BuildError> {
    ApertureClientBuilder::from_vars(|name| {
        let found = vars.iter().find(|(known, _)| *known == name);
        Ok(found.map(|(_, value)| (*value).to_owned()))
    })
}

#[test]
fn the_environment_sets_address_key_and_transport() {
    let builder = from_vars(&[
        ("APERTURE_AGENT_ADDRESS", " agent:1\n"),
        ("APERTURE_API_KEY", "sesame\n"),
        ("APERTURE_AGENT_INSECURE", "true"),
    ])
    .expect("good");
    assert_eq!(builder.addresses, ["agent:1"]);
    assert_eq!(builder.api_key.as_deref(), Some(&b"sesame"[..]));
    assert_eq!(builder.insecure, Some(true));
    let builder = from_vars(&[("APERTURE_AGENT_ADDRESS", "agent:1, agent:2")]);
    assert_eq!(builder.expect("good").addresses, ["agent:1", "agent:2"]);
    for (text, insecure) in [("1", true), ("0", false), ("false", false)] {
        let vars = [
            ("APERTURE_AGENT_ADDRESS", "agent:1"),
            ("APERTURE_AGENT_INSECURE", text),
        ];
        assert_eq!(from_vars(&vars).expect("good").insecure, Some(insecure));
    }
    let builder = from_vars(&[
        ("APERTURE_AGENT_ADDRESS", "agent:1"),
        ("APERTURE_API_KEY", ""),
    ]);
    assert_eq!(builder.expect("good").api_key, None);
}

#[test]
fn the_error_names_an_invalid_environment_variable() {
    let missing = from_vars(&[]).expect_err("no address").to_string();
    assert!(missing.contains("APERTURE_AGENT_ADDRESS"), "{missing}");
    let vars = [
        ("APERTURE_AGENT_ADDRESS", "agent:1"),
        ("APERTURE_AGENT_INSECURE", "yes"),
    ];
    let wrong = from_vars(&vars)
        .expect_err("neither true nor false")
        .to_string();
    assert!(
        wrong.contains("APERTURE_AGENT_INSECURE") && wrong.contains("yes"),
        "{wrong}"
    );
}
