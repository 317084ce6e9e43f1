// SPDX-License-Identifier: GPL-2.0-only
//! One run per checkout: two builds in the same folders would break each other.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use crate::ground::error::{Error, Result};
use crate::ground::files;

/// Held until dropped, or until the process is gone.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "its open file description is the lock")] File);

/// Takes the lock of the folder `out`; waits for another run to end, and says so once.
///
/// # Errors
/// When the folder or the lock file cannot be made.
pub fn take(out: &Path) -> Result<Lock> {
    files::create_dir(out)?;
    let path = out.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| Error::io("open", &path, e))?;
    if file.try_lock().is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let pid = pid.trim();
        let who = if pid.is_empty() { "another run".to_owned() } else { format!("pid {pid}") };
        eprintln!("lazymap: {who} is working in {}; waiting for it to end", out.display());
        loop {
            match file.lock() {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::could_not(format!("cannot lock {}: {e}", path.display()))),
            }
        }
    }
    let written = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|e| Error::io("write", &path, e))?;
    Ok(Lock(file))
}
