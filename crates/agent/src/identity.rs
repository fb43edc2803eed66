//! Who a node is to its peers: the cluster's certificate authority, one certificate per node, and what the cluster started
//! from. `init` makes them once, on one machine; every node then holds its own directory and nobody else's.
//!
//! A node is known by one DNS name in its certificate, `NODE.node.CLUSTER.backstay`, and by nothing that it says. Having a
//! certificate is not enough to be heard: membership is asked as well ([`crate::peer`]), so that a removed node is out at
//! once. The authority signs one level only (path length 0) and only names of its own cluster.
//!
//! Certificates of nodes last one year and that of the authority ten; nothing renews them yet, so [`Identity::load`] says
//! when fewer than 30 days are left. They begin 24 h early, so that nodes whose wall clocks differ can start.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstay_model::NodeName;
use backstay_spec::Spec;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, KeyUsage};

use crate::clock;

/// How long before now a new certificate begins, for nodes whose wall clocks are behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
/// How long the authority's certificate is valid.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a node's certificate is valid.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// With less life left than this, [`Identity::load`] warns.
const WARN_BEFORE_END: Duration = Duration::from_secs(30 * 24 * 3600);
/// No file of an identity is larger.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// A label of a DNS name, so also a cluster's or node's name, is at most this long (RFC 1035 §2.3.4).
const MAX_LABEL_BYTES: usize = 63;
/// Ids of voters stay below this, so that every JSON reader keeps them exact.
const RAFT_ID_LIMIT: u64 = 1 << 53;
/// The application protocol between agents.
pub const ALPN_H2: &[u8] = b"h2";

const CA_PEM: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const CERT_PEM: &str = "cert.pem";
const KEY_PEM: &str = "key.pem";
const CLUSTER_JSON: &str = "cluster.json";

/// What can be wrong with an identity. Nothing here gets better by trying again unchanged.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// `init` never overwrites.
    #[error(
        "{path} is already there, and new identities would lock out every node that uses the old ones: choose another \
         directory (`backstay init -c FILE --out DIR`), or move this one away first",
        path = path.display()
    )]
    AlreadyThere {
        /// What is there.
        path: PathBuf,
    },
    /// A name cannot stand in a certificate.
    #[error(
        "`{name}` cannot be the {what} of a certificate: use 1 to 63 letters, digits, `-` or `_`, none of `-` at an end, and \
         change it in the file"
    )]
    Name {
        /// `cluster` or `node`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {act} {path}: {source}", path = path.display())]
    File {
        /// `read`, `write`, …
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no identity here.
    #[error(
        "no identity in {path}: make one with `backstay init -c FILE --out DIR` and copy DIR/NODE to that place on its node",
        path = path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others on this machine could read the key, or change what is trusted.
    #[error("{path} is open to others (mode {mode:04o}): run `chmod {wanted:04o} {path}`", path = path.display())]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
    },
    /// The key belongs to another user of this machine.
    #[error("{path} belongs to uid {uid}, but this agent runs as uid {own}: run `chown {own} {path}`", path = path.display())]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Who we are.
        own: u32,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged: {why}; copy it again from where `backstay init` wrote it", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The identity of another cluster or node.
    #[error(
        "the identity in {path} is that of node `{found_node}` of cluster `{found_cluster}`, not of node `{node}` of cluster \
         `{cluster}`: state directory of another cluster or node",
        path = path.display()
    )]
    NotOurs {
        /// Where it lies.
        path: PathBuf,
        /// Whose it is.
        found_cluster: String,
        /// Whose it is.
        found_node: NodeName,
        /// Who we should be.
        cluster: String,
        /// Who we should be.
        node: NodeName,
    },
    /// The certificate has ended.
    #[error(
        "the certificate of node `{node}` in {path} ended {days} days ago: no peer accepts it, so nothing new is served; check \
         this machine's date, or make new identities with `backstay init -c FILE --out DIR`",
        path = path.display()
    )]
    Expired {
        /// Where it lies.
        path: PathBuf,
        /// Whose it is.
        node: NodeName,
        /// Whole days since its end.
        days: u64,
    },
    /// The certificate has not begun.
    #[error(
        "the certificate of node `{node}` in {path} is not valid yet: check this machine's date",
        path = path.display()
    )]
    NotYetValid {
        /// Where it lies.
        path: PathBuf,
        /// Whose it is.
        node: NodeName,
    },
    /// The cryptography library refused.
    #[error("cannot make keys and certificates: {0}")]
    Crypto(String),
}

/// What `init` made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// Where.
    pub out: PathBuf,
    /// 128 random bits in hexadecimal: no two clusters share one, whatever their names.
    pub cluster_id: String,
    /// One directory per node.
    pub nodes: Vec<(NodeName, PathBuf)>,
    /// Who votes from the start.
    pub founders: Vec<Founder>,
}

/// A voter that the store starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Its id in the store: random, never zero, never derived from a name or position.
    pub raft_id: u64,
    /// The node it lives on.
    pub node: NodeName,
}

/// `cluster.json`: what a node knows of its cluster before it has spoken to anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// The cluster's name.
    pub cluster: String,
    /// 128 random bits in hexadecimal.
    pub cluster_id: String,
    /// The node whose identity this is.
    pub node: NodeName,
    /// The same on every node.
    pub founders: Vec<Founder>,
    /// When `init` ran, in seconds since 1970-01-01 UTC; for display.
    pub created_unix: u64,
}

/// A node's loaded identity, and the TLS settings made of it.
#[derive(Debug)]
pub struct Identity {
    /// `cluster.json`.
    pub facts: ClusterFacts,
    /// When the certificate ends, in seconds since 1970-01-01 UTC.
    pub not_after_unix: u64,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    dir: PathBuf,
}

/// Makes the authority and one identity per node of `spec` under `out`, all or nothing. The founders of the store are
/// [`Spec::voters`].
///
/// `out` must not exist, or be empty. Layout: `ca/{ca.pem,ca.key}` (to be kept offline) and, for each node, a directory of
/// its name with `ca.pem`, `cert.pem`, `key.pem` and `cluster.json`. Directories are 0700, files 0600.
pub fn init(spec: &Spec, out: &Path) -> Result<InitReport, IdentityError> {
    check_name("cluster", &spec.cluster)?;
    for node in spec.nodes.keys() {
        check_name("node", node.as_str())?;
    }
    refuse_to_overwrite(out)?;

    let founders = spec
        .voters()
        .into_iter()
        .map(|node| Ok(Founder { raft_id: random_raft_id()?, node }))
        .collect::<Result<Vec<_>, IdentityError>>()?;
    let cluster_id = random_bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect::<String>();

    // Everything is made beside its place and renamed there: a full disk never leaves half a cluster behind.
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    std::fs::create_dir_all(&parent).map_err(file("create", &parent))?;
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
    let facts = |node: &NodeName| ClusterFacts {
        cluster: spec.cluster.clone(),
        cluster_id: cluster_id.clone(),
        node: node.clone(),
        founders: founders.clone(),
        created_unix: clock::wall().as_secs(),
    };
    let made =
        write_all(&partial, spec, facts).and_then(|()| std::fs::rename(&partial, out).map_err(file("create", out)));
    if let Err(error) = made {
        // What was just made is of no use; failing to remove it hides nothing that matters more.
        let _ = std::fs::remove_dir_all(&partial);
        return Err(error);
    }
    let nodes = spec.nodes.keys().map(|node| (node.clone(), out.join(node.as_str()))).collect();
    Ok(InitReport { out: out.to_owned(), cluster_id, nodes, founders })
}

fn write_all(dir: &Path, spec: &Spec, facts: impl Fn(&NodeName) -> ClusterFacts) -> Result<(), IdentityError> {
    let authority = Authority::new(&spec.cluster)?;
    make_dir(dir)?;
    let ca = dir.join("ca");
    make_dir(&ca)?;
    write_private(&ca.join(CA_PEM), authority.pem.as_bytes())?;
    write_private(&ca.join(CA_KEY), authority.issuer.key().serialize_pem().as_bytes())?;
    for node in spec.nodes.keys() {
        let (cert, key) = authority.sign(&spec.cluster, node, LEAF_LIFE)?;
        let facts =
            serde_json::to_vec_pretty(&facts(node)).map_err(|error| IdentityError::Crypto(error.to_string()))?;
        let home = dir.join(node.as_str());
        make_dir(&home)?;
        write_private(&home.join(CA_PEM), authority.pem.as_bytes())?;
        write_private(&home.join(CERT_PEM), cert.as_bytes())?;
        write_private(&home.join(KEY_PEM), key.as_bytes())?;
        write_private(&home.join(CLUSTER_JSON), &facts)?;
    }
    Ok(())
}

/// Copies a node's identity, as `init` made it, to `to` (the `identity` directory of a state directory), which must not be
/// there yet.
pub fn install(from: &Path, to: &Path) -> Result<(), IdentityError> {
    if to.exists() {
        return Err(IdentityError::AlreadyThere { path: to.to_owned() });
    }
    make_dir(to)?;
    for name in [CA_PEM, CERT_PEM, KEY_PEM, CLUSTER_JSON] {
        write_private(&to.join(name), &read(&from.join(name))?)?;
    }
    Ok(())
}

/// The DNS name that stands for a node in its certificate.
pub fn dns_name(cluster: &str, node: &str) -> String {
    format!("{node}.node.{cluster}.backstay")
}

/// The node that a verified certificate belongs to; `None` unless it names exactly one node of this cluster.
///
/// Only for chains that TLS has verified against the cluster's authority: nothing is verified here.
pub fn peer_node(cluster: &str, certificates: &[CertificateDer<'_>]) -> Option<NodeName> {
    let certificate = EndEntityCert::try_from(certificates.first()?).ok()?;
    let suffix = format!(".node.{cluster}.backstay");
    let mut names = certificate.valid_dns_names();
    let node = names.next()?.strip_suffix(&suffix)?.to_owned();
    (names.next().is_none() && is_label(&node)).then_some(NodeName(node))
}

impl Identity {
    /// Loads the identity in `dir` and makes the TLS settings of it: TLS 1.3 only, both sides authenticated, trusting this
    /// cluster's authority and no other.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let cert_path = dir.join(CERT_PEM);
        if !dir.join(KEY_PEM).exists() && !cert_path.exists() {
            return Err(IdentityError::Missing { path: dir.to_owned() });
        }
        check_permissions(&dir.join(KEY_PEM), 0o077, 0o600)?;
        for name in [CA_PEM, CERT_PEM, CLUSTER_JSON] {
            check_permissions(&dir.join(name), 0o022, 0o600)?;
        }

        let facts: ClusterFacts = serde_json::from_slice(&read(&dir.join(CLUSTER_JSON))?)
            .map_err(|error| damaged(&dir.join(CLUSTER_JSON), error))?;
        let ca = read_certificate(&dir.join(CA_PEM))?;
        let cert = read_certificate(&cert_path)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&dir.join(KEY_PEM))?)
            .map_err(|error| damaged(&dir.join(KEY_PEM), format!("{error:?}")))?;

        if peer_node(&facts.cluster, std::slice::from_ref(&cert)).as_ref() != Some(&facts.node) {
            let wanted = dns_name(&facts.cluster, facts.node.as_str());
            return Err(damaged(&cert_path, format!("its name is not `{wanted}`, which {CLUSTER_JSON} asks for")));
        }
        let not_after_unix = check_validity(&cert_path, &facts.node, &cert, &ca)?;
        let (client, server) = tls_settings(ca, cert, key).map_err(|error| damaged(&cert_path, error))?;
        let identity = Self { facts, not_after_unix, client, server, dir: dir.to_owned() };
        let left = identity.life_left();
        if left < WARN_BEFORE_END {
            let days = left.as_secs() / 86_400;
            tracing::warn!(node = %identity.node(), days, "this node's certificate ends soon: make new identities with `backstay init`");
        }
        Ok(identity)
    }

    /// Refuses an identity that is not the one of this cluster and node.
    pub fn check_owner(&self, cluster: &str, node: &NodeName) -> Result<(), IdentityError> {
        if self.facts.cluster == cluster && self.facts.node == *node {
            return Ok(());
        }
        Err(IdentityError::NotOurs {
            path: self.dir.clone(),
            found_cluster: self.facts.cluster.clone(),
            found_node: self.facts.node.clone(),
            cluster: cluster.to_owned(),
            node: node.clone(),
        })
    }

    /// The node whose identity this is.
    pub fn node(&self) -> &NodeName {
        &self.facts.node
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.facts.cluster
    }

    /// How much longer the certificate is valid by the wall clock; zero when it has ended.
    pub fn life_left(&self) -> Duration {
        Duration::from_secs(self.not_after_unix).saturating_sub(clock::wall())
    }

    /// For calling peers.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// For being called by peers.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The node of this cluster that a verified certificate belongs to.
    pub fn peer_node(&self, certificates: &[CertificateDer<'_>]) -> Option<NodeName> {
        peer_node(&self.facts.cluster, certificates)
    }
}

/// The cluster's certificate authority while `init` runs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(cluster: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
        let mut params = params(&format!("backstay {cluster}"), CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(format!("node.{cluster}.backstay"))],
            excluded_subtrees: Vec::new(),
        });
        let pem = params.self_signed(&key).map_err(crypto)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Certificate and key of a node, in PEM.
    fn sign(&self, cluster: &str, node: &NodeName, life: Duration) -> Result<(String, String), IdentityError> {
        let name = dns_name(cluster, node.as_str());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
        let mut params = params(&name, life);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(crypto)?)];
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer).map_err(crypto)?;
        Ok((cert.pem(), key.serialize_pem()))
    }
}

fn params(common_name: &str, life: Duration) -> CertificateParams {
    let year_1970 = rcgen::date_time_ymd(1970, 1, 1);
    let now = clock::wall();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = year_1970 + now.saturating_sub(BACKDATED);
    params.not_after = year_1970 + now.saturating_add(life);
    params
}

fn tls_settings(
    ca: CertificateDer<'static>,
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), rustls::Error> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13];
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    let roots = Arc::new(roots);

    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(vec![cert.clone()], key.clone_key())?;
    client.alpn_protocols = vec![ALPN_H2.to_vec()];

    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![cert], key)?;
    server.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok((Arc::new(client), Arc::new(server)))
}

/// Checks that the authority signed the certificate and that it is valid now; answers its end.
fn check_validity(
    path: &Path,
    node: &NodeName,
    cert: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
) -> Result<u64, IdentityError> {
    let provider = aws_lc_rs::default_provider();
    let anchor = webpki::anchor_from_trusted_cert(ca).map_err(|error| damaged(&path.with_file_name(CA_PEM), error))?;
    let leaf = EndEntityCert::try_from(cert).map_err(|error| damaged(path, error))?;
    let verify = |at: Duration| {
        let at = UnixTime::since_unix_epoch(at);
        let algorithms = provider.signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, std::slice::from_ref(&anchor), &[], at, KeyUsage::client_auth(), None, None)
            .map(|_| ())
    };
    let now = clock::wall();
    match verify(now) {
        Ok(()) => {}
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            let days = now.as_secs().saturating_sub(not_after.as_secs()) / 86_400;
            return Err(IdentityError::Expired { path: path.to_owned(), node: node.clone(), days });
        }
        Err(webpki::Error::CertNotValidYet { .. }) => {
            return Err(IdentityError::NotYetValid { path: path.to_owned(), node: node.clone() });
        }
        Err(error) => return Err(damaged(path, format!("the authority in {CA_PEM} did not sign it ({error})"))),
    }
    // The library tells the end of a certificate only when refusing it, so it is asked about a day that is surely past it.
    match verify(now + CA_LIFE + LEAF_LIFE) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Ok(not_after.as_secs()),
        _ => Ok(u64::MAX),
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), IdentityError> {
    // `ca` is the authority's own directory beside those of the nodes.
    if is_label(name) && !(what == "node" && name == "ca") {
        return Ok(());
    }
    Err(IdentityError::Name { what, name: name.to_owned() })
}

fn is_label(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_LABEL_BYTES).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn refuse_to_overwrite(out: &Path) -> Result<(), IdentityError> {
    let taken = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => true,
        Err(error) => return Err(file("read", out)(error)),
    };
    if taken { Err(IdentityError::AlreadyThere { path: out.to_owned() }) } else { Ok(()) }
}

fn random_bytes<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    let provider = aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| IdentityError::Crypto("no random numbers".into()))?;
    Ok(bytes)
}

fn random_raft_id() -> Result<u64, IdentityError> {
    Ok((u64::from_le_bytes(random_bytes::<8>()?) % (RAFT_ID_LIMIT - 1)) + 1)
}

fn make_dir(path: &Path) -> Result<(), IdentityError> {
    DirBuilder::new().mode(0o700).create(path).map_err(file("create", path))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(file("write", path))
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(file("read", path))
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(&read(path)?).map_err(|error| damaged(path, format!("{error:?}")))
}

fn check_permissions(path: &Path, forbidden: u32, wanted: u32) -> Result<(), IdentityError> {
    let facts = std::fs::metadata(path).map_err(file("read", path))?;
    let mode = facts.mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(IdentityError::Permissions { path: path.to_owned(), mode, wanted });
    }
    let own = rustix::process::geteuid().as_raw();
    if facts.uid() != own && facts.uid() != 0 {
        return Err(IdentityError::Owner { path: path.to_owned(), uid: facts.uid(), own });
    }
    Ok(())
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { act, path, source }
}

fn damaged(path: &Path, why: impl ToString) -> IdentityError {
    IdentityError::Damaged { path: path.to_owned(), why: why.to_string() }
}

fn crypto(error: rcgen::Error) -> IdentityError {
    IdentityError::Crypto(error.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    use backstay_model::DomainLevel;
    use backstay_spec::{GoalSpec, MaxLoss, NodeSpec, PortsSpec, PostgresTags, RatesSpec, StoreSpec};

    use super::*;

    /// A directory of its own for one test, removed at the end.
    pub(crate) struct TempDir(pub PathBuf);

    impl TempDir {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("backstay-agent-{}-{number}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            DirBuilder::new().mode(0o700).create(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A file that declares these nodes and nothing else.
    pub(crate) fn spec(cluster: &str, nodes: &[(&str, &str)]) -> Spec {
        let node = |addr: &str| NodeSpec {
            addr: addr.parse().unwrap(),
            rack: None,
            site: None,
            voter: None,
            witness: false,
            slots: None,
            postgres: PostgresTags::default(),
        };
        Spec {
            cluster: cluster.to_owned(),
            goal: GoalSpec { survive: DomainLevel::Node, max_outage: Duration::from_secs(30), max_loss: MaxLoss::Zero },
            nodes: nodes.iter().map(|(name, addr)| (NodeName::from(*name), node(addr))).collect(),
            services: BTreeMap::new(),
            listeners: BTreeMap::new(),
            backups: BTreeMap::new(),
            ports: PortsSpec { peer: 8007 },
            store: StoreSpec::Embedded,
            rates: RatesSpec::default(),
            prices: None,
        }
    }

    /// The identities of nodes `db1` and `db2` of cluster `shop`, made under `dir`.
    pub(crate) fn two_nodes(dir: &Path) -> (Arc<Identity>, Arc<Identity>) {
        let out = dir.join("identities");
        let spec = spec("shop", &[("db1", "127.0.1.1"), ("db2", "127.0.1.2")]);
        init(&spec, &out).unwrap();
        let load = |node: &str| Arc::new(Identity::load(&out.join(node)).unwrap());
        (load("db1"), load("db2"))
    }

    fn chain(dir: &Path) -> Vec<CertificateDer<'static>> {
        vec![read_certificate(&dir.join(CERT_PEM)).unwrap()]
    }

    #[test]
    fn init_writes_one_private_directory_per_node_with_the_same_founders() {
        let temp = TempDir::new();
        let out = temp.0.join("deep/identities");
        let report =
            init(&spec("shop", &[("db1", "127.0.1.1"), ("db2", "127.0.1.2"), ("w", "127.0.1.3")]), &out).unwrap();
        assert_eq!((report.nodes.len(), report.founders.len()), (3, 3));
        assert_eq!(report.cluster_id.len(), 32);
        let db1 = Identity::load(&out.join("db1")).unwrap();
        let w = Identity::load(&out.join("w")).unwrap();
        assert_eq!(db1.facts.founders, w.facts.founders);
        assert_eq!(db1.facts.founders, report.founders);
        assert_eq!(db1.facts.cluster_id, w.facts.cluster_id);
        assert!(report.founders.iter().all(|founder| founder.raft_id > 0 && founder.raft_id < RAFT_ID_LIMIT));
        assert_ne!(report.founders[0].raft_id, report.founders[1].raft_id);
        assert!(db1.life_left() > Duration::from_secs(360 * 86_400) && db1.life_left() <= LEAF_LIFE);
        for path in ["", "ca", "db1"] {
            assert_eq!(std::fs::metadata(out.join(path)).unwrap().mode() & 0o777, 0o700, "{path}");
        }
        for path in ["ca/ca.key", "ca/ca.pem", "db1/key.pem", "w/cluster.json"] {
            assert_eq!(std::fs::metadata(out.join(path)).unwrap().mode() & 0o777, 0o600, "{path}");
        }
        assert!(!out.join("db1/ca.key").exists());
        assert_eq!(std::fs::read_dir(out.parent().unwrap()).unwrap().count(), 1, "nothing partial is left");
    }

    #[test]
    fn init_never_overwrites_and_names_the_next_command() {
        let temp = TempDir::new();
        let spec = spec("shop", &[("db1", "127.0.1.1")]);
        let out = temp.0.join("out");
        init(&spec, &out).unwrap();
        let before = std::fs::read(out.join("db1/key.pem")).unwrap();
        let error = init(&spec, &out).unwrap_err();
        assert!(matches!(error, IdentityError::AlreadyThere { .. }));
        assert!(error.to_string().contains("backstay init -c FILE --out DIR"), "{error}");
        assert_eq!(std::fs::read(out.join("db1/key.pem")).unwrap(), before);
    }

    #[test]
    fn init_refuses_names_that_cannot_stand_in_a_certificate() {
        let temp = TempDir::new();
        for (cluster, node) in [("shop", "a.b"), ("shop", "ca"), ("sh op", "db1"), ("shop", "-x")] {
            let error = init(&spec(cluster, &[(node, "127.0.1.1")]), &temp.0.join("out")).unwrap_err();
            assert!(matches!(error, IdentityError::Name { .. }), "{cluster} {node}: {error}");
        }
        assert_eq!(std::fs::read_dir(&temp.0).unwrap().count(), 0);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_by_name() {
        let temp = TempDir::new();
        let out = temp.0.join("out");
        init(&spec("shop", &[("db1", "127.0.1.1")]), &out).unwrap();
        let key = out.join("db1/key.pem");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load(&out.join("db1")).unwrap_err();
        assert!(matches!(error, IdentityError::Permissions { mode: 0o640, .. }), "{error}");
        assert!(error.to_string().contains("key.pem"), "{error}");
    }

    #[test]
    fn the_identity_of_another_node_cluster_or_authority_is_refused() {
        let temp = TempDir::new();
        let (ours, theirs) = (temp.0.join("ours"), temp.0.join("theirs"));
        let spec = spec("shop", &[("db1", "127.0.1.1"), ("db2", "127.0.1.2")]);
        init(&spec, &ours).unwrap();
        init(&spec, &theirs).unwrap();
        let identity = Identity::load(&ours.join("db1")).unwrap();
        identity.check_owner("shop", &"db1".into()).unwrap();
        for (cluster, node) in [("shop", "db2"), ("mill", "db1")] {
            let text = identity.check_owner(cluster, &node.into()).unwrap_err().to_string();
            assert!(
                text.contains("`db1` of cluster `shop`") && text.contains(&format!("`{node}` of cluster `{cluster}`")),
                "{text}"
            );
        }

        // A certificate of another authority beside our own `ca.pem`.
        for name in [CERT_PEM, KEY_PEM] {
            std::fs::copy(theirs.join("db1").join(name), ours.join("db1").join(name)).unwrap();
        }
        assert!(matches!(Identity::load(&ours.join("db1")).unwrap_err(), IdentityError::Damaged { .. }));
        // The certificate of another node under our `cluster.json`.
        for name in [CERT_PEM, KEY_PEM] {
            std::fs::copy(ours.join("db2").join(name), ours.join("db1").join(name)).unwrap();
        }
        assert!(matches!(Identity::load(&ours.join("db1")).unwrap_err(), IdentityError::Damaged { .. }));
        assert!(matches!(Identity::load(&temp.0.join("none")).unwrap_err(), IdentityError::Missing { .. }));
    }

    #[test]
    fn an_ended_certificate_is_named() {
        let temp = TempDir::new();
        let out = temp.0.join("out");
        init(&spec("shop", &[("db1", "127.0.1.1")]), &out).unwrap();
        let authority = Authority::new("shop").unwrap();
        let home = out.join("db1");
        // The clock of the certificate stands still while ours goes on: it ended at the moment it was made.
        let (cert, key) = authority.sign("shop", &"db1".into(), Duration::ZERO).unwrap();
        for (name, text) in [(CA_PEM, &authority.pem), (CERT_PEM, &cert), (KEY_PEM, &key)] {
            std::fs::write(home.join(name), text).unwrap();
        }
        let deadline = clock::now() + Duration::from_secs(20);
        loop {
            match Identity::load(&home) {
                Err(IdentityError::Expired { node, .. }) => return assert_eq!(node.as_str(), "db1"),
                other => assert!(clock::now() < deadline, "{other:?}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_certificate_names_its_node_only_within_its_cluster() {
        let temp = TempDir::new();
        let out = temp.0.join("out");
        init(&spec("shop", &[("db1", "127.0.1.1")]), &out).unwrap();
        assert_eq!(peer_node("shop", &chain(&out.join("db1"))), Some("db1".into()));
        assert_eq!(peer_node("mill", &chain(&out.join("db1"))), None);
        assert_eq!(peer_node("shop", &chain(&out.join("ca").join("..").join("db1"))[..0]), None);
        assert_eq!(peer_node("shop", &[CertificateDer::from(vec![1, 2, 3])]), None);
    }

    #[test]
    fn the_authority_signs_no_name_outside_its_cluster() {
        let authority = Authority::new("shop").unwrap();
        let ca = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
        let (cert, _) = authority.sign("mill", &"db1".into(), LEAF_LIFE).unwrap();
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let error = check_validity(Path::new("cert.pem"), &"db1".into(), &cert, &ca).unwrap_err();
        assert!(error.to_string().contains("did not sign"), "{error}");
    }
}
