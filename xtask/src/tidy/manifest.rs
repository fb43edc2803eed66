//! The rules on manifests and on the graph of packages.

use super::rules::Breach;
use super::tables::{self, Rule};

/// A manifest under `crates/` or of `xtask`, as read.
struct Manifest<'a> {
    path: &'a str,
    dir: &'a str,
    text: &'a str,
}

const TABLES: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// Breaches of one `Cargo.toml`; `dir` is the crate's directory.
pub fn check_manifest(path: &str, dir: &str, text: &str) -> Vec<Breach> {
    let manifest = Manifest { path, dir, text };
    let parsed: toml::Table = match text.parse() {
        Ok(parsed) => parsed,
        Err(error) => return vec![manifest.breach("", &tables::WORKSPACE_DEPENDENCY, format!("not TOML: {error}"))],
    };
    let mut breaches = Vec::new();
    for kind in TABLES {
        let Some(table) = parsed.get(*kind).and_then(toml::Value::as_table) else { continue };
        for (name, value) in table {
            breaches.extend(manifest.dependency(kind, name, value));
        }
    }
    if parsed.contains_key("target") {
        breaches.push(manifest.breach(
            "[target",
            &tables::WORKSPACE_DEPENDENCY,
            "a dependency of one target only".to_owned(),
        ));
    }
    let inherits = parsed.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
    if inherits != Some(true) {
        breaches.push(manifest.breach(
            "",
            &tables::WORKSPACE_LINTS,
            "the workspace's lints are not inherited".to_owned(),
        ));
    }
    if dir != "xtask" && !tables::CRATES.iter().any(|c| c.dir == dir) {
        breaches.push(manifest.breach("", &tables::IMPORTS, format!("`{dir}` is not in the table of crates")));
    }
    breaches
}

impl Manifest<'_> {
    fn breach(&self, line_start: &str, rule: &'static Rule, what: String) -> Breach {
        let line =
            self.text.lines().position(|line| !line_start.is_empty() && line.trim_start().starts_with(line_start));
        Breach { path: self.path.to_owned(), line: line.map_or(0, |n| n + 1), rule, what }
    }

    fn dependency(&self, kind: &str, name: &str, value: &toml::Value) -> Vec<Breach> {
        // A crate that names itself for its own tests turns a feature on there; nothing is imported.
        if kind == "dev-dependencies" && our_dir(name) == Some(self.dir) {
            return Vec::new();
        }
        let mut breaches = Vec::new();
        if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
            breaches.push(self.breach(
                name,
                &tables::WORKSPACE_DEPENDENCY,
                format!("`{name}` has a version of its own"),
            ));
        }
        let table = tables::CRATES.iter().find(|c| c.dir == self.dir);
        let (may_import, pure) = table.map_or((&[][..], false), |c| (c.may_import, c.pure));
        if let Some(ours) = our_dir(name) {
            if !may_import.contains(&ours) {
                breaches.push(self.breach(name, &tables::IMPORTS, format!("`{}` imports `{ours}`", self.dir)));
            }
        } else if pure && kind != "dev-dependencies" && !tables::PURE_DEPENDENCIES.contains(&name) {
            breaches.push(self.breach(
                name,
                &tables::PURE_DEPENDENCY,
                format!("`{name}` in the pure crate `{}`", self.dir),
            ));
        }
        breaches
    }
}

/// The directory of one of our packages.
fn our_dir(package: &str) -> Option<&str> {
    package.strip_prefix("backstay-").or((package == "backstay" || package == "xtask").then_some(package))
}

/// Forbidden packages in the output of `cargo tree --prefix none`: a package a line, its name first.
pub fn check_graph(tree: &str) -> Vec<Breach> {
    let present = |name: &&&str| tree.lines().any(|line| line.split_whitespace().next() == Some(**name));
    tables::FORBIDDEN_PACKAGES
        .iter()
        .filter(present)
        .map(|name| Breach {
            path: "Cargo.lock".to_owned(),
            line: 0,
            rule: &tables::GRAPH,
            what: format!("`{name}` is in the graph on Linux"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(dir: &str, dependencies: &str) -> Vec<(&'static str, usize)> {
        let text = format!("[lints]\nworkspace = true\n[dependencies]\n{dependencies}");
        check_manifest("crates/x/Cargo.toml", dir, &text).iter().map(|b| (b.rule.name, b.line)).collect()
    }

    #[test]
    fn imports_go_down_only() {
        assert!(fired("failover", "backstay-planner.workspace = true").is_empty());
        assert_eq!(fired("planner", "backstay-failover.workspace = true"), [("imports", 4)]);
        assert_eq!(fired("balancer", "backstay-model = { workspace = true }"), [("imports", 4)]);
        assert!(fired("backup", "backstay-postgres.workspace = true").is_empty());
        assert_eq!(fired("app", "backstay-coord.workspace = true"), [("imports", 4)]);
    }

    #[test]
    fn a_crate_out_of_the_table_is_named() {
        assert_eq!(fired("stray", ""), [("imports", 0)]);
    }

    #[test]
    fn pure_crates_link_nothing_impure() {
        assert!(fired("model", "serde.workspace = true").is_empty());
        assert_eq!(fired("model", "rustix.workspace = true"), [("pure-dependency", 4)]);
        assert!(fired("agent", "rustix.workspace = true").is_empty());
    }

    #[test]
    fn versions_live_in_the_workspace() {
        assert_eq!(fired("agent", "a = \"1\""), [("workspace-dependency", 4)]);
        assert_eq!(fired("agent", "a = { version = \"1\" }"), [("workspace-dependency", 4)]);
        assert!(fired("agent", "a = { workspace = true, features = [\"b\"] }").is_empty());
    }

    #[test]
    fn a_crate_may_name_itself_for_its_tests() {
        let own = |kind: &str| {
            let text =
                format!("[lints]\nworkspace = true\n[{kind}]\nbackstay-app = {{ path = \".\", features = [\"a\"] }}");
            check_manifest("crates/app/Cargo.toml", "app", &text).len()
        };
        assert_eq!(own("dev-dependencies"), 0);
        assert_eq!(own("dependencies"), 2);
    }

    #[test]
    fn lints_are_inherited() {
        let breaches = check_manifest("crates/agent/Cargo.toml", "agent", "[package]\n");
        assert_eq!(breaches.iter().map(|b| b.rule.name).collect::<Vec<_>>(), ["workspace-lints"]);
    }

    #[test]
    fn a_second_tls_provider_is_seen_in_the_graph() {
        assert_eq!(check_graph("a v1.0.0\nring v0.17.14\n").len(), 1);
        assert!(check_graph("a v1.0.0\nstring-ring v1\naws-lc-rs v1").is_empty());
    }

    #[test]
    fn the_table_has_no_cycle() {
        for (n, c) in tables::CRATES.iter().enumerate() {
            for import in c.may_import {
                let below = tables::CRATES.iter().position(|d| d.dir == *import);
                let allowed = below.is_some_and(|m| m < n);
                assert!(allowed, "`{}` stands above `{import}`, which it imports", c.dir);
            }
        }
    }
}
