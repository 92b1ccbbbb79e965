//! Which callers `serve` accepts: API keys, TLS and client certificates.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::program::{Folder, RunResult, Serving, limit, program};

/// An authority that writes its certificates to files.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub(crate) fn write(&self, folder: &Folder, name: &str) -> String {
        folder.write(name, self.0.pem())
    }

    /// Writes a certificate for 127.0.0.1 and its key, and returns their paths.
    pub(crate) fn issue(&self, folder: &Folder, name: &str) -> (String, String) {
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
fn callers_without_a_known_key_are_refused_and_logged() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(9));
    let keys = folder.write("keys", "# of the tests\nsesame\n\nabracadabra\n");
    let serving = Serving::start(&policies, &["--api-key-file", &keys]);
    let wrong = folder.write("wrong", "simsalabim\n");
    for more in [&[][..], &["--api-key-file", &wrong]] {
        let mut args = vec!["checkout"];
        args.extend(more);
        let RunResult { code, out, err } = serving.check(&args);
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(
            err.contains("unreachable") && err.contains("API key"),
            "{err}"
        );
    }
    serving.wait_for_log("UNAUTHENTICATED", 1);
    assert_eq!(
        serving.check(&["checkout", "--api-key-file", &keys]).code,
        0
    );
    let mut command = program(&["check", "checkout", "--addr", &serving.address]);
    command.env("APERTURE_API_KEY", "abracadabra");
    assert_eq!(RunResult::of(command).code, 0);
    let log = serving.log();
    for secret in ["sesame", "abracadabra", "simsalabim"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn sighup_reloads_keys_and_an_invalid_key_file_changes_nothing() {
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
    serving.wait_for_log("API keys were not reloaded", 1);
    assert!(serving.log().contains("keys:2: "), "{}", serving.log());
    assert_eq!((code(&old), code(&new)), (0, 1));
    folder.write("keys", "abracadabra\n");
    serving.signal("HUP");
    serving.wait_for_log("API keys were reloaded", 1);
    assert_eq!((code(&old), code(&new)), (1, 0));
}

#[test]
fn the_error_about_an_invalid_key_file_names_the_line_and_contains_no_key() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let keys = folder.write("keys", "sesame\nabra cadabra\n");
    let args = ["serve", "--listen", "127.0.0.1:0", "--policies", &policies];
    let mut command = program(&args);
    command.args(["--api-key-file", &keys]);
    let RunResult { code, err, .. } = RunResult::of(command);
    assert_eq!(code, 1);
    assert!(err.contains(&format!("error: {keys}:2: ")), "{err}");
    assert!(!err.contains("abra") && !err.contains("sesame"), "{err}");
}

#[test]
fn clients_verify_the_certificate_of_the_agent() {
    let folder = Folder::new();
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&folder, "agent");
    let ca = authority.write(&folder, "ca.pem");
    let other = Authority::new().write(&folder, "other.pem");
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
    assert_eq!(check(&["--ca", &other]), 1);
    assert_eq!(
        check(&["--tls"]),
        1,
        "the system does not trust the authority"
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
        RunResult::of(command)
    };
    let RunResult { code, out, err } = status(&ca);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let row = ["limit", "root.0", "rate_limiter"];
    assert!(
        out.lines()
            .any(|line| line.split_whitespace().take(3).eq(row)),
        "{out}"
    );
    assert_eq!(status(&other).code, 1);
}

#[test]
fn the_agent_verifies_the_certificates_of_clients() {
    let folder = Folder::new();
    let (authority, clients) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.issue(&folder, "agent");
    let ca = authority.write(&folder, "ca.pem");
    let client_ca = clients.write(&folder, "clients.pem");
    let (good, good_key) = clients.issue(&folder, "good");
    let (other, other_key) = Authority::new().issue(&folder, "other");
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
    assert_eq!(check(&["--cert", &other, "--key", &other_key]), 1);
    assert_eq!(check(&[]), 1);
}

#[test]
fn sighup_reloads_certificates_and_invalid_ones_change_nothing() {
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
    // The certificate is new and the key still old, as between the two writes.
    let (fresh, fresh_key) = new.issue(&folder, "fresh");
    let read = |path: &str| std::fs::read(path).expect("it was written");
    folder.write("agent.pem", read(&fresh));
    serving.signal("HUP");
    serving.wait_for_log("TLS certificates were not reloaded", 1);
    assert_eq!((code(&old_ca), code(&new_ca)), (0, 1));
    folder.write("agent.key", read(&fresh_key));
    serving.signal("HUP");
    serving.wait_for_log("TLS certificates were reloaded", 1);
    assert_eq!((code(&old_ca), code(&new_ca)), (1, 0));
}

#[test]
fn sighup_reloads_the_authorities_of_prometheus_and_invalid_ones_change_nothing() {
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
        serving.wait_for_log("authorities of Prometheus were not reloaded", times);
    }
    Authority::new().write(&folder, "ca.pem");
    serving.signal("HUP");
    serving.wait_for_log("authorities of Prometheus were reloaded", 1);
    assert_eq!(serving.check(&["checkout"]).code, 0);
}
