//! Durable tables: redb, with each record in an envelope of version and checksum.
//!
//! `pod`, `image` and `network` each open a file of their own through this crate; it knows how a record
//! lies on disk and must never know what any record means. Synchronous: a durable commit takes about
//! 0.2 ms, so async callers run it on the blocking pool or accept that wait.

mod record;

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use model::{Classify, ErrorKind};
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

pub use record::RecordError;

/// A store that could not be opened, read or committed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or is not a store.
    #[error("open store {path}")]
    Open {
        /// The store's file.
        path: PathBuf,
        /// What redb said.
        #[source]
        source: Box<redb::Error>,
    },
    /// A transaction failed; nothing of it is in the store.
    #[error("{stage} in store {path}")]
    Transaction {
        /// What was attempted.
        stage: &'static str,
        /// The store's file.
        path: PathBuf,
        /// What redb said.
        #[source]
        source: Box<redb::Error>,
    },
    /// A record is not what was written.
    #[error("record {key:?} of table {table}")]
    Record {
        /// The table's name.
        table: &'static str,
        /// The record's key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
}

impl Classify for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Record { .. } => ErrorKind::Corrupt,
            Self::Open { source, .. } | Self::Transaction { source, .. } => match &**source {
                redb::Error::Io(error) => model::error::io_kind(error),
                redb::Error::Corrupted(_) => ErrorKind::Corrupt,
                _ => ErrorKind::Internal,
            },
        }
    }
}

/// A table of records of type `T` by string key. Declare it as a constant, with the record's version.
pub struct Table<T> {
    name: &'static str,
    version: u8,
    record: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    /// A table named `name` whose records are written with `version`.
    pub const fn new(name: &'static str, version: u8) -> Self {
        Self { name, version, record: PhantomData }
    }

    const fn definition(&self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.name)
    }
}

/// Is told how long each durable commit took, from the change's end until the disk had it or refused. By default nobody is.
#[derive(Clone, Default)]
pub struct CommitSink(Option<Arc<dyn Fn(Duration) + Send + Sync>>);

impl CommitSink {
    /// Calls `tell` from any thread; it must not block.
    pub fn new(tell: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }
}

impl fmt::Debug for CommitSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "CommitSink(told)" } else { "CommitSink(nobody)" })
    }
}

/// One file of tables.
///
/// After an I/O error (a disk that was full for a moment) redb refuses everything until the file is opened anew, so it
/// is, before the next transaction: nothing but what was committed is in it.
pub struct Store {
    path: PathBuf,
    /// `None`: it could not be opened anew yet.
    database: RwLock<Option<Database>>,
    /// Whether an I/O error happened since it was opened.
    broken: AtomicBool,
    commits: CommitSink,
}

impl Store {
    /// Opens the file, making it where it is absent.
    ///
    /// # Errors
    /// [`StoreError::Open`], also when another process has it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = RwLock::new(Some(open(path)?));
        let broken = AtomicBool::new(false);
        Ok(Self { path: path.to_owned(), database, broken, commits: CommitSink::default() })
    }

    /// Tells `commits` of every durable commit from now on.
    #[must_use]
    pub fn telling(self, commits: CommitSink) -> Self {
        Self { commits, ..self }
    }

    /// Runs `work` on the database, which stays what it is meanwhile.
    fn with<R>(&self, work: impl FnOnce(&Database) -> Result<R, StoreError>) -> Result<R, StoreError> {
        loop {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            match &*database {
                Some(database) if !self.broken.load(Ordering::Acquire) => return work(database),
                _ => self.mend(database)?,
            }
        }
    }

    /// Opens the file anew, unless another thread did.
    fn mend(&self, seen: RwLockReadGuard<'_, Option<Database>>) -> Result<(), StoreError> {
        drop(seen);
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() || self.broken.load(Ordering::Acquire) {
            // Closed first: it holds a lock on the file.
            *database = None;
            *database = Some(open(&self.path)?);
            self.broken.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Runs `change` in one transaction and commits it durably: when this returns, it is on disk.
    ///
    /// # Errors
    /// Whatever `change` returns, or the commit's failure; the store is as it was then.
    pub fn write<R>(
        &self,
        change: impl FnOnce(&mut Write<'_>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.commit(Durability::Immediate, change)
    }

    /// As [`Store::write`], but not waiting for the disk: readers see the change at once, the next [`Store::write`] of
    /// anything takes it along, and a crash before that undoes it. For what the next start finds out by itself.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_soon<R>(
        &self,
        change: impl FnOnce(&mut Write<'_>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.commit(Durability::None, change)
    }

    fn commit<R>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Write<'_>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.with(|database| {
            let mut transaction = database.begin_write().map_err(|e| self.failed("begin", e.into()))?;
            transaction.set_durability(durability).map_err(|e| self.failed("begin", e.into()))?;
            let mut write = Write { store: self, transaction };
            let result = change(&mut write)?;
            let began = Instant::now();
            let committed = write.transaction.commit();
            // One that waits for no disk tells nothing of it.
            if let (Durability::Immediate, Some(tell)) = (durability, &self.commits.0) {
                tell(began.elapsed());
            }
            committed.map_err(|e| self.failed("commit", e.into()))?;
            Ok(result)
        })
    }

    /// One record.
    ///
    /// # Errors
    /// A failed read, or a record that is not what was written.
    pub fn get<T: DeserializeOwned>(&self, table: &Table<T>, key: &str) -> Result<Option<T>, StoreError> {
        self.with(|database| self.get_from(database, table, key))
    }

    fn get_from<T: DeserializeOwned>(
        &self,
        database: &Database,
        table: &Table<T>,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        let failed = |e: redb::Error| self.failed("read", e);
        let transaction = database.begin_read().map_err(|e| failed(e.into()))?;
        let open = match transaction.open_table(table.definition()) {
            Ok(open) => open,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(e) => return Err(failed(e.into())),
        };
        let found = open.get(key).map_err(|e| failed(e.into()))?;
        found.map(|bytes| decode(table, key, bytes.value())).transpose()
    }

    /// Every record in key order. One that is not what was written does not hide the others.
    ///
    /// # Errors
    /// A failed read of the table itself.
    #[expect(clippy::type_complexity, reason = "each record is good or bad by itself")]
    pub fn list<T: DeserializeOwned>(
        &self,
        table: &Table<T>,
    ) -> Result<Vec<(String, Result<T, StoreError>)>, StoreError> {
        self.with(|database| self.list_from(database, table))
    }

    #[expect(clippy::type_complexity, reason = "as above")]
    fn list_from<T: DeserializeOwned>(
        &self,
        database: &Database,
        table: &Table<T>,
    ) -> Result<Vec<(String, Result<T, StoreError>)>, StoreError> {
        let failed = |e: redb::Error| self.failed("list", e);
        let transaction = database.begin_read().map_err(|e| failed(e.into()))?;
        let open = match transaction.open_table(table.definition()) {
            Ok(open) => open,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(e) => return Err(failed(e.into())),
        };
        let mut records = Vec::new();
        for entry in open.iter().map_err(|e| failed(e.into()))? {
            let (key, bytes) = entry.map_err(|e| failed(e.into()))?;
            let key = key.value().to_owned();
            let record = decode(table, &key, bytes.value());
            records.push((key, record));
        }
        Ok(records)
    }

    fn failed(&self, stage: &'static str, source: redb::Error) -> StoreError {
        if matches!(source, redb::Error::Io(_) | redb::Error::PreviousIo) {
            self.broken.store(true, Ordering::Release);
        }
        StoreError::Transaction { stage, path: self.path.clone(), source: Box::new(source) }
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let failed =
        |e: redb::DatabaseError| StoreError::Open { path: path.to_owned(), source: Box::new(e.into()) };
    Database::create(path).map_err(failed)
}

fn decode<T: DeserializeOwned>(table: &Table<T>, key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    record::decode(table.version, bytes).map_err(|source| StoreError::Record {
        table: table.name,
        key: key.to_owned(),
        source,
    })
}

/// A transaction under way. Dropped without [`Store::write`]'s commit, it leaves nothing.
pub struct Write<'a> {
    store: &'a Store,
    transaction: redb::WriteTransaction,
}

impl Write<'_> {
    /// Writes a record, replacing the one that had its key.
    ///
    /// # Errors
    /// A failed write.
    pub fn put<T: Serialize>(&mut self, table: &Table<T>, key: &str, value: &T) -> Result<(), StoreError> {
        let bytes = record::encode(table.version, value).map_err(|source| StoreError::Record {
            table: table.name,
            key: key.to_owned(),
            source,
        })?;
        let failed = |e: redb::Error| self.store.failed("put", e);
        let mut open = self.transaction.open_table(table.definition()).map_err(|e| failed(e.into()))?;
        open.insert(key, bytes.as_slice()).map_err(|e| failed(e.into()))?;
        Ok(())
    }

    /// Removes a record; says whether there was one.
    ///
    /// # Errors
    /// A failed write.
    pub fn remove<T>(&mut self, table: &Table<T>, key: &str) -> Result<bool, StoreError> {
        let failed = |e: redb::Error| self.store.failed("remove", e);
        let mut open = self.transaction.open_table(table.definition()).map_err(|e| failed(e.into()))?;
        let removed = open.remove(key).map_err(|e| failed(e.into()))?.is_some();
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Table<String> = Table::new("names", 1);

    #[test]
    fn what_is_committed_is_there_after_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = Store::open(&path).unwrap();
        assert!(store.list(&NAMES).unwrap().is_empty());
        store.write(|w| w.put(&NAMES, "b", &"two".to_owned())).unwrap();
        store.write(|w| w.put(&NAMES, "a", &"one".to_owned())).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        let names: Vec<_> = store.list(&NAMES).unwrap().into_iter().map(|(k, v)| (k, v.unwrap())).collect();
        assert_eq!(names, [("a".to_owned(), "one".to_owned()), ("b".to_owned(), "two".to_owned())]);
        assert!(store.write(|w| w.remove(&NAMES, "a")).unwrap());
        assert_eq!(store.get(&NAMES, "a").unwrap(), None);
    }

    #[test]
    fn each_commit_is_told_and_what_is_not_committed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let sink = CommitSink::new(move |took| tell.lock().unwrap().push(took));
        let store = Store::open(&dir.path().join("store.redb")).unwrap().telling(sink);
        store.write(|w| w.put(&NAMES, "a", &"one".to_owned())).unwrap();
        let refused =
            || StoreError::Record { table: "names", key: "a".into(), source: RecordError::Checksum };
        store.write(|_| -> Result<(), _> { Err(refused()) }).unwrap_err();
        store.write_soon(|w| w.remove(&NAMES, "a")).unwrap();
        let told = told.lock().unwrap();
        assert!(matches!(told[..], [took] if took > Duration::ZERO), "{told:?}");
    }

    #[test]
    fn what_is_written_soon_is_durable_with_the_next_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = Store::open(&path).unwrap();
        // What a process that is killed now would find when it starts again.
        let after_a_crash = || {
            let copy = dir.path().join("copy.redb");
            std::fs::copy(&path, &copy).unwrap();
            let store = Store::open(&copy).unwrap();
            store.list(&NAMES).unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        store.write(|w| w.put(&NAMES, "a", &"one".to_owned())).unwrap();
        store.write_soon(|w| w.remove(&NAMES, "a")).unwrap();
        assert_eq!(store.get(&NAMES, "a").unwrap(), None, "readers see it");
        assert_eq!(after_a_crash(), ["a"]);
        store.write(|w| w.put(&NAMES, "b", &"two".to_owned())).unwrap();
        assert_eq!(after_a_crash(), ["b"]);
    }

    #[test]
    fn a_failed_change_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        let result: Result<(), StoreError> = store.write(|w| {
            w.put(&NAMES, "a", &"one".to_owned())?;
            Err(StoreError::Record { table: "names", key: "a".into(), source: RecordError::Checksum })
        });
        assert!(result.is_err());
        assert_eq!(store.get(&NAMES, "a").unwrap(), None);
    }

    #[test]
    fn a_record_of_another_version_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        store.write(|w| w.put(&NAMES, "a", &"one".to_owned())).unwrap();
        let newer: Table<String> = Table::new("names", 2);
        let error = store.get(&newer, "a").unwrap_err();
        assert_eq!(model::chain(&error), "record \"a\" of table names: version 1 where 2 is known");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
