//! The architecture as data: who may import whom, who may touch what, which words mean something else here.
//!
//! Whoever reads this file knows the shape of the project; whoever changes the shape changes this file, with the reason.

/// One crate under `crates/` and what it may import of ours.
pub struct Crate {
    /// Its directory under `crates/`; the package is `backstay-DIR`, or `backstay` itself.
    pub dir: &'static str,
    /// Pure: no clock, disk, network, thread, randomness or async. Same arguments, same answer.
    pub pure: bool,
    /// Directories of the crates it may import.
    pub may_import: &'static [&'static str],
}

const fn pure(dir: &'static str, may_import: &'static [&'static str]) -> Crate {
    Crate { dir, pure: true, may_import }
}

const fn touching(dir: &'static str, may_import: &'static [&'static str]) -> Crate {
    Crate { dir, pure: false, may_import }
}

/// Imports go down only: words ← thought ← world; words ← hands ← agent ← backstay.
#[rustfmt::skip]
pub const CRATES: &[Crate] = &[
    // words
    pure("model",    &[]),
    pure("spec",     &["model"]),
    // thought: `failover` may use `planner` (its `place` is the only placement code), never the reverse
    pure("planner",  &["model", "spec"]),
    pure("failover", &["model", "spec", "planner"]),
    // world: a modelled one, that runs the real thought
    pure("sim",      &["model", "spec", "planner", "failover"]),
    // hands: they touch the world, and never each other; `backup` on `postgres` is the one exception
    touching("coord",    &["model", "spec"]),
    touching("app",      &["model", "spec"]),
    touching("postgres", &["model", "spec"]),
    touching("address",  &["model", "spec"]),
    touching("backup",   &["model", "spec", "postgres"]),
    touching("balancer", &[]),
    // the daemon, the command, and the tests that drive the real program
    touching("agent",    &["model", "spec", "planner", "failover", "coord", "app", "postgres", "backup", "balancer", "address"]),
    touching("backstay", &["model", "spec", "planner", "failover", "sim", "coord", "app", "postgres", "backup", "balancer",
                           "address", "agent"]),
    touching("e2e",      &["agent"]),
];

/// What a pure crate may depend on besides ours: data in, data out.
pub const PURE_DEPENDENCIES: &[&str] =
    &["serde", "serde_json", "statrs", "toml", "toml_edit", "annotate-snippets", "strsim"];

/// What the code of a pure crate may not name, and whether its tests may (they read scenario files and print).
pub const IMPURE: &[(&str, bool)] = &[
    ("std::time::Instant", false),
    ("Instant::now", false),
    ("SystemTime", false),
    ("clock_gettime", false),
    ("std::net::TcpStream", false),
    ("std::net::TcpListener", false),
    ("std::net::UdpSocket", false),
    ("std::os::unix::net", false),
    ("std::process", false),
    ("std::thread", false),
    ("tokio", false),
    ("rand", false),
    ("HashMap", false),
    ("HashSet", false),
    ("std::fs", true),
    ("std::env", true),
    ("println!", true),
    ("eprintln!", true),
    ("print!", true),
    ("eprint!", true),
];

/// Where `unsafe` may stand: a file, or a directory with all its files.
pub const UNSAFE_MODULES: &[&str] = &["crates/app/src/sys.rs", "crates/balancer/src/sys.rs", "crates/address/src/"];

/// What reads a clock; allowed in `src/clock.rs` of a crate and in tests.
pub const CLOCK_READS: &[&str] = &["Instant::now", "SystemTime::now", "clock_gettime"];

/// Crates that read a clock where they like: they time what they run and decide nothing.
pub const CLOCK_FREE: &[&str] = &["e2e", "xtask"];

/// Crates whose code may make a `Goal`: its home, the one that decides, and the world that runs it.
pub const GOAL_MAKERS: &[&str] = &["model", "failover", "sim"];

/// Texts that only `postgres` may hold: statements, and names inside a data directory.
pub const POSTGRES_TEXTS: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "ALTER SYSTEM",
    "ALTER ROLE",
    "CREATE TABLE",
    "CREATE ROLE",
    "CHECKPOINT",
    "pg_stat_",
    "pg_current_",
    "pg_last_",
    "pg_promote",
    "pg_is_in_recovery",
    "PG_VERSION",
    "pg_control",
    "pg_hba.conf",
    "pg_wal",
    "postgresql.conf",
    "postgresql.auto.conf",
    "postmaster.pid",
    "standby.signal",
    "recovery.signal",
    "backup_label",
];

/// Crates whose files may hold [`POSTGRES_TEXTS`]: the one that speaks it, and those that look from outside.
pub const POSTGRES_SPEAKERS: &[&str] = &["postgres", "e2e", "xtask"];

/// Words that mean something else, or nothing, here; the glossary has the right one.
pub const FORBIDDEN_WORDS: &[(&str, &str)] = &[
    ("master", "primary, or leader (Raft)"),
    ("masters", "primaries, or leaders (Raft)"),
    ("slave", "standby"),
    ("slaves", "standbys"),
    ("epoch", "term (Raft), generation (goals) or token (a role's grant)"),
    ("epochs", "terms, generations or tokens"),
    ("manager", "what it does: a noun for the thing it holds"),
    ("managers", "what they do"),
    ("helper", "what it does"),
    ("helpers", "what they do"),
    ("util", "what it holds"),
    ("utils", "what it holds"),
];

/// Names of other people's things that hold such a word.
pub const FOREIGN_TERMS: &[&str] = &[
    "unix_epoch",
    "futures_util",
    "futures-util",
    "hyper_util",
    "hyper-util",
    "http_body_util",
    "http-body-util",
    "tokio_util",
    "tokio-util",
    "util-linux",
    "service manager",
    "package manager",
    "package_manager",
    "cluster manager",
];

/// Files that name the forbidden words in order to forbid them.
pub const WORD_LISTS: &[&str] =
    &["xtask/src/tidy/tables.rs", "xtask/src/tidy/rules.rs", "GLOSSARY.md", "docs/GLOSSARY.md"];

/// Packages that must not be in the graph on Linux.
pub const FORBIDDEN_PACKAGES: &[&str] = &["ring", "openssl-sys", "native-tls"];

/// Production lines beyond which a file is named in a warning.
pub const FILE_LINES_MAX: usize = 600;

/// The committed counts of `.unwrap()` and `.expect(`.
pub const RATCHET_FILE: &str = "xtask/ratchet.toml";

/// A rule: what it is called, why it exists, and what to do about a breach.
#[derive(Debug, PartialEq)]
pub struct Rule {
    /// A short name, for searching.
    pub name: &'static str,
    /// Why it exists.
    pub why: &'static str,
    /// What to do.
    pub fix: &'static str,
}

macro_rules! rules {
    ($($id:ident: $name:literal, why $why:literal, fix $fix:literal;)*) => {
        $(#[doc = $why] pub const $id: Rule = Rule { name: $name, why: $why, fix: $fix };)*
    };
}

rules! {
    IMPORTS: "imports",
        why "imports go down only, so that each layer can be read, tested and replaced without those above it",
        fix "move the code down to where both may see it, or change the table in xtask/src/tidy/tables.rs with the reason";
    PURE_DEPENDENCY: "pure-dependency",
        why "a pure crate that links something impure can no longer be replayed from a seed",
        fix "take the value as an argument, or do the work in a hand";
    WORKSPACE_DEPENDENCY: "workspace-dependency",
        why "one place for versions and features: two crates that disagree build a dependency twice",
        fix "put it under [workspace.dependencies] of the root and write `NAME.workspace = true` here";
    WORKSPACE_LINTS: "workspace-lints",
        why "a crate without the workspace's lints may hold unsafe code and unwraps unseen",
        fix "add `[lints]` with `workspace = true`";
    PURITY: "purity",
        why "same arguments, same answer: the simulator replays these crates from a seed, and iteration order counts too",
        fix "take time, text and randomness as arguments; use BTreeMap and BTreeSet; return text instead of printing it";
    UNSAFE: "unsafe",
        why "memory safety is proved by reading, so there must be little to read",
        fix "use rustix's safe call, or move the block to one of the modules named in xtask/src/tidy/tables.rs";
    SAFETY: "safety-comment",
        why "an unsafe block is only as good as the reason why it is sound",
        fix "write `// SAFETY:` and the reason right above the block";
    CLOCK: "clock",
        why "a lease must be judged on one clock (CLOCK_BOOTTIME); a second reader is a second opinion",
        fix "call the crate's src/clock.rs";
    GOAL: "goal",
        why "only `failover` chooses: a goal made elsewhere is a decision without reasons",
        fix "ask `failover::decide`, or pass the goal that was read";
    POSTGRES: "postgres-names",
        why "only `postgres` speaks SQL and knows a data directory, so that a new version of PostgreSQL changes one crate",
        fix "add a method to `postgres` and call it";
    REUSEPORT: "reuseport",
        why "a bound address must be held by one process alone, or an old balancer goes on taking its share of the clients",
        fix "bind once and share the descriptor between the workers";
    WORDS: "words",
        why "one meaning for each word; these have several, or none",
        fix "use the glossary's word, or add the foreign term to xtask/src/tidy/tables.rs";
    GETTERS: "getters",
        why "a noun says it: `lease()`, not a verb that says nothing",
        fix "drop the prefix";
    UNFINISHED: "unfinished",
        why "what can't run yet is refused by name with exit code 2; it never panics",
        fix "return an error that names what is missing";
    IGNORED: "ignored-test",
        why "a test that is never run proves nothing, and nobody notices",
        fix "run it, delete it, or let it say at run time why it can't run so that it is counted as skipped";
    PANICS: "panics",
        why "input, network and disk must not be able to end the process; the number may only fall",
        fix "return a typed error; `cargo xtask tidy --ratchet` commits a lower number";
    GRAPH: "graph",
        why "one TLS provider only: two mean two sets of faults to follow and two random sources",
        fix "turn the dependency's default features off, or pick its aws-lc feature; `cargo tree -i NAME` names who brings it";
    MACHINE_PATH: "machine-path",
        why "a path of one machine means nothing on any other",
        fix "take the path from an argument, the environment or a temporary directory";
    LONG_FILE: "long-file",
        why "a file should read as one thing; beyond this it is usually two",
        fix "nothing, when it does read as one thing; else give the second thing its own file";
}
