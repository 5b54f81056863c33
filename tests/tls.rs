//! Redis over TLS, with certificates made for the test.

mod support;

use std::path::Path;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use support::redis_server::free_port;
use support::{Handlerd, Redis, Run, Watcher, wait_until};

/// An authority that signs, and its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    /// Write the authority's own certificate.
    fn write(&self, file: &Path) {
        std::fs::write(file, self.certificate.pem()).expect("a file is written");
    }

    /// Write a certificate for these names, and its key beside it as `.key`.
    fn issue(&self, names: &[&str], file: &Path) {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let params = CertificateParams::new(names).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(file, certificate.pem()).expect("a file is written");
        std::fs::write(file.with_extension("key"), key.serialize_pem()).expect("a file is written");
    }
}

/// A Redis with a TLS port, and the folder with everybody's files.
struct Scene {
    redis: Redis,
    port: u16,
    dir: tempfile::TempDir,
}

fn scene(names: &[&str], clients: &str) -> Scene {
    let dir = Handlerd::folder();
    let authority = Authority::new("the right one");
    authority.write(&dir.path().join("ca.pem"));
    authority.issue(names, &dir.path().join("server.pem"));
    authority.issue(&["handlerd"], &dir.path().join("client.pem"));
    Authority::new("another one").write(&dir.path().join("other.pem"));
    let port = free_port();
    let path = dir.path().display();
    let redis = Redis::with(&format!(
        "tls-port {port}\ntls-cert-file {path}/server.pem\ntls-key-file {path}/server.key\n\
         tls-ca-cert-file {path}/ca.pem\ntls-auth-clients {clients}"
    ));
    Scene { redis, port, dir }
}

fn config(port: u16, files: &str) -> String {
    format!(
        "[redis]\nurl = \"rediss://127.0.0.1:{port}\"\ntls = {{ {files} }}\n\
         [channels.chat]\nhandlers = [\"announce\"]\npublish = \"out\"\n"
    )
}

#[track_caller]
fn works(scene: Scene, files: &str) {
    let out = Watcher::subscribe(&scene.redis, &["out"]);
    let mut daemon = Handlerd::start_in(scene.dir, &config(scene.port, files), &[]);
    scene.redis.wait_subscribed("chat", 1);
    scene.redis.client().publish("chat", "over TLS");
    assert_eq!(out.wait_texts(1), ["Received message 'over TLS' from channel 'chat'"]);
    // Much at once, so that records are split and joined.
    let payload = "x".repeat(100_000);
    scene.redis.client().publish_all("chat", (0..50).map(|_| &payload));
    assert!(out.wait_count(51).iter().skip(1).all(|got| got.payload.len() > payload.len()));
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn with_an_authority_of_ones_own() {
    works(scene(&["127.0.0.1"], "no"), "ca_file = \"ca.pem\"");
}

#[test]
fn with_a_certificate_of_the_client() {
    let files = "ca_file = \"ca.pem\", cert_file = \"client.pem\", key_file = \"client.key\"";
    works(scene(&["127.0.0.1"], "yes"), files);
}

/// A stream, with a certificate of the client and as the user whom `check --connect` describes.
#[test]
fn a_stream_with_a_user_who_may_do_what_is_needed_only() {
    let Scene { redis, port, dir } = scene(&["127.0.0.1"], "yes");
    let whole = |user: &str| {
        format!(
            "[redis]\nurl = \"rediss://127.0.0.1:{port}\"\n{user}\
             tls = {{ ca_file = \"ca.pem\", cert_file = \"client.pem\", key_file = \"client.key\" }}\n\
             [channels.orders]\nstream = \"orders\"\ngroup = \"billing\"\nstart = \"oldest\"\n\
             handlers = [\"announce\"]\nappend = \"orders.done\"\npublish = \"orders.said\"\n"
        )
    };
    let file = dir.path().join("config.toml");
    std::fs::write(&file, whole("")).expect("a file is written");
    std::fs::write(dir.path().join("password"), "PASSWORD").expect("a file is written");
    let check = ["check", "--connect", "--config", file.to_str().expect("a name")];
    let text = Run::new(&check).output().expect(0).text();
    let line = text.lines().find(|line| line.trim().starts_with("ACL SETUSER handlerd "));
    let words: Vec<&str> = line.expect("the ACL line").split_whitespace().collect();
    redis.run::<()>(&words);
    // Nobody else may do anything.
    redis.run::<()>(&["ACL", "SETUSER", "default", "off"]);

    let said = Watcher::subscribe(&redis, &["orders.said"]);
    let config = whole("username = \"handlerd\"\npassword_file = \"password\"\n");
    let mut daemon = Handlerd::start_in(dir, &config, &[]);
    let large = "x".repeat(100_000);
    let add = |payload: &str| redis.run::<String>(&["XADD", "orders", "*", "payload", payload]);
    let done = |entries: u64| {
        wait_until("done", || redis.run::<u64>(&["XLEN", "orders.done"]) >= entries);
    };
    (0..50).for_each(|_| drop(add(&large)));
    done(50);
    // New connections are as good as the first.
    redis.run::<u64>(&["CLIENT", "KILL", "USER", "handlerd"]);
    add("over TLS");
    done(51);
    let last = said.wait_count(51).pop().expect("the last");
    assert_eq!(last.payload, b"Received message 'over TLS' from channel 'orders'");
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
    assert_eq!(redis.run::<redis::Value>(&["ACL", "LOG"]), redis::Value::Array(Vec::new()));
}

/// The sentence that the log has about a Redis that isn't trusted; handlerd goes on trying.
#[track_caller]
fn refused(scene: Scene, files: &str, words: &[&str]) {
    let mut daemon = Handlerd::start_in(scene.dir, &config(scene.port, files), &[]);
    let address = format!("127.0.0.1:{}", scene.port);
    daemon.wait_log(&[&[address.as_str()], words].concat());
    assert!(daemon.runs());
    assert_eq!(scene.redis.client().subscribers("chat"), 0);
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn an_unknown_authority_is_refused() {
    refused(scene(&["127.0.0.1"], "no"), "ca_file = \"other.pem\"", &["certificate"]);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    refused(scene(&["redis.example.com"], "no"), "ca_file = \"ca.pem\"", &["certificate"]);
}

#[test]
fn a_file_without_certificates_is_named() {
    let files = "ca_file = \"config.toml\"";
    let scene = scene(&["127.0.0.1"], "no");
    let mut daemon = Handlerd::start_in(scene.dir, &config(scene.port, files), &[]);
    // Whether it is found out at the start or at the first connection, it is a sentence.
    daemon.wait_log(&["config.toml", "certificate"]);
}
