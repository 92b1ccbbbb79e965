//! The address of the client, as trusted proxies report it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderValue, Request};
use proptest::prelude::*;
use tower_aperture::layer::{ClientAddress, client_ip};
use tower_aperture::{ApertureLayer, RequestHead};

use crate::reading::{Inner, limited, request, send};

const XFF: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";

fn behind_proxies() -> ClientAddress {
    ClientAddress::of(|peer: &SocketAddr| Some(*peer)).trust("10.0.0.0/8")
}

/// Builds a request that a trusted proxy forwards with the given lines of a header.
fn forwarded_request(name: &'static str, lines: &[&[u8]]) -> Request<()> {
    let mut request = request("GET /", &[]);
    for line in lines {
        let value = HeaderValue::from_bytes(line).expect("a valid value");
        request.headers_mut().append(name, value);
    }
    let peer = SocketAddr::from(([10, 0, 0, 1], 443));
    request.extensions_mut().insert(peer);
    request
}

fn key(name: &'static str, lines: &[&[u8]]) -> String {
    let address = match name {
        FORWARDED => behind_proxies().forwarded(),
        _ => behind_proxies(),
    };
    let request = forwarded_request(name, lines);
    client_ip(address)(RequestHead::new(&request)).into_owned()
}

#[track_caller]
fn expect(name: &'static str, line: &str, expected: &str) {
    assert_eq!(key(name, &[line.as_bytes()]), expected, "{name}: {line}");
}

#[test]
fn a_bad_or_obfuscated_port_does_not_invalidate_an_address() {
    for port in [
        "", ":", ":80", ":0", ":65536", ":-1", ":_p", ":x y", ":80:80",
    ] {
        expect(XFF, &format!("192.0.2.7{port}"), "192.0.2.7");
        expect(
            XFF,
            &format!("6.6.6.6, 192.0.2.7{port},10.2.2.2{port}"),
            "192.0.2.7",
        );
        let quoted = format!("by=10.0.0.1;for=\"192.0.2.7{port}\";proto=https");
        expect(FORWARDED, &quoted, "192.0.2.7");
        let bracketed = format!("[2001:db8:1:2::7]{port}");
        expect(XFF, &bracketed, "2001:db8:1:2::/64");
        expect(
            FORWARDED,
            &format!("For=\"{bracketed}\""),
            "2001:db8:1:2::/64",
        );
    }
}

#[test]
fn quotes_and_escapes_of_forwarded_are_parsed() {
    for line in [
        // The client chose the Host, which proxies quote.
        r#"host="a,for=6.6.6.6;x=";for=192.0.2.7"#,
        r#"for=192.0.2.7;host="a,for=6.6.6.6;x=""#,
        r#"for=192.0.2.7;host="a\",for=6.6.6.6;x=\"""#,
        r#"for=192.0.2.7;host="\\";by="x,y;for=6.6.6.6""#,
        r#"for="192.0.2\.7";host=",,,;;;for=6.6.6.6""#,
        r#"for=6.6.6.6, for=192.0.2.7;host="a, b", for=10.1.1.1;host="c;for=6.6.6.6""#,
    ] {
        expect(FORWARDED, line, "192.0.2.7");
    }
}

#[test]
fn an_unreadable_element_makes_the_client_address_unknown() {
    for element in [
        "unknown",
        "_hidden",
        "garbage",
        "192.0.2",
        "999.0.2.1",
        "unix:",
        "192.0.2.7 x",
        "\u{e9}",
        "[192.0.2.7",
        "2001:db8::xyz",
    ] {
        expect(XFF, &format!("6.6.6.6, {element}"), "unknown");
        expect(XFF, &format!("6.6.6.6, {element}, 10.2.2.2"), "unknown");
        expect(FORWARDED, &format!("for=6.6.6.6, for={element}"), "unknown");
    }
    for element in [
        "proto=https",
        "for=",
        "for=\"\"",
        "for=1.1.1.1;for=2.2.2.2",
        "for=\"1.1.1.1",
    ] {
        expect(FORWARDED, &format!("for=6.6.6.6, {element}"), "unknown");
    }
    expect(XFF, "6.6.6.6, , 10.2.2.2", "unknown");
    // Readers that need an address find none.
    let request = forwarded_request(XFF, &[b"6.6.6.6, unknown"]);
    assert_eq!(behind_proxies().ip(RequestHead::new(&request)), None);
}

#[test]
fn a_list_of_trusted_hops_only_is_readable() {
    for line in ["", ",", "10.2.2.2", ", 10.2.2.2", " ,\t,10.2.2.2"] {
        let proxy = if line.contains('1') {
            "10.2.2.2"
        } else {
            "10.0.0.1"
        };
        expect(XFF, line, proxy);
    }
    assert_eq!(key(XFF, &[]), "10.0.0.1");
}

#[test]
fn ipv4_mapped_addresses_are_read_as_ipv4_everywhere() {
    for line in [
        "::ffff:192.0.2.7",
        "[::ffff:192.0.2.7]:80",
        "[::ffff:c000:207]",
    ] {
        expect(XFF, line, "192.0.2.7");
        expect(XFF, &format!("{line}, ::ffff:10.3.3.3"), "192.0.2.7");
    }
    // This includes trusted networks and the address of the connection.
    let address = ClientAddress::of(|peer: &SocketAddr| Some(*peer));
    let address = address
        .trust("::ffff:10.0.0.0/104")
        .trust("::ffff:172.16.0.1");
    for peer in ["10.0.0.1:5", "[::ffff:10.9.9.9]:5", "172.16.0.1:5"] {
        let mut request = request("GET /", &[(XFF, "192.0.2.7")]);
        let peer: SocketAddr = peer.parse().expect("an address");
        request.extensions_mut().insert(peer);
        let found = address.ip(RequestHead::new(&request));
        assert_eq!(found, Some(IpAddr::from([192, 0, 2, 7])), "{peer}");
    }
}

#[test]
fn ipv6_keys_are_networks_of_a_chosen_size_and_ip_returns_the_address() {
    let request = forwarded_request(XFF, &[b"2001:db8:aaaa:bbbb:cccc::1"]);
    let head = RequestHead::new(&request);
    for (bits, expected) in [
        (0, "::/0"),
        (1, "::/1"),
        (48, "2001:db8:aaaa::/48"),
        (60, "2001:db8:aaaa:bbb0::/60"),
        (127, "2001:db8:aaaa:bbbb:cccc::/127"),
        (128, "2001:db8:aaaa:bbbb:cccc::1"),
        (255, "2001:db8:aaaa:bbbb:cccc::1"),
    ] {
        let address = behind_proxies().ipv6_prefix(bits);
        let exact = address.ip(head).expect("an address").to_string();
        assert_eq!(exact, "2001:db8:aaaa:bbbb:cccc::1");
        assert_eq!(client_ip(address)(head), expected, "{bits}");
    }
}

#[tokio::test]
async fn a_client_with_a_whole_ipv6_network_has_one_limit() {
    let client = limited(2, "control_point: login", "limit_by_label_key: ip");
    let layer = ApertureLayer::new(client, "login").label_from("ip", client_ip(behind_proxies()));
    let mut accepted = [0, 0];
    for host in 1..=10_u16 {
        for (network, accepted) in accepted.iter_mut().enumerate() {
            let line = format!("2001:db8:0:{network}:{host:x}::{host:x}");
            let request = forwarded_request(XFF, &[line.as_bytes()]);
            let response = send(&layer, &Inner::default(), request).await;
            *accepted += u32::from(response.status == 200);
        }
    }
    assert_eq!(accepted, [2, 2]);
}

#[tokio::test]
async fn clients_with_unreadable_addresses_share_one_limit_apart_from_the_proxys() {
    let client = limited(2, "control_point: login", "limit_by_label_key: ip");
    let layer = ApertureLayer::new(client, "login").label_from("ip", client_ip(behind_proxies()));
    let mut accepted = 0;
    for hidden in ["unknown", "_a", "_b", "x", "y"] {
        let request = forwarded_request(XFF, &[hidden.as_bytes()]);
        let response = send(&layer, &Inner::default(), request).await;
        accepted += u32::from(response.status == 200);
    }
    assert_eq!(accepted, 2);
    let own = send(&layer, &Inner::default(), forwarded_request(XFF, &[])).await;
    assert_eq!(own.status, 200);
}

/// Generates a header line that a client may send, valid as a list or not.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(b"\",;=\\:[]%. \t_for16unkow\xe9\xff".to_vec());
    prop::collection::vec(odd, 0..24)
}

/// Returns an element as an RFC 7239 proxy writes it, with a Host that the client chose.
fn element(client: &str, host: &[u8], host_first: bool) -> Vec<u8> {
    let mut quoted = b"host=\"".to_vec();
    for byte in host {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    let node = format!("for=\"{client}\"").into_bytes();
    match host_first {
        true => [quoted, b";".to_vec(), node].concat(),
        false => [node, b";".to_vec(), quoted].concat(),
    }
}

proptest! {
    #[test]
    fn a_client_cannot_change_the_address_that_a_proxy_appends(
        written in line(),
        host in line(),
        port in "(:[0-9]{1,6}|:_[a-z.-]{0,80}|:|)",
        v6: bool,
        host_first: bool,
        own_line: bool,
        proxies in 0_usize..3,
    ) {
        let (client, expected) = match v6 {
            true => (format!("[2001:db8::7]{port}"), "2001:db8::/64"),
            false => (format!("192.0.2.7{port}"), "192.0.2.7"),
        };
        for name in [XFF, FORWARDED] {
            let mut appended = match name {
                XFF => client.clone().into_bytes(),
                _ => element(&client, &host, host_first),
            };
            for _ in 0..proxies {
                appended.extend_from_slice(b", ");
                match name {
                    XFF => appended.extend_from_slice(b"10.7.7.7"),
                    _ => appended.extend(element("10.7.7.7:1", &host, !host_first)),
                }
            }
            let found = if own_line {
                key(name, &[&written, &appended])
            } else {
                let line = [&written[..], b", ", &appended].concat();
                key(name, &[line.trim_ascii_start()])
            };
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_list_from_trusted_hops_yields_an_address_or_unknown(written in line()) {
        for name in [XFF, FORWARDED] {
            let found = key(name, &[&written]);
            let found = found.split('/').next().expect("a part");
            prop_assert!(found == "unknown" || found.parse::<IpAddr>().is_ok(), "{}", found);
        }
    }
}
