//! Files as operators write them, good and bad: `cases/NAME.toml` beside what is said of it in `cases/NAME.expected`.
//!
//! `BACKSTAY_BLESS=1 cargo test -p backstay-spec` writes the expected files anew; read the difference before committing it.

mod slips;
mod whole;

use std::path::{Path, PathBuf};

use backstay_spec::{not_in_this_build, parse, render};

fn cases() -> std::io::Result<Vec<PathBuf>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "toml"));
    paths.sort();
    Ok(paths)
}

#[test]
fn every_case_is_told_as_expected() {
    let bless = std::env::var_os("BACKSTAY_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in cases().unwrap() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let parsed = parse(name, &text);
        let mut told = render(name, &text, &parsed.diagnostics);
        if let Some(spec) = &parsed.spec {
            told.push_str(&render(name, &text, &not_in_this_build(name, &text, spec)));
        }
        let expected = path.with_extension("expected");
        if bless {
            std::fs::write(&expected, &told).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != told {
            wrong.push(format!("{name} is told otherwise than expected:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
