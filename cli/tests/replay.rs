//! `datasole replay` before sessions that a browser has recorded, and before files that are none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Answers `datasole replay` with `flags` and `keys` at the terminal.
fn replay(file: &Path, flags: &[&str], keys: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasole"));
    command.env_clear().arg("replay").arg(file).args(flags);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that has ended has read enough.
    let _ = child.stdin.take().unwrap().write_all(keys.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/sessions")
}

fn cut() -> String {
    fs::read_to_string(vectors().join("cut.jsonl")).unwrap()
}

/// A file of its own with this text.
fn written(name: &str, text: &str) -> PathBuf {
    let file = env::temp_dir().join(format!("datasole-replay-{name}-{}.jsonl", std::process::id()));
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn sessions_of_browsers_end_the_same() {
    let mut found = 0;
    for entry in fs::read_dir(vectors()).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|name| name != "jsonl") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let count = |of: &str| text.lines().filter(|line| line.starts_with(of)).count();
        let (code, stdout, stderr) = said(&replay(&file, &[], ""));
        let expected = format!("{} inputs, {} outputs: the same\n", count("{\"at\""), count("{\"out\""));
        assert_eq!((code, stdout, stderr), (Some(0), expected, String::new()), "{}", file.display());
        found += 1;
    }
    assert!(found > 0);
}

#[test]
fn what_differs_is_named_with_its_line() {
    let text = cut();
    let at = text.lines().position(|line| line.contains("\"t\":\"arm\"")).unwrap();
    let changed: Vec<String> = text
        .lines()
        .enumerate()
        .map(
            |(number, line)| if number == at { r#"{"out":{"t":"arm","delay":7}}"#.to_owned() } else { line.to_owned() },
        )
        .collect();
    let file = written("changed", &changed.join("\n"));
    let (code, stdout, _) = said(&replay(&file, &[], ""));
    assert_eq!(code, Some(1));
    assert!(stdout.contains("timer in 7 ms") && stdout.contains("in the file") && stdout.contains("line "), "{stdout}");

    // An output that is missing, and one too many.
    for (name, lines) in [
        ("missing", text.lines().take(at).chain(text.lines().skip(at + 1)).collect::<Vec<_>>()),
        ("doubled", text.lines().take(at + 1).chain(text.lines().skip(at)).collect()),
    ] {
        let file = written(name, &lines.join("\n"));
        assert_eq!(said(&replay(&file, &[], "")).0, Some(1), "{name}");
        fs::remove_file(file).unwrap();
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn a_session_is_shown_whole_or_step_by_step() {
    let file = vectors().join("cut.jsonl");
    let (code, stdout, _) = said(&replay(&file, &["--show"], ""));
    assert_eq!(code, Some(0));
    for shown in
        ["connect\n", "open socket 1 ws://", "message Hello", "send on socket 1", "CrdtOp", "Subscribed", ": the same"]
    {
        assert!(stdout.contains(shown), "{shown}");
    }
    let (code, stdout, _) = said(&replay(&file, &["--step"], "\n\n"));
    assert_eq!(code, Some(0));
    // Two keys, and the end of them at the third input.
    assert!(stdout.contains("\n3 at ") && !stdout.contains("\n4 at "), "{stdout}");

    // Short frames, those of docs/protocol.md among them, and one as long as only a server can announce.
    let long = format!(r#"{{"result":"{}"}}"#, "x".repeat(2 << 20));
    let short: [(u8, u8, &[u8], &str); 9] = [
        (
            0x30,
            7,
            b"\xac\x02\x80\xe8\xde\x82\xad\x33{\"n\":1}",
            "message Entry 7 entry 300 of 1764432000000 {\"n\":1}\n",
        ),
        (0x30, 7, b"\x05\x80\xe8\xde\x82\xad\x33", "message Entry 7 entry 5 of 1764432000000 \n"),
        (0x30, 8, b"\x05[{\"op\":\"remove\"}]", "message Entry 8 entry 5 [{\"op\":\"remove\"}]\n"),
        (0x30, 8, b"\x05[1", "message Entry 8 entry 5 of 91 1\n"),
        (0x30, 8, b"\x80", "message Entry 8 1 bytes\n"),
        (0x31, 1, b"\x03add[1,2]", "message Call 1 add [1,2]\n"),
        (0x32, 1, b"3", "message Result 1 3\n"),
        (0x32, 1, b"", "message Result 1 \n"),
        (0x02, 2, long.as_bytes(), "message RpcResponse 2 {\"result\":\"xxx"),
    ];
    let mut text = cut().lines().next().unwrap().to_owned();
    for (opcode, correlation, payload, _) in short {
        let mut frame = vec![opcode, 0, 0, 0, correlation];
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        let bytes = data_encoding::BASE64.encode(&frame);
        text += &format!("\n{{\"at\":1,\"in\":{{\"t\":\"message\",\"socket\":1,\"bytes\":\"{bytes}\"}}}}");
    }
    let file = written("short", &text);
    let (code, stdout, _) = said(&replay(&file, &["--show"], ""));
    assert_eq!(code, Some(0), "{stdout}");
    for (_, _, _, shown) in short {
        assert!(stdout.contains(shown), "{shown}: {stdout}");
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn a_file_of_anybody_does_not_command_the_terminal() {
    let head = cut().lines().next().unwrap().to_owned();
    let call = r#"{"at":1,"in":{"t":"call","id":1,"method":"\u001b[2Jgone\u0007\n\u009b","json":"1","queue":false}}"#;
    let file = written("escape", &format!("{head}\n{call}\n"));
    for flags in [&[][..], &["--show"]] {
        let (_, stdout, _) = said(&replay(&file, flags, ""));
        assert!(stdout.contains("[2Jgone"), "{stdout}");
        assert!(stdout.chars().all(|char| char == '\n' || !char.is_control()), "{stdout:?}");
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn a_session_without_its_beginning_is_only_shown() {
    let file = written("dropped", &cut().replacen("{\"session\":2,", "{\"session\":2,\"dropped\":5,", 1));
    let (code, _, stderr) = said(&replay(&file, &[], ""));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("the beginning is not in the file (5 inputs)"), "{stderr}");
    fs::remove_file(file).unwrap();
}

#[test]
fn files_that_are_no_sessions_are_refused() {
    let head = cut().lines().next().unwrap().to_owned();
    for (name, text, why) in [
        ("empty", String::new(), "empty"),
        ("text", "hello\n".to_owned(), "no session"),
        ("version", head.replacen("\"session\":2", "\"session\":1", 1), "a session of version 1"),
        ("output", format!("{head}\n{{\"out\":{{\"t\":\"arm\",\"delay\":1}}}}\n"), "line 2"),
        ("input", format!("{head}\n{{\"at\":1,\"in\":{{\"t\":\"jump\"}}}}\n"), "line 2"),
        (
            "bytes",
            format!("{head}\n{{\"at\":1,\"in\":{{\"t\":\"message\",\"socket\":1,\"bytes\":\"?\"}}}}\n"),
            "line 2",
        ),
    ] {
        let file = written(name, &text);
        let (code, stdout, stderr) = said(&replay(&file, &[], ""));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{name}");
        assert!(stderr.contains(why), "{name}: {stderr}");
        fs::remove_file(file).unwrap();
    }
    let (code, _, stderr) = said(&replay(Path::new("/nowhere.jsonl"), &[], ""));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("/nowhere.jsonl"), "{stderr}");
}
