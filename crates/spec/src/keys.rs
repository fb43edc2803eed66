//! Every key of the file, once: its kind, its default, what it means, and what others call it.
//!
//! The parser, its suggestions, the JSON Schema and the reference page all read these tables, so they cannot disagree.

/// A table of the file.
pub(crate) struct Section {
    /// What it is for.
    pub(crate) doc: &'static str,
    /// Its keys; in groups, because kinds of services share some.
    pub(crate) groups: &'static [&'static [Key]],
    /// Entries with free names beside the keys, each with this table.
    pub(crate) free: Option<&'static Section>,
    /// How an entry of this kind is written, for helps.
    pub(crate) form: &'static str,
}

impl Section {
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

/// One key.
pub(crate) struct Key {
    /// As the file writes it.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// Whether it must be there.
    pub(crate) required: bool,
    /// The value that holds without it, as the file would write it.
    pub(crate) default: Option<&'static str>,
    /// What it means.
    pub(crate) doc: &'static str,
    /// What other tools, and people, call it.
    pub(crate) also: &'static [&'static str],
}

/// What a key takes.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A name of ours: `[a-z][a-z0-9-]{0,30}`.
    Name,
    /// A name of the machine room: letters, digits, `.`, `_`, `-`.
    Label,
    /// Any text that is not empty.
    Text,
    /// A duration with its unit; `zero` when none at all makes sense.
    Duration { zero: bool },
    /// `"0"`, a duration or an amount of bytes.
    Loss,
    /// A whole number.
    Count { min: i64, max: i64 },
    /// A port.
    Port,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A program and its arguments.
    Argv,
    /// A list of names.
    Names,
    /// One text, or a list of them.
    Texts,
    /// An address without a port.
    Address,
    /// A floating address, with or without the bits of its network.
    Vip,
    /// `file:…` or `env:…`.
    Secret,
    /// `"GET /path"`, `"tcp"` or a table.
    Check,
    /// A table of texts: numbers and flags are taken as text.
    TextMap,
    /// A table of secrets, or a list of names whose secrets are made.
    Users,
    /// A signal.
    Signal,
    /// `"embedded"` or `"etcd:https://…"`.
    Store,
    /// One table.
    Section(&'static Section),
    /// Tables with free names.
    Named(&'static Section),
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { name, kind, required: false, default, doc, also: &[] }
}

const fn needed(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: true, default: None, doc, also: &[] }
}

const fn also(mut key: Key, names: &'static [&'static str]) -> Key {
    key.also = names;
    key
}

/// Words of `survive` and `spread`.
pub(crate) const LEVELS: &[&str] = &["node", "rack", "site"];
/// Words of `redundancy`.
pub(crate) const REDUNDANCIES: &[&str] = &["N", "N+1", "N+2", "2N", "2N+1"];
/// Words of `mode`.
pub(crate) const MODES: &[&str] = &["active/passive", "active/active"];
/// Words of `spare`.
pub(crate) const SPARES: &[&str] = &["hot", "warm", "cold"];
/// Words of `failback`.
pub(crate) const FAILBACKS: &[&str] = &["auto", "manual"];
/// Words of `proto`.
pub(crate) const PROTOS: &[&str] = &["tcp", "http"];
/// Words of `degrade`.
pub(crate) const DEGRADES: &[&str] = &["wait", "async"];
/// Signals that may ask a program to stop.
pub(crate) const SIGNALS: &[&str] =
    &["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"];

const COUNT_MAX: i64 = 1000;
/// Amounts of money, numbers of drills.
const AMOUNT_MAX: i64 = 1_000_000_000;

/// The whole file.
pub(crate) static ROOT: Section = Section {
    doc: "One file, the same bytes on every machine.",
    groups: &[&[
        needed("cluster", Kind::Name, "The cluster's name."),
        key(
            "store",
            Kind::Store,
            Some("\"embedded\""),
            "Where the cluster's memory lives: in the agents themselves, or `\"etcd:https://…\"`.",
        ),
        key("goal", Kind::Section(&GOAL), None, "The promise: `plan` proves it, or says why not."),
        Key {
            required: true,
            ..key("nodes", Kind::Named(&NODE), None, "The machines. A node knows which entry it is by its address.")
        },
        also(key("app", Kind::Named(&APP), None, "Programs to keep up."), &["apps", "service", "program"]),
        also(
            key("postgres", Kind::Named(&POSTGRES), None, "Replicated databases."),
            &["postgresql", "pg", "database", "db"],
        ),
        also(
            key("listen", Kind::Named(&LISTEN), None, "Where clients connect."),
            &["listener", "frontend", "bind", "proxy"],
        ),
        key("backup", Kind::Named(&BACKUP), None, "Copies that are kept and proven."),
        key("ports", Kind::Section(&PORTS), None, "Ports of Backstay itself."),
        key("rates", Kind::Section(&RATES), None, "How often things fail here, for predictions."),
        also(
            key("prices", Kind::Section(&PRICES), None, "What things cost, for comparisons."),
            &["costs", "cost", "price"],
        ),
    ]],
    free: None,
    form: "",
};

pub(crate) static GOAL: Section = Section {
    doc: "The promise.",
    groups: &[&[
        key("survive", Kind::OneOf(LEVELS), Some("\"node\""), "The largest failure that must be survived."),
        also(
            key("max_outage", Kind::Duration { zero: false }, Some("\"30s\""), "The longest outage promised."),
            &["rto", "max_downtime"],
        ),
        also(
            key(
                "max_loss",
                Kind::Loss,
                Some("\"0\""),
                "The largest loss of acknowledged writes promised: `\"0\"` makes a commit wait for a standby; else a time or an amount of log.",
            ),
            &["rpo", "max_lag"],
        ),
    ]],
    free: None,
    form: "",
};

static NODE: Section = Section {
    doc: "One machine.",
    groups: &[&[
        also(
            needed("addr", Kind::Address, "Its address, by which it knows itself and peers reach it."),
            &["address", "ip", "host"],
        ),
        also(
            key("rack", Kind::Label, None, "The rack it stands in; a node without one is a rack of its own."),
            &["zone", "az"],
        ),
        also(
            key("site", Kind::Label, None, "The site it stands at; nodes without one share one site."),
            &["region", "dc", "datacenter"],
        ),
        key("voter", Kind::Flag, None, "Overrides whether it votes."),
        key("witness", Kind::Flag, Some("false"), "It only votes and holds nothing."),
        key(
            "slots",
            Kind::Count { min: 1, max: COUNT_MAX },
            None,
            "How many slots of instances fit; unlimited without it.",
        ),
        key("no_primary", Kind::Flag, Some("false"), "No database is primary here."),
        key("no_reads", Kind::Flag, Some("false"), "No database serves reads here."),
        key(
            "priority",
            Kind::Count { min: -COUNT_MAX, max: COUNT_MAX },
            None,
            "Higher is preferred as primary of a database.",
        ),
        key("delay", Kind::Duration { zero: false }, None, "Databases here stay this far behind on purpose."),
    ]],
    free: None,
    form: "db1 = { addr = \"10.0.0.1\" }",
};

const MODEL: &[Key] = &[
    also(
        key("need", Kind::Count { min: 1, max: COUNT_MAX }, Some("1"), "N: how many instances carry the full load."),
        &["active", "instances", "replicas", "count"],
    ),
    key("redundancy", Kind::OneOf(REDUNDANCIES), Some("\"N+1\""), "How much more there is than N."),
    key(
        "spread",
        Kind::OneOf(LEVELS),
        None,
        "The level of domains that instances are spread over; `goal.survive` without it, and inside `sites` never `\"site\"`.",
    ),
    key("slots", Kind::Count { min: 1, max: COUNT_MAX }, Some("1"), "Slots that one instance takes of a node."),
    key(
        "sites",
        Kind::Names,
        None,
        "Geographic redundancy: the model holds inside each of these sites, best first. Active/passive: one of them carries traffic; active/active: all do.",
    ),
    also(
        key(
            "prefer",
            Kind::Names,
            None,
            "Preferred nodes, best first; without it nobody is main, and nothing moves back.",
        ),
        &["nodes", "preferred", "on"],
    ),
    key(
        "failback",
        Kind::OneOf(FAILBACKS),
        Some("\"auto\""),
        "`\"auto\"`: a preferred node resumes its role once it is whole and steady; `\"manual\"`: only by `switchover`.",
    ),
    key(
        "steady",
        Kind::Duration { zero: true },
        Some("\"30s\""),
        "How long a preferred node must be whole before its role returns.",
    ),
];

static APP: Section = Section {
    doc: "A program that is kept up.",
    groups: &[
        MODEL,
        &[
            key(
                "mode",
                Kind::OneOf(MODES),
                Some("\"active/passive\""),
                "`need` instances carry traffic and the rest are spares, or all carry traffic.",
            ),
            key(
                "spare",
                Kind::OneOf(SPARES),
                Some("\"hot\""),
                "Hot: runs and is checked, gets no traffic. Warm: prepared, started on takeover. Cold: not there before. Spares of an exclusive app are cold.",
            ),
            key(
                "exclusive",
                Kind::Flag,
                Some("false"),
                "At most one instance acts at a time; it runs only with a grant.",
            ),
            also(
                key(
                    "run",
                    Kind::Argv,
                    None,
                    "The program and its arguments, without a shell. `{addr}`, `{port}`, `{node}` and `{service}` are replaced.",
                ),
                &["command", "cmd", "exec", "argv", "start"],
            ),
            key("unit", Kind::Text, None, "A systemd unit instead of `run`."),
            key("port", Kind::Port, None, "The port it listens on; a free one is picked without it."),
            also(
                key(
                    "check",
                    Kind::Check,
                    None,
                    "How it is known to work: `\"GET /path\"`, `\"tcp\"`, or a table with a program to run.",
                ),
                &["health", "healthcheck", "health_check", "probe"],
            ),
            also(
                key("env", Kind::TextMap, None, "Added to its environment; secrets as `file:…` or `env:…`."),
                &["environment"],
            ),
            key("user", Kind::Text, None, "The user it runs as."),
            also(key("cwd", Kind::Text, None, "The directory it runs in."), &["dir", "workdir", "working_directory"]),
            key("stop", Kind::Signal, Some("\"SIGTERM\""), "The signal that asks it to stop."),
            also(
                key("grace", Kind::Duration { zero: true }, Some("\"10s\""), "How long it may take to stop."),
                &["stop_timeout"],
            ),
        ],
    ],
    free: None,
    form: "[app.NAME]",
};

/// The table form of `check`.
pub(crate) static CHECK: Section = Section {
    doc: "A program whose exit status 0 means well.",
    groups: &[&[
        needed("run", Kind::Argv, "The program and its arguments, without a shell."),
        also(key("every", Kind::Duration { zero: false }, Some("\"1s\""), "How often."), &["interval", "inter"]),
        key("timeout", Kind::Duration { zero: false }, Some("\"1s\""), "How long an answer may take."),
        key(
            "rise",
            Kind::Count { min: 1, max: COUNT_MAX },
            Some("2"),
            "Good answers in a row before it counts as well.",
        ),
        key(
            "fall",
            Kind::Count { min: 1, max: COUNT_MAX },
            Some("3"),
            "Bad answers in a row before it counts as failing.",
        ),
    ]],
    free: None,
    form: "check = { run = [\"/path/to/program\"] }",
};

static POSTGRES: Section = Section {
    doc: "A replicated database: one primary, the rest are standbys.",
    groups: &[
        MODEL,
        &[
            key("version", Kind::Count { min: 10, max: 99 }, None, "Major version; the newest found without it."),
            key("port", Kind::Port, Some("5432"), "Its port."),
            also(key("data", Kind::Text, None, "Data directory."), &["data_dir", "data_directory", "pgdata"]),
            also(key("bin", Kind::Text, None, "Directory of its programs."), &["bin_dir", "bindir"]),
            also(
                key(
                    "sync",
                    Kind::Count { min: 0, max: COUNT_MAX },
                    None,
                    "How many standbys a commit waits for; follows from `goal.max_loss` without it.",
                ),
                &["synchronous", "synchronous_mode", "sync_standbys"],
            ),
            key(
                "degrade",
                Kind::OneOf(DEGRADES),
                Some("\"wait\""),
                "With too few standbys: writes wait, or go on without them and may be lost.",
            ),
            also(key("parameters", Kind::TextMap, None, "Settings of the server."), &["settings", "config", "options"]),
            also(key("clients", Kind::Texts, None, "Networks that may connect: `\"10.0.0.0/8\"`."), &["allow", "hba"]),
            key("databases", Kind::Names, None, "Databases that should exist."),
            key(
                "users",
                Kind::Users,
                None,
                "Users that should exist: a list of names, or names with where their passwords are.",
            ),
        ],
    ],
    free: None,
    form: "[postgres.NAME]",
};

static LISTEN: Section = Section {
    doc: "Where clients connect: entries with free names, one port each.",
    groups: &[&[also(
        key("vip", Kind::Vip, None, "The floating address; without one every node listens on its own."),
        &["address", "addr", "ip", "virtual_ip"],
    )]],
    free: Some(&ENTRY),
    form: "[listen.NAME]",
};

static ENTRY: Section = Section {
    doc: "One port of a listener.",
    groups: &[&[
        key("port", Kind::Port, None, "Where it listens; 80 for an entry called `http`, 443 for `https`."),
        also(
            needed(
                "to",
                Kind::Text,
                "Where it sends: `app.NAME`, `postgres.NAME.primary` or `postgres.NAME.standbys`.",
            ),
            &["target", "upstream", "backend"],
        ),
        also(
            key(
                "proto",
                Kind::OneOf(PROTOS),
                Some("\"tcp\""),
                "What it understands; `\"http\"` for entries called `http` or `https`.",
            ),
            &["protocol", "mode"],
        ),
        key("max_lag", Kind::Duration { zero: false }, None, "Standbys further behind get no reads."),
        key("tls", Kind::Flag, None, "It ends TLS itself; so does an entry called `https`."),
    ]],
    free: None,
    form: "http = { port = 80, to = \"app.NAME\" }",
};

static BACKUP: Section = Section {
    doc: "Copies of a database or of files.",
    groups: &[&[
        also(needed("of", Kind::Text, "What is copied: `postgres.NAME` or `files:/path`."), &["from", "source"]),
        also(
            needed("to", Kind::Text, "Where copies are kept: `file:/path` or `s3://bucket/prefix`."),
            &["repository", "repo", "target"],
        ),
        also(
            key("on", Kind::Names, None, "Nodes that may take it; for `files:` those that have the files."),
            &["nodes"],
        ),
        key("credentials", Kind::Secret, None, "Where the repository's credentials are: `file:…` or `env:…`."),
        also(
            key("every", Kind::Duration { zero: false }, Some("\"1d\""), "How often a whole copy is taken."),
            &["interval", "schedule"],
        ),
        also(
            key("keep", Kind::Duration { zero: false }, Some("\"14d\""), "How long copies are kept."),
            &["retention", "retain"],
        ),
        also(
            key("prove", Kind::Duration { zero: false }, None, "How often a restore is proven."),
            &["restore_test", "verify", "test"],
        ),
        also(
            key("encrypt_to", Kind::Texts, None, "Public keys (`age1…`) that copies are encrypted to."),
            &["encrypt", "recipients"],
        ),
        key("key", Kind::Secret, None, "Where the private key for proofs is: `file:…` or `env:…`."),
    ]],
    free: None,
    form: "[backup.NAME]",
};

pub(crate) static PORTS: Section = Section {
    doc: "Ports of Backstay itself.",
    groups: &[&[key("peer", Kind::Port, Some("8007"), "Where agents talk to each other.")]],
    free: None,
    form: "",
};

/// How often one level fails and how long it stays so.
static RATE: Section = Section {
    doc: "How often one of them fails, and how long it stays so.",
    groups: &[&[
        key("mttf", Kind::Duration { zero: false }, None, "Mean time from being whole to the next failure."),
        key(
            "mttr",
            Kind::Duration { zero: false },
            None,
            "Mean time until it is mended, with the time until it is noticed.",
        ),
    ]],
    free: None,
    form: "node = { mttf = \"180d\", mttr = \"4h\" }",
};

pub(crate) static RATES: Section = Section {
    doc: "How often things fail here. Only predictions read it: nothing that runs depends on it. What is not stated has a documented default.",
    groups: &[&[
        key("instance", Kind::Section(&RATE), None, "One program or database, its machine being well."),
        key("node", Kind::Section(&RATE), None, "One machine."),
        key("rack", Kind::Section(&RATE), None, "One rack: its power, its switch."),
        key("site", Kind::Section(&RATE), None, "One site."),
        key(
            "drills",
            Kind::Count { min: 0, max: AMOUNT_MAX },
            Some("0"),
            "Failovers that were tried or happened: evidence of how many work by themselves.",
        ),
        key(
            "drills_failed",
            Kind::Count { min: 0, max: AMOUNT_MAX },
            Some("0"),
            "How many of them somebody had to help.",
        ),
    ]],
    free: None,
    form: "",
};

pub(crate) static PRICES: Section = Section {
    doc: "What things cost: per year, but for outages. Only comparisons of redundancy models read it.",
    groups: &[&[
        key("currency", Kind::Label, Some("\"EUR\""), "What the amounts are in."),
        key("instance", Kind::Count { min: 0, max: AMOUNT_MAX }, Some("0"), "One more instance, a year."),
        key("node", Kind::Count { min: 0, max: AMOUNT_MAX }, Some("0"), "One more machine, a year."),
        key("rack", Kind::Count { min: 0, max: AMOUNT_MAX }, Some("0"), "One more rack, a year."),
        key("site", Kind::Count { min: 0, max: AMOUNT_MAX }, Some("0"), "One more site, a year."),
        key("outage", Kind::Count { min: 0, max: AMOUNT_MAX }, Some("0"), "Each outage, however short."),
        key("outage_hour", Kind::Count { min: 0, max: AMOUNT_MAX }, Some("0"), "Each hour without the service."),
    ]],
    free: None,
    form: "",
};

/// Where a key belongs, for one that was written in the wrong table.
pub(crate) fn home_of(name: &str) -> Option<&'static str> {
    let homes: [(&str, &Section); 9] = [
        ("[goal]", &GOAL),
        ("an entry of [nodes]", &NODE),
        ("[app.NAME]", &APP),
        ("[postgres.NAME]", &POSTGRES),
        ("an entry of [listen.NAME]", &ENTRY),
        ("[backup.NAME]", &BACKUP),
        ("[ports]", &PORTS),
        ("[rates]", &RATES),
        ("[prices]", &PRICES),
    ];
    homes.iter().find(|(_, section)| section.key(name).is_some()).map(|(place, _)| *place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Sink;

    /// Every section that can be reached, with what it is called here.
    fn sections() -> Vec<(String, &'static Section)> {
        let mut found = vec![("the file".to_owned(), &ROOT), ("check".to_owned(), &CHECK)];
        let mut at = 0;
        while let Some((_, section)) = found.get(at).cloned() {
            for key in section.keys() {
                if let Kind::Section(inner) | Kind::Named(inner) = key.kind {
                    found.push((key.name.to_owned(), inner));
                }
            }
            found.extend(section.free.map(|free| ("entry".to_owned(), free)));
            at += 1;
        }
        found
    }

    #[test]
    fn every_default_is_a_value_of_its_key() {
        for (place, section) in sections() {
            for (key, default) in section.keys().filter_map(|key| key.default.map(|default| (key, default))) {
                let text = format!("{} = {default}\n", key.name);
                let (toml, errors) = toml::de::DeTable::parse_recoverable(&text);
                assert!(errors.is_empty(), "{place}: {text}");
                let mut sink = Sink::new("", &text);
                crate::read::read_table(&mut sink, section, toml.get_ref(), &place, None);
                assert_eq!(sink.finish(), [], "{place}: {text}");
            }
        }
    }

    #[test]
    fn no_key_is_also_another() {
        for (place, section) in sections() {
            let mut names: Vec<_> = section.keys().map(|key| key.name).collect();
            names.extend(section.keys().flat_map(|key| key.also.iter().copied()));
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{place}");
        }
    }
}
