//! What files mean, and that nothing in them can break the reading or give a secret away.

mod carriage;
mod fixed;
mod mistakes;
mod own;
mod pools;
mod redirect;
mod revocation;

use std::{net::IpAddr, os::unix::fs::PermissionsExt as _, time::Duration};

use ike::{
    crypto::{Encryption, Group, Prf, SignatureScheme},
    kernel::EspCipher,
    peer::{Credential, Proof, Suspend},
    sa::proposal::EspProposal,
};
use tempfile::TempDir;

use super::*;

const GOOD: &str = r#"
[daemon]
listen = ["192.0.2.1"]
node = 7
workers = 2
[resume]
ticket_lifetime = "2h"
[gate]
mode = "generic"
interfaces = ["eth0"]
denied = ["203.0.113.0/24", "2001:db8:bad::/48", "198.51.100.7"]
[log]
level = "debug"

[connections.rw]
local_addrs = "192.0.2.1"
remote_addrs = ["198.51.100.7"]
proposals = ["aes128gcm16-prfsha256-x25519-ecp256"]
dpd_delay = "10s"
fragment_size = 1400
start = "up"
local = { auth = "psk", id = "gw.example" }
remote = { auth = "psk", id = "client.example" }
[connections.rw.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = "10.2.0.0/24"
esp_proposals = ["chacha20poly1305-ecp384-noesn", "aes128gcm16"]
"#;

const SECRETS: &str = r#"
[secrets.client]
id = "client.example"
secret = "0x736573616d65"
"#;

/// A connection with nothing wrong in it but what `{}` is replaced with.
const SMALL: &str = "[connections.rw]
psk = \"swordfish\"
local = { auth = \"psk\", id = \"gw.example\" }
remote = { auth = \"psk\", id = \"client.example\" }
{}
[connections.rw.children.net]
local_ts = [\"10.1.0.0/24\"]
remote_ts = [\"10.2.0.0/24\"]
";

struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(TempDir::new().expect("temporary folder"));
        for (name, text) in files {
            folder.put(name, text.as_bytes(), 0o600);
        }
        folder
    }

    fn put(&self, name: &str, octets: &[u8], mode: u32) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("folder");
        fs::write(&path, octets).expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(&self.0.path().join("rekindle.toml"))
    }

    /// The problems as `file:line: key: what`, without folder and column.
    fn problems(&self) -> Vec<String> {
        let Err(errors) = self.load() else {
            return Vec::new();
        };
        let shorten = |problem: &Problem| {
            let file = problem
                .file
                .strip_prefix(self.0.path())
                .expect("below the folder");
            let line = problem.place.map_or(0, |(line, _)| line);
            format!(
                "{}:{line}: {}: {}",
                file.display(),
                problem.key,
                problem.what
            )
        };
        errors.problems.iter().map(shorten).collect()
    }
}

fn problems(main: &str) -> Vec<String> {
    Folder::new(&[("rekindle.toml", main)]).problems()
}

fn load(main: &str) -> Config {
    Folder::new(&[("rekindle.toml", main)])
        .load()
        .expect("a good file")
}

#[test]
fn cpus_are_named_as_the_kernel_lists_them() {
    let of = |text: &str| load(text).gate.steer_cpus;
    let steered = "[gate]\nsteer = \"cpumap\"\nsteer_cpus = \"4, 1-2,2\"";
    assert_eq!(of(steered), [1, 2, 4]);
    assert_eq!(of("[gate]\nsteer = \"off\"\nsteer_cpus = \"0\""), [0; 0]);
    assert_eq!(of("[gate]\nmode = \"auto\""), [0; 0]);
}

#[test]
fn a_connection_has_one_address_or_several_and_may_stay_where_it_is() {
    let of = |line: &str| {
        let config = load(&SMALL.replace("{}", line));
        let one = config.connections.into_iter().next().expect("a connection");
        (one.local_addr, one.more_addrs, one.mobike)
    };
    let address = |text: &str| text.parse::<IpAddr>().expect("address");
    assert_eq!(of(""), (None, vec![], true));
    assert_eq!(
        of("local_addrs = \"%any\"\nmobike = false"),
        (None, vec![], false)
    );
    let three = of("local_addrs = [\"192.0.2.1\", \"192.0.2.2\", \"2001:db8::1\"]");
    let more = vec![address("192.0.2.2"), address("2001:db8::1")];
    assert_eq!(three, (Some(address("192.0.2.1")), more, true));
}

#[test]
fn a_full_file_is_read() {
    let folder = Folder::new(&[("rekindle.toml", GOOD), ("secrets.toml", SECRETS)]);
    let config = folder.load().expect("a good file");
    assert_eq!(
        config.daemon.listen,
        ["192.0.2.1".parse::<IpAddr>().expect("address")]
    );
    assert_eq!((config.daemon.node, config.daemon.ike_port), (7, 500));
    assert_eq!(config.daemon.workers, 2);
    assert_eq!(config.gate.mode, GateMode::Generic);
    assert_eq!(config.gate.interfaces, ["eth0"]);
    let bits: Vec<_> = config.gate.denied.iter().map(|one| one.key().0).collect();
    assert_eq!(bits, [120, 48, 128]);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.start_up.len(), 1);

    let [rw] = config.connections.as_slice() else {
        panic!("one connection")
    };
    assert_eq!(&*rw.name, "rw");
    assert_eq!(rw.remote_addr, "198.51.100.7".parse().ok());
    assert_eq!(rw.remote_port, 500);
    assert_eq!(rw.local.id.to_string(), "gw.example");
    assert_eq!(
        rw.remote.id.as_ref().map(ToString::to_string).as_deref(),
        Some("client.example")
    );
    let Credential::PreShared(psk) = &rw.local.credential else {
        panic!("a PSK")
    };
    assert_eq!(psk.expose(), b"sesame");
    assert!(matches!(&rw.remote.proof, Proof::PreShared(psk) if psk.expose() == b"sesame"));
    let suites: Vec<_> = rw
        .ike_suites
        .iter()
        .map(|one| (one.encryption, one.prf, one.group))
        .collect();
    let (cipher, prf) = (Encryption::AesGcm128, Prf::HmacSha256);
    assert_eq!(
        suites,
        [(cipher, prf, Group::X25519), (cipher, prf, Group::P256)]
    );
    let strict = EspProposal {
        ciphers: vec![EspCipher::ChaCha20Poly1305],
        groups: vec![Group::P384],
        esn: vec![false],
    };
    let other = EspProposal::of(&[EspCipher::AesGcm128]);
    assert_eq!(rw.children[0].proposals, [strict, other]);
    assert_eq!(rw.children[0].remote_ts.len(), 1);
    assert_eq!(rw.liveness, Duration::from_secs(10));
    assert_eq!(rw.fragment_size, Some(1400));
    assert_eq!(rw.resume.ticket_lifetime, Duration::from_hours(2));
    assert!(rw.resume.enabled);
}

#[test]
fn where_a_session_sleeps_and_what_its_ticket_holds_are_chosen_and_void_nothing() {
    let resume = |settings: &str, of_connection: &str| {
        let config = load(&(settings.to_owned() + &SMALL.replace("{}", of_connection)));
        (config.connections[0].resume, config.connections[0].digest)
    };
    let (plain, digest) = resume("", "");
    assert_eq!(
        (plain.suspend, plain.by_reference),
        (Suspend::Memory, false)
    );
    for (word, form) in [
        ("memory", Suspend::Memory),
        ("expire", Suspend::Expire),
        ("disk", Suspend::Disk),
    ] {
        let (one, same) = resume("", &format!("suspend = \"{word}\""));
        assert_eq!((one.suspend, same), (form, digest));
    }
    let everywhere = "[resume]\ntickets = \"reference\"\n";
    let (one, same) = resume(everywhere, "");
    assert_eq!((one.by_reference, same), (true, digest));
    assert!(!resume(everywhere, "tickets = \"value\"").0.by_reference);
    assert!(resume("", "tickets = \"reference\"").0.by_reference);
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = load("");
    assert_eq!(config.daemon, DaemonConfig::default());
    assert_eq!(config.resume, ResumeConfig::default());
    assert!(config.connections.is_empty());
}

#[test]
fn default_proposals_start_with_the_best() {
    let config = load(&SMALL.replace("{}", "proposals = \"default\""));
    let suites = &config.connections[0].ike_suites;
    assert_eq!(suites.len(), 18);
    let first = suites[0];
    assert_eq!(first.encryption, Encryption::AesGcm256);
    assert_eq!((first.prf, first.group), (Prf::HmacSha256, Group::X25519));
    assert_eq!(
        load(&SMALL.replace("{}", "")).connections[0].ike_suites,
        *suites
    );
}

#[test]
fn all_mistakes_of_a_file_are_found_in_one_run() {
    let text = SMALL
        .replace("{}", "dpd_delay = true\nproposals = \"rot13\"")
        .replace("10.1.0.0/24", "10.1")
        .replace("gw.example", "N=x");
    let found = problems(&format!("{text}\n[gate]\nmod = 1"));
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn a_flood_of_mistakes_is_counted_but_not_listed() {
    use std::fmt::Write as _;
    let text = (0..200).fold(String::new(), |mut text, number| {
        writeln!(text, "key{number} = 1").expect("String");
        text
    });
    let errors = Folder::new(&[("rekindle.toml", &text)])
        .load()
        .expect_err("200 problems");
    assert_eq!(
        (errors.problems.len(), errors.unlisted),
        (MAX_PROBLEMS, 150)
    );
    assert!(errors.to_string().ends_with("... and 150 more"));
}

#[test]
fn a_problem_prints_with_file_line_and_column() {
    let errors = Folder::new(&[("rekindle.toml", "[log]\nlevel = 3")])
        .load()
        .expect_err("wrong");
    let text = errors.to_string();
    assert!(
        text.ends_with("rekindle.toml:2:9: log.level: must be a string, not an integer"),
        "{text}"
    );
}

#[test]
fn a_missing_file_is_a_problem() {
    let found = Folder::new(&[]).problems();
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("rekindle.toml:0: : cannot be read"),
        "{found:?}"
    );
}

#[test]
fn secrets_that_the_world_can_read_are_refused() {
    let folder = Folder::new(&[("rekindle.toml", GOOD)]);
    folder.put("secrets.toml", SECRETS.as_bytes(), 0o644);
    let found = folder.problems();
    assert!(
        found[0].starts_with("secrets.toml:2: secrets: everybody"),
        "{found:#?}"
    );

    let folder = Folder::new(&[]);
    folder.put("rekindle.toml", SMALL.replace("{}", "").as_bytes(), 0o644);
    let found = folder.problems();
    assert!(
        found[0].starts_with("rekindle.toml:2: connections.rw.psk: everybody"),
        "{found:#?}"
    );
    folder.put("rekindle.toml", SMALL.replace("{}", "").as_bytes(), 0o640);
    assert!(folder.load().is_ok());
}

#[test]
fn no_secret_is_printed() {
    let main = SMALL.replace("{}", "").replace("swordfish", "0xswordfish");
    let secrets =
        "[secrets.a]\nsecret = 0swordfish\nid = \"x\"\n[secrets.b]\nsecret = [\"swordfish\"]";
    for files in [
        vec![("rekindle.toml", main.as_str())],
        vec![("rekindle.toml", ""), ("secrets.toml", secrets)],
        vec![("rekindle.toml", "[secrets.a]\nsecret = \"swordfish")],
        vec![("rekindle.toml", "[secrets.a]\nsecret = swordfish")],
        vec![("rekindle.toml", "[secrets.a]\nsecret = \"0sswordfish*\"\n")],
    ] {
        let errors = Folder::new(&files).load().expect_err("wrong");
        assert!(
            !format!("{errors} {errors:?}").contains("swordfish"),
            "{errors}"
        );
    }
    let config = load(&SMALL.replace("{}", ""));
    assert!(!format!("{config:?}").contains("swordfish"));
}

#[test]
fn drop_ins_are_read_in_order_and_later_settings_win() {
    let other = SMALL.replace("{}", "").replace("rw", "other");
    let folder = Folder::new(&[
        (
            "rekindle.toml",
            "[log]\nlevel = \"warn\"\n[daemon]\nnode = 1",
        ),
        ("conf.d/20-b.toml", "[log]\nlevel = \"trace\""),
        (
            "conf.d/10-a.toml",
            &format!("[log]\nlevel = \"error\"\n{}", SMALL.replace("{}", "")),
        ),
        ("conf.d/30-c.toml", &other),
        ("conf.d/ignored.bak", "nonsense"),
    ]);
    let config = folder.load().expect("good files");
    assert_eq!((config.log.level, config.daemon.node), (LogLevel::Trace, 1));
    let names: Vec<&str> = config.connections.iter().map(|one| &*one.name).collect();
    assert_eq!(names, ["rw", "other"]);

    folder.put("conf.d/40-d.toml", other.as_bytes(), 0o600);
    let found = folder.problems();
    assert!(
        found[0].starts_with("conf.d/40-d.toml:1: connections.other: is defined"),
        "{found:#?}"
    );
}

const CERTIFIED: &str = r#"
[connections.rw]
local = { id = "gw.example", cert = "gw.pem", key = "gw.key" }
remote = { auth = "pubkey", cacerts = ["ca.pem"] }
[connections.rw.children.net]
local_ts = "10.1.0.0/24"
remote_ts = "10.2.0.0/24"
"#;
const CERTIFICATE: &[u8] = include_bytes!("fixtures/gw.pem");
const AUTHORITY: &[u8] = include_bytes!("fixtures/ca.pem");
const KEY_SEC1: &[u8] = include_bytes!("fixtures/gw.sec1.pem");
const KEY_PKCS8: &[u8] = include_bytes!("fixtures/gw.pkcs8.pem");
const KEY_P384: &[u8] = include_bytes!("fixtures/p384.pem");
const KEY_P521: &[u8] = include_bytes!("fixtures/p521.pem");
const KEY_ED25519: &[u8] = include_bytes!("fixtures/ed25519.pem");
const PUBLIC_KEY: &[u8] = include_bytes!("fixtures/pub.pem");
const CRL: &[u8] = include_bytes!("fixtures/crl.pem");
const KEY_RSA: &[u8] = include_bytes!("fixtures/rsa.pem");

#[test]
fn certificates_and_both_key_formats_are_read() {
    for key in [KEY_SEC1, KEY_PKCS8] {
        let folder = Folder::new(&[("rekindle.toml", CERTIFIED)]);
        folder.put("x509/gw.pem", CERTIFICATE, 0o644);
        folder.put("x509ca/ca.pem", AUTHORITY, 0o644);
        folder.put("gw.key", key, 0o600);
        let config = folder.load().expect("a good file");
        let rw = &config.connections[0];
        let Credential::Certificate(chain) = &rw.local.credential else {
            panic!("a chain")
        };
        assert_eq!(chain.certificates.len(), 1);
        assert!(matches!(&rw.remote.proof, Proof::Certificate(anchors) if anchors.len() == 1));
        assert!(rw.remote.id.is_none());
        let key = config.private_keys.get("rw").expect("a key");
        let signature = key
            .sign(SignatureScheme::EcdsaP256Sha256, b"octets")
            .expect("signs");
        let point = chain.certificates[0]
            .windows(65)
            .find(|window| key.belongs_to(window))
            .expect("the public key");
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, point)
            .verify(b"octets", &signature)
            .expect("verifies");
    }
}

#[test]
fn bad_certificate_files_are_named() {
    let folder = Folder::new(&[("rekindle.toml", CERTIFIED)]);
    let found = folder.problems().join("\n");
    assert!(
        found.contains("rekindle.toml:3: connections.rw.local.cert: "),
        "{found}"
    );
    assert!(
        found.contains("rekindle.toml:3: connections.rw.local.key: "),
        "{found}"
    );
    assert!(
        found.contains("rekindle.toml:4: connections.rw.remote.cacerts: "),
        "{found}"
    );

    folder.put("gw.pem", CERTIFICATE, 0o644);
    folder.put("ca.pem", AUTHORITY, 0o644);
    for (octets, mode, word) in [
        (KEY_SEC1, 0o644, "chmod"),
        (KEY_P521, 0o600, "is no ECDSA key on P-256 or P-384"),
        (KEY_P384, 0o600, "does not belong to the first certificate"),
        (
            KEY_ED25519,
            0o600,
            "does not belong to the first certificate",
        ),
        (KEY_RSA, 0o600, "does not belong to the first certificate"),
        (CERTIFICATE, 0o600, "holds no private key"),
        (&b"hello"[..], 0o600, "is neither PEM nor the DER"),
    ] {
        folder.put("gw.key", octets, mode);
        let found = folder.problems();
        assert!(
            found.len() == 1 && found[0].contains(word),
            "{word}: {found:#?}"
        );
    }
    folder.put("gw.key", KEY_SEC1, 0o600);
    folder.put("ca.pem", &[0x30, 0], 0o644);
    assert!(folder.problems()[0].contains("ca.pem: is not an X.509 certificate"));
    folder.put("ca.pem", AUTHORITY, 0o644);
    folder.put("gw.pem", AUTHORITY, 0o644);
    assert!(folder.problems()[0].contains("does not belong to the first certificate"));
    folder.put("gw.pem", b"-----BEGIN CERTIFICATE-----\nAAAA", 0o644);
    assert_eq!(folder.problems().len(), 1);
    folder.put(
        "gw.pem",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        0o644,
    );
    assert!(folder.problems()[0].contains("does not hold X.509"));
}

#[test]
fn the_digest_follows_the_settings_and_not_the_text() {
    let digest = |text: &str| load(text).connections[0].digest;
    let plain = SMALL.replace("{}", "");
    let same = SMALL.replace("{}", "# a comment\ndpd_delay = 30\nproposals = \"default\"");
    assert_eq!(digest(&plain), digest(&same));
    for (old, new) in [
        ("swordfish", "swordfisH"),
        ("client.example", "klient.example"),
        ("10.2.0.0/24", "10.2.0.0/25"),
        ("psk = ", "dpd_delay = 1\npsk = "),
        ("local_ts", "esp_proposals = \"aes256gcm16\"\nlocal_ts"),
    ] {
        assert_ne!(
            digest(&plain),
            digest(&plain.replacen(old, new, 1)),
            "{new}"
        );
    }
}

#[test]
fn truncated_and_damaged_files_never_panic() {
    let folder = Folder::new(&[("secrets.toml", SECRETS)]);
    for end in 0..=GOOD.len() {
        folder.put("rekindle.toml", &GOOD.as_bytes()[..end], 0o600);
        let _whatever = folder.load();
    }
    // A fixed walk through single-octet damage, so that a failure repeats.
    let mut state = 1_u32;
    for _ in 0..2000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut octets = GOOD.as_bytes().to_vec();
        let at = (state >> 8) as usize % octets.len();
        octets[at] = (state >> 24) as u8;
        folder.put("rekindle.toml", &octets, 0o600);
        let _whatever = folder.load();
    }
    let deep = "a = ".to_owned() + &"[".repeat(100_000);
    assert!(!problems(&deep).is_empty());
}

#[test]
fn the_example_of_the_readme_is_read() {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("```toml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    // Both files in one: secrets may stand in the main file if the world cannot read it.
    let config = load(example);
    assert_eq!(config.connections.len(), 1);
}

#[test]
fn the_operations_page_lists_every_key() {
    let page = include_str!("../../../docs/operations.md");
    let lists = [
        DaemonConfig::KEYS,
        ResumeConfig::KEYS,
        GateConfig::KEYS,
        LogConfig::KEYS,
        RedirectConfig::KEYS,
        connection::KEYS,
        authentication::LOCAL_KEYS,
        authentication::REMOTE_KEYS,
        &child::KEYS,
        &super::carriage::KEYS,
        pool::KEYS,
    ];
    for key in lists.into_iter().flatten() {
        let listed = page.contains(&format!(".{key}`")) || page.contains(&format!(".{key}."));
        assert!(listed, "{key} is not in docs/operations.md");
    }
}

#[test]
fn a_cipher_is_combined_with_what_authenticates_it() {
    let with = |line: &str| SMALL.replace("{}", line);
    let config = load(&with(
        "proposals = [\"aes128-aes256-sha256-sha2_512-ecp256\", \"aes-sha384-prfsha512-ecp384\"]",
    ));
    let suites = &config.connections[0].ike_suites;
    let names: Vec<_> = suites.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), 9);
    assert_eq!(names[0], "aes128-sha256-prfsha256-ecp256");
    assert_eq!(names[7], "aes256-sha512-prfsha512-ecp256");
    assert_eq!(names[8], "aes128-sha384-prfsha512-ecp384");
    let config = load(&with("").replace(
        "remote_ts",
        "esp_proposals = \"aes256-sha384-noesn\"\nremote_ts",
    ));
    let proposals = &config.connections[0].children[0].proposals;
    let shown: Vec<_> = proposals.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["aes256-sha384-noesn"]);
    // Nobody gets them who has not asked.
    let config = load(&with(""));
    let connection = &config.connections[0];
    let own = connection.ike_suites.iter().map(|suite| suite.encryption);
    let esp = connection.children[0].proposals.iter();
    let mut all = own.chain(esp.flat_map(|one| one.ciphers.iter().copied()));
    assert!(all.all(|cipher| cipher.integrity().is_none()));
}
