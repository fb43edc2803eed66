//! Runs `scenarios/*.txt`: commands, `----`, what must come out. `REWRITE=1 cargo test -p backstay-failover` writes it anew.

mod databases;
mod world;

use world::World;

#[test]
fn scenarios_come_out_as_written() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "scenarios are missing from {dir}");
    let mut wrong = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let played = play(&written);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, &played).unwrap();
        } else if played != written {
            wrong.push(format!("{}\n{played}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "these scenarios come out differently:\n\n{}", wrong.join("\n\n"));
}

/// The scenario with its outputs replaced by what really comes out.
fn play(text: &str) -> String {
    let mut world = World::default();
    let (mut out, mut block, mut in_file) = (String::new(), String::new(), false);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        match line.trim() {
            "file" => in_file = true,
            "end" if in_file => {
                in_file = false;
                world.read_file(&std::mem::take(&mut block));
            }
            _ if in_file => block.push_str(&format!("{line}\n")),
            "----" => {
                out.push_str(&world.take_output());
                lines.by_ref().find(|line| line.is_empty());
                out.push('\n');
            }
            "" => {}
            command if command.starts_with('#') => {}
            command => world.run(command),
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}
