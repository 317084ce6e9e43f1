// SPDX-License-Identifier: GPL-2.0-only
//! A start through EFI: OpenSBI starts EDK2 from flash memory, and EDK2 takes the kernel, its command line and the
//! initramfs from QEMU, where `-kernel`, `-append` and `-initrd` leave them for it (hw/riscv/boot.c:
//! riscv_setup_firmware_boot(); in EDK2, OvmfPkg/RiscVVirt).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::ground::cmd::option_value;

/// The images of EDK2, each as large as the flash memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    pub code: PathBuf,
    /// What EDK2 changes there is given up at the end of the run.
    pub variables: PathBuf,
}

impl Images {
    /// QEMU's arguments, for after those of the machine.
    pub fn arguments(&self) -> Vec<OsString> {
        let flash = |unit: u32, file: &Path, how: &str| {
            let file = option_value(&file.display().to_string());
            ["-drive".to_owned(), format!("if=pflash,unit={unit},format=raw,{how}=on,file={file}")]
        };
        // With tables of ACPI, EDK2 passes no device tree on.
        let machine = ["-machine", "acpi=off"].map(str::to_owned);
        let drives = [flash(0, &self.code, "readonly"), flash(1, &self.variables, "snapshot")];
        machine.into_iter().chain(drives.into_iter().flatten()).map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flash_memory_stays_as_it_is() {
        let images = Images { code: PathBuf::from("/a,b/code.fd"), variables: PathBuf::from("vars.fd") };
        let words: Vec<_> = images.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let expected = "-machine acpi=off -drive if=pflash,unit=0,format=raw,readonly=on,file=/a,,b/code.fd \
                        -drive if=pflash,unit=1,format=raw,snapshot=on,file=vars.fd";
        assert_eq!(words.join(" "), expected);
    }
}
