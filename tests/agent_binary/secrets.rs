//! Whom `serve` lets in: API keys, TLS, client certificates.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::program::{Folder, Ran, Serving, limit, program};

/// An authority whose certificates end up in files.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    fn write(&self, folder: &Folder, name: &str) -> String {
        folder.write(name, self.0.pem())
    }

    /// Files of a certificate for 127.0.0.1 and of its key.
    fn issue(&self, folder: &Folder, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .expect("a name")
            .signed_by(&key, &self.0)
            .expect("a certificate");
        (
            folder.write(&format!("{name}.pem"), certificate.pem()),
            folder.write(&format!("{name}.key"), key.serialize_pem()),
        )
    }
}

#[test]
fn only_who_has_a_key_is_let_in_and_who_has_not_is_logged() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(9));
    let keys = folder.write("keys", "# of the tests\nsesame\n\nabracadabra\n");
    let serving = Serving::start(&policies, &["--api-key-file", &keys]);
    let wrong = folder.write("wrong", "simsalabim\n");
    for more in [&[][..], &["--api-key-file", &wrong]] {
        let mut args = vec!["checkout"];
        args.extend(more);
        let Ran { code, out, err } = serving.check(&args);
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(
            err.contains("unreachable") && err.contains("API key"),
            "{err}"
        );
    }
    serving.logs("UNAUTHENTICATED", 1);
    assert_eq!(
        serving.check(&["checkout", "--api-key-file", &keys]).code,
        0
    );
    let mut command = program(&["check", "checkout", "--addr", &serving.address]);
    command.env("APERTURE_API_KEY", "abracadabra");
    assert_eq!(Ran::of(command).code, 0);
    let log = serving.log();
    for secret in ["sesame", "abracadabra", "simsalabim"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn a_hangup_rereads_the_keys_and_bad_ones_change_nothing() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(9));
    let keys = folder.write("keys", "sesame\n");
    let [old, new] =
        [("old", "sesame"), ("new", "abracadabra")].map(|(name, key)| folder.write(name, key));
    let serving = Serving::start(&policies, &["--api-key-file", &keys]);
    let code = |keys: &str| serving.check(&["checkout", "--api-key-file", keys]).code;
    assert_eq!((code(&old), code(&new)), (0, 1));
    folder.write("keys", "abracadabra\ntwo words\n");
    serving.signal("HUP");
    serving.logs("API keys were not reloaded", 1);
    assert!(serving.log().contains("keys:2: "), "{}", serving.log());
    assert_eq!((code(&old), code(&new)), (0, 1));
    folder.write("keys", "abracadabra\n");
    serving.signal("HUP");
    serving.logs("API keys were reloaded", 1);
    assert_eq!((code(&old), code(&new)), (1, 0));
}

#[test]
fn a_bad_key_file_is_told_by_line_and_never_shown() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let keys = folder.write("keys", "sesame\nabra cadabra\n");
    let args = ["serve", "--listen", "127.0.0.1:0", "--policies", &policies];
    let mut command = program(&args);
    command.args(["--api-key-file", &keys]);
    let Ran { code, err, .. } = Ran::of(command);
    assert_eq!(code, 1);
    assert!(err.contains(&format!("error: {keys}:2: ")), "{err}");
    assert!(!err.contains("abra") && !err.contains("sesame"), "{err}");
}

#[test]
fn over_tls_the_agent_proves_who_it_is() {
    let folder = Folder::new();
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&folder, "agent");
    let ca = authority.write(&folder, "ca.pem");
    let stranger = Authority::new().write(&folder, "stranger.pem");
    let policies = folder.write("limit.yaml", limit(9));
    let keys = folder.write("keys", "sesame\n");
    let serving = Serving::start(
        &policies,
        &[
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
            "--api-key-file",
            &keys,
        ],
    );
    let check = |more: &[&str]| {
        let mut args = vec!["checkout", "--api-key-file", &*keys];
        args.extend(more);
        serving.check(&args).code
    };
    assert_eq!(check(&["--ca", &ca]), 0);
    assert_eq!(check(&["--ca", &stranger]), 1);
    assert_eq!(
        check(&["--tls"]),
        1,
        "the system does not know the authority"
    );
    assert_eq!(check(&[]), 1, "plaintext");
    assert_eq!(
        serving.check(&["checkout", "--ca", &ca]).code,
        1,
        "no API key"
    );
    let status = |ca: &str| {
        let command = program(&["status", "--once", "--addr", &serving.address, "--ca", ca]);
        let mut command = command;
        command.args(["--api-key-file", &keys]);
        Ran::of(command)
    };
    let Ran { code, out, err } = status(&ca);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("`limit`") || out.contains("limit"), "{out}");
    assert_eq!(status(&stranger).code, 1);
}

#[test]
fn clients_may_have_to_prove_who_they_are() {
    let folder = Folder::new();
    let (authority, clients) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.issue(&folder, "agent");
    let ca = authority.write(&folder, "ca.pem");
    let client_ca = clients.write(&folder, "clients.pem");
    let (good, good_key) = clients.issue(&folder, "good");
    let (stranger, stranger_key) = Authority::new().issue(&folder, "stranger");
    let policies = folder.write("limit.yaml", limit(9));
    let serving = Serving::start(
        &policies,
        &[
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
            "--client-ca",
            &client_ca,
        ],
    );
    let check = |more: &[&str]| {
        let mut args = vec!["checkout", "--ca", &*ca];
        args.extend(more);
        serving.check(&args).code
    };
    assert_eq!(check(&["--cert", &good, "--key", &good_key]), 0);
    assert_eq!(check(&["--cert", &stranger, "--key", &stranger_key]), 1);
    assert_eq!(check(&[]), 1);
}

#[test]
fn a_hangup_rereads_the_certificates_and_bad_ones_change_nothing() {
    let folder = Folder::new();
    let (old, new) = (Authority::new(), Authority::new());
    let (certificate, key) = old.issue(&folder, "agent");
    let old_ca = old.write(&folder, "old-ca.pem");
    let new_ca = new.write(&folder, "new-ca.pem");
    let policies = folder.write("limit.yaml", limit(9));
    let args = ["--tls-cert", &certificate, "--tls-key", &key];
    let serving = Serving::start(&policies, &args);
    let code = |ca: &str| serving.check(&["checkout", "--ca", ca]).code;
    assert_eq!((code(&old_ca), code(&new_ca)), (0, 1));
    // A certificate without its key, as while the two are being written.
    let (fresh, fresh_key) = new.issue(&folder, "fresh");
    let read = |path: &str| std::fs::read(path).expect("it was written");
    folder.write("agent.pem", read(&fresh));
    serving.signal("HUP");
    serving.logs("TLS certificates were not reloaded", 1);
    assert_eq!((code(&old_ca), code(&new_ca)), (0, 1));
    folder.write("agent.key", read(&fresh_key));
    serving.signal("HUP");
    serving.logs("TLS certificates were reloaded", 1);
    assert_eq!((code(&old_ca), code(&new_ca)), (1, 0));
}

#[test]
fn a_hangup_rereads_the_authorities_of_prometheus_and_bad_ones_change_nothing() {
    let folder = Folder::new();
    let authority = Authority::new();
    let ca = authority.write(&folder, "ca.pem");
    let policies = folder.write("limit.yaml", limit(9));
    let args = [
        "--prometheus",
        "https://127.0.0.1:1",
        "--prometheus-ca",
        &ca,
    ];
    let serving = Serving::start(&policies, &args);
    let bad = [
        "no PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ];
    for (times, bad) in (1..).zip(bad) {
        folder.write("ca.pem", bad);
        serving.signal("HUP");
        serving.logs("authorities of Prometheus were not reloaded", times);
    }
    Authority::new().write(&folder, "ca.pem");
    serving.signal("HUP");
    serving.logs("authorities of Prometheus were reloaded", 1);
    assert_eq!(serving.check(&["checkout"]).code, 0);
}
