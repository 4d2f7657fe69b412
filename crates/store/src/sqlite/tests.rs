use tempfile::TempDir;

use super::*;
use crate::conformance::conformance;

conformance!({
    let (store, dir) = fresh();
    (store, dir)
});

fn fresh() -> (Sqlite, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(dir.path()).unwrap(), dir)
}

fn open(dir: &Path) -> Result<Sqlite, StoreError> {
    Sqlite::open(dir, &Options::default())
}
