//! Certificates, keys and tokens are files that others replace: the daemon goes on with the new ones, as
//! does its list of Nodes, without a restart.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::misbehaving::{OF_LAB, State, answer};
use crate::nodes::{Node, WatchingNode};
use common::run;
use common::wait::wait_until;

/// How long a node may be without news after its files have been replaced.
const LIMIT: Duration = Duration::from_secs(40);

/// Makes the certificates.
fn has_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    if !found {
        common::lab::skip("openssl is not installed");
    }
    found
}

/// A certificate authority.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let dir = Path::new("/run/authorities").join(name);
        fs::create_dir_all(&dir).unwrap();
        let authority = Self { dir };
        let subject = format!("/CN={name}");
        let mut arguments = request(
            &subject,
            &authority.path("ca.key"),
            &authority.path("ca.crt"),
        );
        arguments.extend(["-x509", "-days", "2"].map(str::to_owned));
        openssl(&arguments);
        authority
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The authority's own certificate.
    fn certificate(&self) -> String {
        fs::read_to_string(self.path("ca.crt")).unwrap()
    }

    /// A certificate for this name, and its key.
    fn issue(&self, name: &str, extensions: &str) -> (String, String) {
        let file = |end: &str| self.path(&format!("{name}.{end}"));
        let subject = format!("/CN={name}");
        openssl(&request(&subject, &file("key"), &file("request")));
        fs::write(file("extensions"), extensions).unwrap();
        let shown = |path: PathBuf| path.to_str().unwrap().to_owned();
        openssl(&[
            "x509".into(),
            "-req".into(),
            "-in".into(),
            shown(file("request")),
            "-CA".into(),
            shown(self.path("ca.crt")),
            "-CAkey".into(),
            shown(self.path("ca.key")),
            "-CAcreateserial".into(),
            "-days".into(),
            "2".into(),
            "-extfile".into(),
            shown(file("extensions")),
            "-out".into(),
            shown(file("crt")),
        ]);
        let read = |end: &str| fs::read_to_string(file(end)).unwrap();
        (read("crt"), read("key"))
    }

    /// That of the API server.
    fn server(&self) -> (String, String) {
        self.issue("api", &format!("subjectAltName=IP:{OF_LAB}"))
    }

    /// That of a node.
    fn client(&self) -> (String, String) {
        self.issue("node", "extendedKeyUsage=clientAuth")
    }
}

fn request(subject: &str, key: &Path, out: &Path) -> Vec<String> {
    let words = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj";
    let mut arguments: Vec<_> = words.split(' ').map(str::to_owned).collect();
    for word in [
        subject,
        "-keyout",
        key.to_str().unwrap(),
        "-out",
        out.to_str().unwrap(),
    ] {
        arguments.push(word.to_owned());
    }
    arguments
}

fn openssl(arguments: &[String]) {
    run("openssl", arguments);
}

/// An API server with TLS, whose certificates and demands can be changed.
struct SecureApi {
    port: u16,
    state: Arc<Mutex<State>>,
    settings: Arc<Mutex<Arc<ServerConfig>>>,
}

impl SecureApi {
    fn start(settings: ServerConfig, token: &str) -> Self {
        let listener = TcpListener::bind((OF_LAB, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::new(token)));
        let settings = Arc::new(Mutex::new(Arc::new(settings)));
        let shared = (state.clone(), settings.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (state, settings) = (shared.0.clone(), shared.1.lock().unwrap().clone());
                std::thread::spawn(move || -> std::io::Result<()> {
                    let session = ServerConnection::new(settings).map_err(std::io::Error::other)?;
                    let mut stream = StreamOwned::new(session, connection.try_clone()?);
                    // An error means that the client is gone, or has no right to be here.
                    answer(&mut stream, &connection, &state)?;
                    stream.conn.send_close_notify();
                    std::io::Write::flush(&mut stream)
                });
            }
        });
        Self {
            port,
            state,
            settings,
        }
    }

    fn change(&self, settings: ServerConfig) {
        *self.settings.lock().unwrap() = Arc::new(settings);
    }
}

/// A server with a certificate of one authority; a client needs one of the other, if there is one.
fn settings(own: &Authority, clients: Option<&Authority>) -> ServerConfig {
    let (certificate, key) = own.server();
    let parse = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    let builder = ServerConfig::builder();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(parse(&authority.certificate())).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    builder
        .with_single_cert(vec![parse(&certificate)], key)
        .unwrap()
}

/// Replaces a file as kubelet does: at once.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// A node whose daemon watches such a server.
struct Scene {
    api: SecureApi,
    watching: WatchingNode,
}

impl Scene {
    /// `prepare` writes the files of the daemon and returns its command, from the server's port.
    fn start(
        token: &str,
        prepare: impl FnOnce(&Node, u16) -> Command,
        settings: impl FnOnce() -> ServerConfig,
    ) -> Self {
        let (api, watching) = WatchingNode::start(|node| {
            let api = SecureApi::start(settings(), token);
            let command = prepare(node, api.port);
            (api, command)
        });
        Self { api, watching }
    }

    /// The server does not accept the daemon, or the other way round; then `mend` replaces files.
    #[track_caller]
    fn goes_on(&self, what: &str, change: impl FnOnce(&SecureApi), mend: impl FnOnce()) {
        let node = &self.watching.node;
        let errors = node.metric("pausenet_watch_errors_total");
        change(&self.api);
        let count = self.api.state.lock().unwrap().add_node();
        wait_until(&format!("{what}: it is noticed"), || {
            node.metric("pausenet_watch_errors_total") > errors
        });
        assert_ne!(node.metric("pausenet_nodes"), Some(count), "{what}");
        mend();
        let start = Instant::now();
        wait_until(&format!("{what}: it knows {count} Nodes"), || {
            node.metric("pausenet_nodes") == Some(count)
        });
        assert!(start.elapsed() < LIMIT, "{what}: {:?}", start.elapsed());
    }
}

fn write_kubeconfig(server: &str, cluster: Value, user: Value) -> PathBuf {
    let mut cluster = cluster;
    cluster["server"] = json!(server);
    let file = Path::new("/run/rotation/kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    fs::write(file, text.to_string()).unwrap();
    file.to_owned()
}

const FILES: &str = "/run/rotation";

#[test]
fn rotated_certificates_are_taken_from_their_files() {
    if !has_openssl() {
        return;
    }
    let file = |name: &str| Path::new(FILES).join(name);
    let write = |authority: &Authority| {
        let (certificate, key) = authority.client();
        // Both in one file, as kubelet's kubelet-client-current.pem.
        replace(&file("client.pem"), &(certificate + &key));
    };
    let authorities = std::cell::OnceCell::new();
    let scene = Scene::start(
        "",
        |node, port| {
            fs::create_dir_all(FILES).unwrap();
            let [first, ..]: &[Authority; 3] = authorities.get().unwrap();
            replace(&file("ca.crt"), &first.certificate());
            write(first);
            let kubeconfig = write_kubeconfig(
                &format!("https://{OF_LAB}:{port}"),
                json!({"certificate-authority": file("ca.crt")}),
                json!({"client-certificate": file("client.pem"), "client-key": file("client.pem")}),
            );
            node.command(&kubeconfig)
        },
        || {
            let [first, ..] =
                authorities.get_or_init(|| ["one", "two", "three"].map(Authority::new));
            settings(first, Some(first))
        },
    );
    let [first, second, third] = authorities.get().unwrap();
    scene.goes_on(
        "a client certificate of another authority",
        |api| api.change(settings(first, Some(second))),
        || write(second),
    );
    scene.goes_on(
        "a server certificate of another authority",
        |api| api.change(settings(third, Some(second))),
        || replace(&file("ca.crt"), &third.certificate()),
    );
    // While both are in use, the file has both.
    replace(
        &file("ca.crt"),
        &(second.certificate() + &third.certificate()),
    );
    scene.goes_on(
        "both authorities in one file",
        |api| api.change(settings(second, Some(first))),
        || write(first),
    );
}

#[test]
fn a_rotated_token_is_taken_from_its_file() {
    if !has_openssl() {
        return;
    }
    let file = Path::new(FILES).join("token");
    let authority = std::cell::OnceCell::new();
    let scene = Scene::start(
        "first",
        |node, port| {
            let authority: &Authority = authority.get().unwrap();
            fs::create_dir_all(FILES).unwrap();
            replace(&file, "first");
            let kubeconfig = write_kubeconfig(
                &format!("https://{OF_LAB}:{port}"),
                json!({"certificate-authority": authority.path("ca.crt")}),
                json!({"tokenFile": file}),
            );
            node.command(&kubeconfig)
        },
        || settings(authority.get_or_init(|| Authority::new("one")), None),
    );
    for token in ["second", "third"] {
        scene.goes_on(
            token,
            |api| api.state.lock().unwrap().token = token.into(),
            || replace(&file, token),
        );
    }
}

/// What a pod has in /var/run/secrets, which kubelet keeps up to date.
#[test]
fn a_rotated_token_and_authority_of_a_pod_s_account_are_taken_from_their_files() {
    if !has_openssl() {
        return;
    }
    let account = Path::new("/run/secrets/kubernetes.io/serviceaccount");
    let authorities = std::cell::OnceCell::new();
    let scene = Scene::start(
        "first",
        |node, port| {
            let [first, _]: &[Authority; 2] = authorities.get().unwrap();
            fs::create_dir_all(account).unwrap();
            replace(&account.join("ca.crt"), &first.certificate());
            replace(&account.join("token"), "first");
            replace(&account.join("namespace"), "kube-system");
            let mut command = node.command(Path::new(""));
            command
                .env_remove("PAUSENETD_KUBECONFIG")
                .env("KUBERNETES_SERVICE_HOST", OF_LAB)
                .env("KUBERNETES_SERVICE_PORT", port.to_string());
            command
        },
        || {
            let [first, _] = authorities.get_or_init(|| ["one", "two"].map(Authority::new));
            settings(first, None)
        },
    );
    let [_, second] = authorities.get().unwrap();
    scene.goes_on(
        "another token",
        |api| api.state.lock().unwrap().token = "second".into(),
        || replace(&account.join("token"), "second"),
    );
    scene.goes_on(
        "another authority",
        |api| api.change(settings(second, None)),
        || replace(&account.join("ca.crt"), &second.certificate()),
    );
}
