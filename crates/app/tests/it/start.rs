//! What cannot start is refused by name, and what starts has the surroundings it was promised.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use backstay_app::{AppError, GuardEvent, GuardHandle, GuardSpec, StartFailureKind};

use crate::Scenario;
use crate::world::{Outcome, block_on, event, spec};

pub const SCENARIOS: &[Scenario] = &[
    ("start::what_is_missing_is_named", what_is_missing_is_named),
    ("start::the_environment_is_clean", the_environment_is_clean),
    ("start::another_user", another_user),
    ("start::files_are_private", files_are_private),
    ("start::long_paths_work", long_paths_work),
];

async fn refused(dir: &Path, spec: GuardSpec) -> (StartFailureKind, String) {
    match GuardHandle::start(dir, spec).await {
        Err(AppError::Start(failure)) => (failure.kind, failure.to_string()),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn what_is_missing_is_named(dir: &Path) -> Outcome {
    block_on(async {
        let argv = |program: &str| GuardSpec { argv: vec![program.into()], ..spec(dir, "") };
        let (kind, text) = refused(dir, argv("/no/such/program")).await;
        assert_eq!(kind, StartFailureKind::ProgramMissing);
        assert!(text.contains("web") && text.contains("/no/such/program"), "{text}");
        let (kind, text) = refused(dir, argv("no-such-program-on-path")).await;
        assert_eq!(kind, StartFailureKind::ProgramMissing);
        assert!(text.contains("no-such-program-on-path") && text.contains("PATH"), "{text}");

        fs::write(dir.join("plain"), "data").expect("file");
        let (kind, text) = refused(dir, argv("./plain")).await;
        assert_eq!(kind, StartFailureKind::NotExecutable);
        assert!(text.contains("plain"), "{text}");
        fs::write(dir.join("script"), "#!/no/such/interpreter\n").expect("file");
        fs::set_permissions(dir.join("script"), fs::Permissions::from_mode(0o755)).expect("mode");
        let (kind, text) = refused(dir, argv("./script")).await;
        assert_eq!(kind, StartFailureKind::ProgramMissing);
        assert!(text.contains("interpreter"), "{text}");

        let (kind, text) = refused(dir, GuardSpec { cwd: Some("/no/such/dir".into()), ..spec(dir, "true") }).await;
        assert_eq!(kind, StartFailureKind::CwdMissing);
        assert!(text.contains("/no/such/dir"), "{text}");
        let (kind, text) = refused(dir, GuardSpec { user: Some("no-such-user".into()), ..spec(dir, "true") }).await;
        assert_eq!(kind, StartFailureKind::UserUnknown);
        assert!(text.contains("no-such-user"), "{text}");
        let (kind, text) = refused(dir, GuardSpec { stop_signal: "SIGSTOP".into(), ..spec(dir, "true") }).await;
        assert_eq!(kind, StartFailureKind::SpecInvalid);
        assert!(text.contains("SIGSTOP"), "{text}");
        let bare = GuardSpec { exclusive: true, ..spec(dir, "true") };
        assert_eq!(refused(dir, bare).await.0, StartFailureKind::SpecInvalid);
        let no_exe = GuardSpec { exe: "/no/such/backstay".into(), ..spec(dir, "true") };
        assert!(matches!(GuardHandle::start(dir, no_exe).await, Err(AppError::GuardExe { .. })));

        assert!(GuardHandle::adopt(dir).await.expect("adopt").is_none(), "a refusal leaves nothing to adopt");
        Outcome::Passed
    })
}

fn the_environment_is_clean(dir: &Path) -> Outcome {
    block_on(async {
        let script = "env > env; readlink /proc/self/fd/0 > stdin; pwd > cwd";
        let mut wanted = spec(dir, script);
        wanted.env.insert("COLOUR".into(), "red and blue".into());
        let handle = GuardHandle::start(dir, wanted).await.expect("start");
        let id = handle.status().await.expect("status").guard_id;
        event(&handle, "empty", GuardEvent::is_empty).await;
        handle.ack().await.expect("ack");
        let env = fs::read_to_string(dir.join("env")).expect("env");
        for line in [
            "COLOUR=red and blue",
            "BACKSTAY_SERVICE=web",
            "BACKSTAY_NODE=n1",
            "BACKSTAY_GENERATION=7",
            &format!("BACKSTAY_GUARD_ID={id}"),
        ] {
            assert!(env.lines().any(|l| l == line), "{line} is not in\n{env}");
        }
        assert!(!env.contains("CARGO"), "inherited from the test run:\n{env}");
        assert_eq!(fs::read_to_string(dir.join("stdin")).expect("stdin").trim(), "/dev/null");
        assert_eq!(fs::read_to_string(dir.join("cwd")).expect("cwd").trim(), dir.to_str().expect("utf-8"));
        Outcome::Passed
    })
}

fn another_user(dir: &Path) -> Outcome {
    block_on(async {
        let as_root = rustix::process::geteuid().is_root();
        if !as_root {
            let (kind, text) = refused(dir, GuardSpec { user: Some("root".into()), ..spec(dir, "true") }).await;
            assert_eq!(kind, StartFailureKind::UserRefused);
            assert!(text.contains("root"), "{text}");
            return Outcome::Passed;
        }
        let open = dir.join("open");
        fs::create_dir(&open).expect("dir");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("mode");
        let script = "{ id -u; id -g; echo $HOME; grep NoNewPrivs /proc/self/status; } > who";
        let guard = dir.join("guard");
        let as_nobody = GuardSpec { user: Some("nobody".into()), ..spec(&open, script) };
        let handle = GuardHandle::start(&guard, as_nobody).await.expect("start");
        event(&handle, "empty", GuardEvent::is_empty).await;
        handle.ack().await.expect("ack");
        let who = fs::read_to_string(open.join("who")).expect("who");
        let lines: Vec<&str> = who.split_whitespace().collect();
        assert_eq!((lines[0], lines[lines.len() - 1]), ("65534", "1"), "{who}");
        assert!(lines[1] != "0" && !who.contains("/root"), "{who}");
        Outcome::Passed
    })
}

fn files_are_private(dir: &Path) -> Outcome {
    block_on(async {
        let guard = dir.join("guard");
        let handle = GuardHandle::start(&guard, spec(dir, "while :; do sleep 0.05; done")).await.expect("start");
        let mode = |path: &Path| fs::metadata(path).expect("file").permissions().mode() & 0o777;
        assert_eq!(mode(&guard), 0o700);
        for file in ["guard.sock", "guard.json", "spec.json", "guard.lock", "guard.err"] {
            assert_eq!(mode(&guard.join(file)), 0o600, "{file}");
        }
        handle.kill().await.expect("kill");
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}

fn long_paths_work(dir: &Path) -> Outcome {
    block_on(async {
        let guard = dir.join("a-rather-long-name-of-a-directory".repeat(4));
        let handle = GuardHandle::start(&guard, spec(dir, "exit 1")).await.expect("start");
        let ended = event(&handle, "empty", GuardEvent::is_empty).await;
        assert_eq!(ended.report().and_then(|r| r.code), Some(1));
        handle.ack().await.expect("ack");
        Outcome::Passed
    })
}
