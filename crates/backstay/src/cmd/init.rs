//! `init`: the cluster's identities from a file (`-c FILE --out DIR`), or a first file for some addresses (`ADDR…`).

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use backstay_agent::identity;
use serde_json::json;

use crate::cli::InitArgs;
use crate::config_file::ConfigFile;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output, counted};

/// More machines than one cluster is made for.
const NODES_MAX: usize = 20;

/// Does either.
pub fn run(args: &InitArgs, output: Output) -> Answer {
    match (&args.config, &args.out) {
        (Some(config), Some(out)) => identities(config, out, output),
        _ => first_file(&args.cluster, &args.addresses, output),
    }
}

fn identities(config: &Path, out: &Path, output: Output) -> Answer {
    let file = ConfigFile::read(Some(config))?;
    let spec = file.spec()?;
    let report = identity::init(spec, out).map_err(|error| {
        let exit = match error {
            identity::IdentityError::AlreadyThere { .. } => Exit::Refused,
            identity::IdentityError::Name { .. } => Exit::Usage,
            _ => Exit::Unexpected,
        };
        Failure::new(exit, "init", format!("no identities were made: {error}"))
    })?;
    let mut text = format!(
        "made the authority of cluster {} and {} in {}\n",
        spec.cluster,
        counted(report.nodes.len(), "identity").replace("identitys", "identities"),
        report.out.display()
    );
    for (node, dir) in &report.nodes {
        let _ = writeln!(text, "  {node:<12} copy {} to STATE/identity on that machine, mode 0700", dir.display());
    }
    let _ = write!(
        text,
        "  keep {} offline: whoever has it can make nodes\nthen, on each machine: backstay agent -c {}",
        report.out.join("ca").display(),
        file.name
    );
    let nodes: Vec<_> =
        report.nodes.iter().map(|(node, dir)| json!({ "name": node, "dir": dir.display().to_string() })).collect();
    let founders: Vec<_> = report.founders.iter().map(|founder| &founder.node).collect();
    output.result(
        &text,
        json!({
            "cluster": spec.cluster,
            "cluster_id": report.cluster_id,
            "out": report.out.display().to_string(),
            "nodes": nodes,
            "founders": founders,
        }),
    );
    Ok(Exit::Done)
}

fn first_file(cluster: &str, addresses: &[IpAddr], output: Output) -> Answer {
    let mut seen = BTreeSet::new();
    if let Some(twice) = addresses.iter().find(|address| !seen.insert(**address)) {
        return Err(Failure::usage("duplicate-address", format!("{twice} is named twice"))
            .with_help("every machine has an address of its own"));
    }
    if addresses.len() > NODES_MAX {
        let message = format!("{} addresses; one cluster has at most {NODES_MAX} machines", addresses.len());
        return Err(Failure::usage("too-many", message));
    }
    let text = commented(cluster, addresses);
    let parsed = backstay_spec::parse("backstay.toml", &text);
    if let Some(error) = parsed.errors().next() {
        // Only what the caller chose can be wrong: the cluster's name or an address.
        let failure = Failure::usage(&error.code, error.message.clone());
        return Err(match &error.help {
            Some(help) => failure.with_help(help.clone()),
            None => failure,
        });
    }
    output.result(&text, json!({ "cluster": cluster, "text": text }));
    Ok(Exit::Done)
}

/// A file that works as it is once the program's path is right, each line with its reason.
fn commented(cluster: &str, addresses: &[IpAddr]) -> String {
    let mut text = format!(
        "# Keep the same bytes on every machine.  Next: backstay config check -c FILE\n\
         #                                        backstay init -c FILE --out DIR\n\
         cluster = {cluster:?}\n\n\
         [goal]\n\
         survive    = \"node\"                   # the largest failure that must be survived: node | rack | site\n\
         max_outage = \"10s\"                    # the longest outage you accept\n\n\
         [nodes]                               # add rack = \"a\" where machines share power or a switch\n"
    );
    for (at, address) in addresses.iter().enumerate() {
        let _ = writeln!(text, "n{} = {{ addr = \"{address}\" }}", at + 1);
    }
    let (redundancy, meaning) = match addresses.len() {
        1 => ("N", "no spare: one machine is a single point of failure"),
        _ => ("N+1", "one more than needed, so that any one may fail"),
    };
    let need = addresses.len().saturating_sub(1).clamp(1, 2);
    let _ = write!(
        text,
        "\n[app.web]                             # the path and the check are yours to set\n\
         need       = {need}                        # N: how many instances carry the full load\n\
         redundancy = {:<24} # {meaning}\n\
         run        = [\"/srv/web\", \"--listen\", \"{{addr}}:{{port}}\"]   # no shell; {{addr}} {{port}} {{node}} {{service}}\n\
         port       = 3000\n\
         check      = \"GET /up\"                # any 2xx or 3xx; or \"tcp\"\n\n\
         # [app.jobs]                          # at most one runs at any time, whatever fails\n\
         # exclusive = true\n\
         # run       = [\"/srv/jobs\"]\n\n\
         [listen.web]                          # on every node's own address; vip = \"10.0.0.100/24\" makes it float\n\
         http = {{ port = 8080, to = \"app.web\" }}\n",
        format!("{redundancy:?}")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_is_taken_as_it_is_for_any_number_of_machines() {
        for count in 1..=NODES_MAX {
            let addresses: Vec<IpAddr> = (1..=count).map(|n| IpAddr::from([10, 0, 0, n as u8])).collect();
            let text = commented("shop", &addresses);
            let parsed = backstay_spec::parse("backstay.toml", &text);
            assert_eq!(parsed.errors().count(), 0, "{:?}", parsed.diagnostics);
            let spec = parsed.spec.expect("no errors");
            assert_eq!(spec.nodes.len(), count);
            assert_eq!(backstay_spec::not_in_this_build("backstay.toml", &text, &spec), []);
        }
    }
}
