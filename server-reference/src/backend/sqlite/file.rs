//! The file: its schema and migration, the lock on it, and what happened to it while no server had it open.

use std::{fs, io, path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};

use super::super::error::BackendError;

/// The database within its folder. SQLite keeps a write-ahead log beside it.
const FILE: &str = "datasole.sqlite";
/// Marks the file as ours (`PRAGMA application_id`): "dsol".
const APPLICATION: i64 = 0x6473_6f6c;
/// The newest schema below.
const VERSION: i64 = 2;
/// The row of `meta` that stands while changes may not have reached the disk: the boot of the machine in which they
/// were made.
const UNSYNCED: &str = "unsynced";

/// Schema 1. Small rows apart from large ones: appending rewrites a row of `streams`.
const SCHEMA: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
        UNIQUE (kind, key)
    ) STRICT;
    CREATE TABLE entries (
        stream INTEGER NOT NULL, seq INTEGER NOT NULL, entry BLOB NOT NULL, PRIMARY KEY (stream, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE snapshots (stream INTEGER PRIMARY KEY, seq INTEGER NOT NULL, snapshot BLOB NOT NULL) STRICT;
    CREATE TABLE pairs (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires INTEGER) STRICT, WITHOUT ROWID;
    CREATE INDEX expiring ON pairs (expires) WHERE expires IS NOT NULL;
";

/// From schema 1 to 2: tags (0 for what was stored without), lifetimes of streams, versions of values, maps.
const TO_2: &str = "
    ALTER TABLE streams ADD COLUMN node INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE streams ADD COLUMN count INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE streams ADD COLUMN expires INTEGER;
    CREATE INDEX ending ON streams (expires) WHERE expires IS NOT NULL;
    ALTER TABLE entries ADD COLUMN node INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN count INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN prev INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE pairs ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE maps (key TEXT PRIMARY KEY, expires INTEGER) STRICT, WITHOUT ROWID;
    CREATE TABLE fields (
        map TEXT NOT NULL, field TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (map, field)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX expiring_maps ON maps (expires) WHERE expires IS NOT NULL;
";

/// Opens the folder's database, which nobody else may have open; makes both where there are none. After a power failure
/// streams begin new lives, with epochs from `fresh` on.
pub(super) fn open(dir: &Path, synced: bool, fresh: u64) -> Result<Connection, BackendError> {
    let path = dir.join(FILE);
    let unusable = |error: io::Error| BackendError::Unavailable(format!("{}: {error}", dir.display()));
    fs::create_dir_all(dir).map_err(unusable)?;
    let opened = Connection::open(&path).and_then(|mut connection| {
        prepare(&mut connection, synced, boot().as_deref(), fresh).map(|outcome| outcome.map(|()| connection))
    });
    let path = path.display();
    match opened {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(why)) => Err(BackendError::Corrupt(format!("{path} {why}"))),
        Err(error) => Err(match failure(&error) {
            _ if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => BackendError::Unavailable(format!(
                "{path} is in use by another server; stop that one, or choose another folder"
            )),
            BackendError::Corrupt(why) => {
                BackendError::Corrupt(format!("{path}: {why}; restore a copy, or move it away to begin anew"))
            }
            BackendError::Full(why) => BackendError::Full(format!("{path}: {why}")),
            BackendError::Unavailable(why) => BackendError::Unavailable(format!("{path}: {why}")),
            other => other,
        }),
    }
}

/// `Ok(Err)` says what is wrong with a database that is sound.
fn prepare(
    connection: &mut Connection,
    synced: bool,
    boot: Option<&str>,
    fresh: u64,
) -> rusqlite::Result<Result<(), String>> {
    // The process that holds the lock is alive: the lock ends with the process, however that ends.
    connection.busy_timeout(Duration::ZERO)?;
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE")?;
    let number = |connection: &Connection, sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let tables = number(connection, "SELECT count(*) FROM sqlite_schema")?;
    let application = number(connection, "PRAGMA application_id")?;
    let version = number(connection, "PRAGMA user_version")?;
    let is_new = (tables, application, version) == (0, 0, 0);
    if !is_new && application != APPLICATION {
        return Ok(Err("is another program's database; choose another folder".into()));
    }
    if !is_new && !(1..=VERSION).contains(&version) {
        return Ok(Err(format!(
            "has schema version {version}, and this server knows up to {VERSION}: run the one that made it"
        )));
    }
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if is_new {
        change.execute_batch(SCHEMA)?;
        change.execute_batch(&format!("PRAGMA application_id = {APPLICATION}"))?;
    }
    if version < 2 {
        change.execute_batch(TO_2)?;
        change.execute_batch("PRAGMA user_version = 2")?;
    }
    let left: Option<String> =
        change.query_row("SELECT value FROM meta WHERE name = ?1", [UNSYNCED], |row| row.get(0)).optional()?;
    if left.is_some_and(|then| boot != Some(&then)) {
        // The machine went down with the file open, and may have taken the newest entries along. Clients that saw them
        // must not resume on others in their place.
        change.execute("UPDATE streams SET epoch = max(epoch + 1, ?1)", [fresh as i64])?;
    }
    match synced {
        true => change.execute("DELETE FROM meta WHERE name = ?1", [UNSYNCED])?,
        false => change.execute("REPLACE INTO meta VALUES (?1, ?2)", [UNSYNCED, boot.unwrap_or_default()])?,
    };
    change.commit()?;
    if !synced {
        connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    }
    Ok(Ok(()))
}

/// Leaves the file as one that holds everything.
pub(super) fn close(connection: Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM meta WHERE name = ?1", [UNSYNCED])?;
    connection.close().map_err(|(_, error)| error)
}

/// Tells this run of the machine from others. Where nothing does, every unclean end counts as a power failure.
fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The meaning of a failure of SQLite.
pub(super) fn failure(error: &rusqlite::Error) -> BackendError {
    let why = error.to_string();
    match (error, error.sqlite_error_code()) {
        (_, Some(ErrorCode::DiskFull | ErrorCode::TooBig)) => BackendError::Full(why),
        (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => BackendError::Corrupt(why),
        (_, Some(_)) => BackendError::Unavailable(why),
        // A row that is not what was written.
        (_, None) => BackendError::Corrupt(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Connection {
        Connection::open_in_memory().unwrap()
    }

    /// Whether streams begin a new life when a database used in the boot `then` is opened in the boot `now`.
    fn check(synced: bool, then: Option<&str>, now: Option<&str>, renewed: bool) {
        let mut connection = memory();
        prepare(&mut connection, synced, then, 1 << 40).unwrap().unwrap();
        connection
            .execute("INSERT INTO streams (id, kind, key, epoch, seq) VALUES (1, 'state', 'k', 7, 3)", [])
            .unwrap();
        prepare(&mut connection, false, now, 1 << 40).unwrap().unwrap();
        let at = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let (epoch, seq) = connection.query_row("SELECT epoch, seq FROM streams", [], at).unwrap();
        assert_eq!((epoch != 7, seq), (renewed, 3), "synced {synced}, {then:?} then {now:?}");
        assert!(!renewed || epoch == 1 << 40);
    }

    #[test]
    fn what_a_power_failure_may_have_taken_is_not_resumed() {
        check(false, Some("a"), Some("a"), false);
        check(false, Some("a"), Some("b"), true);
        check(false, None, None, true);
        check(true, Some("a"), Some("b"), false);
    }

    #[test]
    fn only_our_own_schema_is_opened() {
        for (foreign, why) in [
            ("CREATE TABLE t (a)", "another program's"),
            ("PRAGMA user_version = 1", "another program's"),
            ("PRAGMA application_id = 1", "another program's"),
        ] {
            let mut connection = memory();
            connection.execute_batch(foreign).unwrap();
            let refusal = prepare(&mut connection, false, None, 1).unwrap().unwrap_err();
            assert!(refusal.contains(why), "{foreign}: {refusal}");
        }
        let mut connection = memory();
        prepare(&mut connection, false, None, 1).unwrap().unwrap();
        connection.execute_batch(&format!("PRAGMA user_version = {}", VERSION + 1)).unwrap();
        let refusal = prepare(&mut connection, false, None, 1).unwrap().unwrap_err();
        assert!(refusal.contains("schema version 3"), "{refusal}");
    }
}
