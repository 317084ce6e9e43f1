// SPDX-License-Identifier: GPL-2.0-only
//! Compiles C programs for the guest.

use std::fs;
use std::path::Path;

use crate::ground::cmd;
use crate::ground::error::{Error, Result};

/// The compiler's flags: the guest has no C library.
const CFLAGS: &str = "--target=riscv64-unknown-elf -march=rv64imac -mabi=lp64 -mno-relax -nostdlib -ffreestanding \
-static -O1 -fuse-ld=lld";

/// What they share.
const HEADERS: [(&str, &str); 2] =
    [("guest.h", include_str!("guest/guest.h")), ("pages.h", include_str!("guest/hunt/pages.h"))];

/// Compiles the C in `text`, which may include [`HEADERS`], to `FOLDER/NAME`, and leaves the sources beside it.
///
/// # Errors
/// When the folder cannot be written, or the compiler reports an error.
pub fn compile(clang: &str, text: &str, folder: &Path, name: &str) -> Result<()> {
    let source = folder.join(format!("{name}.c"));
    fs::write(&source, text).map_err(|e| Error::io("write", &source, e))?;
    for (name, text) in HEADERS {
        let header = folder.join(name);
        fs::write(&header, text).map_err(|e| Error::io("write", &header, e))?;
    }
    let mut command = cmd::plain(clang);
    command.args(CFLAGS.split_whitespace()).arg("-o").arg(folder.join(name)).arg(&source);
    cmd::output(&mut command).map(drop)
}
