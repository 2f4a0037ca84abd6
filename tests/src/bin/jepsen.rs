//! Three nodes under faults, judged: `jepsen --backend ENGINE [--seconds 60] [--clients 300] [--seed S] [--history FILE]`;
//! the engines are `memory`, `sqlite`, `redis`, `redis-replica`, `postgres` and `nats`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use datasole_tests::{
    history::check,
    jepsen::{Options, run},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1).cloned();
    let number = |name: &str, default: u64| value(name).map_or(Ok(default), |text| text.parse::<u64>());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let engine = value("--backend").unwrap_or_default().parse();
    let numbers = (number("--seconds", 60), number("--clients", 300), number("--seed", clock));
    let (Ok(engine), (Ok(seconds), Ok(clients), Ok(seed))) = (&engine, &numbers) else {
        eprintln!("jepsen --backend ENGINE [--seconds 60] [--clients 300] [--seed S]: {engine:?}");
        return ExitCode::FAILURE;
    };
    println!("{engine:?}, {seconds} s, {clients} clients, --seed {seed}");
    let own = std::env::current_exe().unwrap_or_default();
    let options = Options {
        engine: *engine,
        time: Duration::from_secs(*seconds),
        clients: u32::try_from(*clients).unwrap_or(u32::MAX),
        seed: *seed,
        node: own.with_file_name(format!("node{}", std::env::consts::EXE_SUFFIX)),
        nats: std::env::var_os("NATS_SERVER").map(Into::into),
    };
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return ExitCode::FAILURE };
    let outcome = runtime.block_on(run(&options));
    for (what, count) in &outcome.counts {
        println!("{count:>8} {what}");
    }
    let verdict = check(&outcome.history, &engine.promises());
    println!("{} events; {:?}", outcome.history.events.len(), verdict.counts);
    if verdict.holds() {
        println!("holds, seed {seed}");
        return ExitCode::SUCCESS;
    }
    println!("{}seed {seed}", verdict.story(&outcome.history));
    if let Some(file) = value("--history").and_then(|path| std::fs::File::create(path).ok()) {
        // For a person who looks further; the verdict stands without.
        let _ = outcome.history.write(file);
    }
    ExitCode::FAILURE
}
