// SPDX-License-Identifier: GPL-2.0-only
//! Disks of a machine.

use std::path::Path;

use crate::ground::cmd::option_value;

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive<'a> {
    /// The raw image.
    pub file: &'a Path,
    /// Its name without an ending, in the folder that repeats the run.
    pub name: &'a str,
    /// What the guest writes stays in the image; otherwise it is given up at the end of the run.
    pub kept: bool,
}

impl Drive<'_> {
    /// QEMU's arguments for disks, with the images where `place` says.
    pub fn arguments<'a>(drives: &'a [Self], place: impl Fn(&'a Self) -> String) -> Vec<String> {
        let mut all = Vec::new();
        for drive in drives {
            let file = option_value(&place(drive));
            let (name, snapshot) = (drive.name, if drive.kept { "off" } else { "on" });
            all.push("-drive".to_owned());
            all.push(format!("file={file},format=raw,if=none,id={name},snapshot={snapshot}"));
            all.push("-device".to_owned());
            all.push(format!("virtio-blk-device,drive={name}"));
        }
        if !all.is_empty() {
            // Version 1 of virtio, as on other machines.
            all.extend(["-global", "virtio-mmio.force-legacy=false"].map(str::to_owned));
        }
        all
    }

    /// The name of its image in the folder that repeats the run.
    pub fn image(&self) -> String {
        format!("{}.img", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_given_up_unless_they_are_kept() {
        let root = Drive { file: Path::new("/a,b/root.img"), name: "root", kept: true };
        let words = Drive::arguments(&[root, Drive { name: "day", kept: false, ..root }], Drive::image);
        let expected = "-drive file=root.img,format=raw,if=none,id=root,snapshot=off -device virtio-blk-device,drive=root \
                        -drive file=day.img,format=raw,if=none,id=day,snapshot=on -device virtio-blk-device,drive=day \
                        -global virtio-mmio.force-legacy=false";
        assert_eq!(words.join(" "), expected);
        let words = Drive::arguments(&[root], |drive| drive.file.display().to_string());
        assert!(words[1].starts_with("file=/a,,b/root.img,"), "{words:?}");
        assert!(Drive::arguments(&[], Drive::image).is_empty());
    }
}
