// SPDX-License-Identifier: GPL-2.0-only
//! What the guest needs to start another kernel in place of its own: the folder `/next` of its file system.

use std::path::Path;

use super::{initramfs, program, reproduce};
use crate::ground::error::Result;
use crate::ground::files;

/// The program that loads and starts a kernel.
const PROGRAM: (&str, &str) = ("kexec", include_str!("guest/kexec.c"));
/// Words of the kernel's command line with which the guest's init does so.
const WORDS: [&str; 2] = ["lazymap.kexec", "lazymap.kdump"];
/// The folder in the guest.
const FOLDER: &str = "next";

/// Whether a guest with this kernel command line starts another kernel.
pub fn is_started(append: &str) -> bool {
    append.split_whitespace().any(|word| WORDS.contains(&word))
}

/// Adds to the initramfs `archive` the kernel `image`, a copy of the archive for it, and what starts it.
///
/// # Errors
/// When a file cannot be read or written, or the compiler reports an error.
pub fn add(clang: &str, image: &Path, archive: &Path) -> Result<()> {
    let folder = files::scratch()?;
    for (from, name) in [(image, reproduce::IMAGE), (archive, reproduce::INITRD)] {
        files::copy(from, &folder.path().join(name))?;
    }
    program::compile(clang, PROGRAM.1, folder.path(), PROGRAM.0)?;
    initramfs::append(archive, folder.path(), FOLDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_word_asks_for_the_next_kernel() {
        assert!(is_started("lazymap.kexec") && is_started("a crashkernel=512M lazymap.kdump b"));
        assert!(!is_started("lazymap.kexecs lazymap.kdump=1 x.lazymap.kexec"));
    }

    #[test]
    fn the_guest_finds_what_it_names() {
        let init = include_str!("guest/init.sh");
        for name in [PROGRAM.0, reproduce::IMAGE, reproduce::INITRD] {
            assert!(init.contains(&format!("/{FOLDER}/{name} ")), "{name}");
        }
        for word in WORDS {
            assert!(init.contains(&format!("#   {word} ")), "{word}");
        }
        assert!(init.contains(lazymap_console::end::NEXT));
    }
}
