// SPDX-License-Identifier: GPL-2.0-only
//! What repeats a boot elsewhere: a folder with the files that it used, and `reproduce.sh`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use super::drive::Drive;
use crate::ground::error::Result;
use crate::ground::files;

/// The script's name.
pub const SCRIPT: &str = "reproduce.sh";
/// Names of the files beside it.
pub const IMAGE: &str = "Image";
pub const INITRD: &str = "initramfs.cpio.gz";
pub const FIRMWARE: &str = "fw_dynamic.bin";

/// Where the reproducer of a boot with this console is.
pub fn folder(console: &Path) -> PathBuf {
    console.with_extension("")
}

/// What a reproducer needs to know.
#[derive(Clone, Debug)]
pub struct Reproducer<'a> {
    /// The console; the folder is beside it.
    pub console: &'a Path,
    pub qemu: &'a Path,
    /// The CPU property that such a QEMU has.
    pub property: &'a str,
    /// QEMU's arguments except files, plugin, trace and command line.
    pub arguments: &'a [String],
    pub image: &'a Path,
    /// Nobody overwrites the image: the folder may have a link to it in place of a copy.
    pub image_stays: bool,
    pub initrd: Option<&'a Path>,
    pub firmware: &'a Path,
    /// QEMU's arguments that come last. Files that they name stay where they are.
    pub more: &'a [OsString],
    /// Disks; the folder may have links to their images.
    pub drives: &'a [Drive<'a>],
    /// A plugin with its arguments.
    pub plugin: Option<&'a str>,
    /// Events of a trace.
    pub trace: Option<&'a str>,
    /// The kernel's command line.
    pub append: &'a str,
}

impl Reproducer<'_> {
    /// Writes the folder.
    ///
    /// # Errors
    /// When it cannot be written. A file that QEMU will not find either is left out.
    pub fn write(&self) -> Result<()> {
        let folder = folder(self.console);
        files::create_dir(&folder)?;
        keep(self.image, &folder.join(IMAGE), self.image_stays)?;
        match self.initrd {
            Some(initrd) => keep(initrd, &folder.join(INITRD), false)?,
            // That of an earlier boot.
            None => files::remove(&folder.join(INITRD))?,
        }
        keep(self.firmware, &folder.join(FIRMWARE), false)?;
        for drive in self.drives {
            // The boot writes to one that is kept.
            keep(drive.file, &folder.join(drive.image()), !drive.kept)?;
        }
        let script = folder.join(SCRIPT);
        files::write_whole(&script, self.script(&folder))?;
        files::make_executable(&script)
    }

    fn script(&self, folder: &Path) -> String {
        let name = files::name(folder);
        // Run again and again, it must find the images as they are.
        let disks: Vec<Drive<'_>> = self.drives.iter().map(|drive| Drive { kept: false, ..*drive }).collect();
        let disks = Drive::arguments(&disks, Drive::image);
        let words: Vec<String> = self.arguments.iter().chain(&disks).map(quote).collect();
        let sum = files::sha256_file(&folder.join(IMAGE)).unwrap_or_default();
        // Elsewhere, QEMU may have been built without.
        let (sandbox, more) = match self.more {
            [option, how, rest @ ..] if option == "-sandbox" => (Some(how), rest),
            all => (None, all),
        };
        let besides = if more.is_empty() { "" } else { " and the files that its last\n# arguments name" };
        let mut text = format!(
            "#!/bin/sh\n\
             # SPDX-License-Identifier: GPL-2.0-only\n\
             #\n\
             # Repeats the boot {name}. This folder has all that it needs except QEMU{besides}, and may be\n\
             # copied to another machine.\n\
             #\n\
             #   QEMU=PATH     a qemu-system-riscv64; for a CPU with {property}, one with the\n\
             #                 patches of lazymap (patches/qemu-*)\n\
             #   IMAGE=PATH    another kernel; also INITRD=PATH and FIRMWARE=PATH\n\
             #   APPEND=WORDS  more for the kernel's command line\n\
             #\n\
             # Arguments go to QEMU, such as -S -s to wait for a debugger.\n\
             set -eu\n\
             cd \"$(dirname \"$0\")\"\n\
             QEMU=${{QEMU:-{qemu}}}\n\
             command -v \"$QEMU\" >/dev/null || {{\n\
             \techo \"$0: there is no QEMU at $QEMU; name one with QEMU=\" >&2\n\
             \texit 2\n\
             }}\n",
            property = self.property,
            qemu = quote(self.qemu),
        );
        if !sum.is_empty() {
            text += &format!(
                "if [ -z \"${{IMAGE-}}\" ] && command -v sha256sum >/dev/null &&\n\
                 \t! echo '{sum}  {IMAGE}' | sha256sum -c --status; then\n\
                 \techo \"$0: {IMAGE} is not the kernel that was booted; name one with IMAGE=\" >&2\n\
                 \texit 2\n\
                 fi\n"
            );
        }
        if let Some(plugin) = self.plugin {
            let path = plugin.strip_prefix("file=").unwrap_or(plugin);
            let path = path.split(',').next().unwrap_or_default();
            text += &format!(
                "if [ -e {file} ]; then\n\
                 \tset -- -plugin {plugin} \"$@\"\n\
                 else\n\
                 \techo \"$0: note: without the plugin \"{file} >&2\n\
                 fi\n",
                file = quote(path),
                plugin = quote(plugin),
            );
        }
        if let Some(how) = sandbox {
            let how = quote(how);
            text += &format!("! \"$QEMU\" -sandbox {how} -version >/dev/null 2>&1 || set -- -sandbox {how} \"$@\"\n");
        }
        if let Some(events) = self.trace {
            text += &format!("set -- -D qemu.trace -trace {} \"$@\"\n", quote(events));
        }
        let initrd = match self.initrd {
            Some(_) => format!("-initrd \"${{INITRD:-{INITRD}}}\""),
            None => "${INITRD:+-initrd \"$INITRD\"}".to_owned(),
        };
        let more: String = more.iter().map(|word| quote(word) + " ").collect();
        text += &format!(
            "append={append}\n\
             exec \"$QEMU\" {words} \\\n\
             \t-bios \"${{FIRMWARE:-{FIRMWARE}}}\" -kernel \"${{IMAGE:-{IMAGE}}}\" {initrd} \\\n\
             \t-append \"$append${{APPEND:+ $APPEND}}\" {more}\"$@\"\n",
            append = quote(self.append),
            words = words.join(" "),
        );
        text
    }
}

/// Puts `from` at `to`, as a link if that is as good as a copy.
fn keep(from: &Path, to: &Path, link: bool) -> Result<()> {
    if from == to {
        return Ok(());
    }
    files::remove(to)?;
    if !from.is_file() || (link && fs::hard_link(from, to).is_ok()) {
        return Ok(());
    }
    files::copy(from, to)
}

/// A word, quoted for a shell.
pub fn quote(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
