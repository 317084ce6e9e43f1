// SPDX-License-Identifier: GPL-2.0-only
//! What the tests of the tool share: a small repository, a small kernel tree, made-up tools.
//!
//! Every test gets its own folder, and a PATH in which nothing can install anything.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lazymap::boot::machine::LimitsGiven;
use lazymap::options::Options;
use lazymap::options::asked::Asked;
use lazymap::options::base::Base;
use lazymap_console::log::{Line, Log};
use tempfile::TempDir;

pub mod mirror;

/// Subject of the last patch in [`Lab`].
pub const SWITCH: &str = "riscv: switch";

/// Text of the cover letter of [`Lab`], behind its subject.
const COVER: &str = "Its text.\n\n1. Fixes, patch 1.\n2. Lazy map, patch 2.";

/// A line that each message needs.
pub const TESTED: &str = "How to test: boot it.";

/// The topics of [`Lab`].
const TOPICS: &str = r#"
[[topic]]
name = "fixes"
first = ["riscv: first"]
subjects = ["riscv: "]
on = []
stable = true

[[topic]]
name = "lazy-map"
first = ["riscv: switch"]
subjects = ["riscv: "]
on = ["fixes"]
"#;

/// A folder with a small repository in `repo`, a small kernel tree in `linux` and tools in `bin`.
pub struct Lab {
    pub dir: TempDir,
}

impl Lab {
    /// A repository with two patches that apply to the kernel tree, and sources for what they add.
    pub fn new() -> Self {
        let lab = Self::without_kernel();
        lab.kernel_tree();
        lab.make_patches();
        for name in
            ["git", "perl", "tar", "xz", "dpkg", "dpkg-deb", "apt-get", "apt-cache", "cp", "chmod", "uname", "env"]
        {
            lab.link(name);
        }
        lab.good_tools();
        lab
    }

    /// A repository alone, for what neither builds nor looks at a kernel tree.
    pub fn without_kernel() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        let root = lab.repo();
        let real = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut base = fs::read_to_string(real.join("base.toml")).unwrap();
        // The first kernel alone: the others are as many downloads.
        let first = base.find("[[linux]]").unwrap() + 1;
        if let Some(second) = base[first..].find("[[linux]]") {
            base.replace_range(first + second..base.find("[[qemu]]").unwrap(), "");
        }
        base.truncate(base.find("[[topic]]").unwrap());
        let switch = base.lines().find(|l| l.starts_with("switch = ")).unwrap().to_owned();
        let base = base.replace(&switch, &format!("switch = \"{SWITCH}\"")) + TOPICS;
        write(&root.join("base.toml"), &base);
        for file in ["harness/checkpatch.ignore", "harness/kernel.config"] {
            write(&root.join(file), &fs::read_to_string(real.join(file)).unwrap());
        }
        write(&root.join("docs/cover-letter.md"), &format!("A series\n\n{COVER}\n"));
        write(&root.join("arch-riscv/mm/lazy_map.c"), "int lazy;\nint second;\n");
        lab
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub fn linux(&self) -> PathBuf {
        self.dir.path().join("linux")
    }

    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// A clone of the kernel tree with the series on top, for patches that are made anew.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// The patches' folder.
    pub fn patches(&self) -> PathBuf {
        self.repo().join("patches/linux-7.3")
    }

    /// The tool, with everything that could reach beyond the lab cut off.
    pub fn tool(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lazymap"));
        command.env_clear();
        command
            .env("PATH", self.bin())
            .env("HOME", self.dir.path())
            .env("LAZYMAP_OUT", self.out())
            .env("LAZYMAP_RUSTC", self.bin().join("rustc"))
            .env("LAZYMAP_RUSTFMT", self.bin().join("rustfmt"))
            .env("RUST_LIB_SRC", self.dir.path().join("library"))
            .env("LIBCLANG_PATH", self.dir.path())
            .env("LAZYMAP_RETRY_PAUSE", "0")
            .env("LAZYMAP_DISK_MIB", "1")
            // Nothing listens there: a test that forgets to say where packages come from must fail.
            .env("LAZYMAP_MIRROR", "http://127.0.0.1:9/nowhere")
            .current_dir(self.repo());
        command
    }

    /// Runs the tool with `args` and KSRC; returns exit code, stdout and stderr.
    pub fn with_ksrc(&self, args: &[&str]) -> Said {
        said(self.tool().env("KSRC", self.linux()).args(args))
    }

    /// Puts an executable script into the PATH.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.bin().join(name);
        let _ = fs::remove_file(&path);
        let draft = path.with_extension("draft");
        write(&draft, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        // A child that another test is just starting may have inherited the open draft, and what is
        // open for writing cannot be executed. So another process writes the script itself.
        assert!(Command::new("cp").arg("-p").arg(&draft).arg(&path).status().unwrap().success());
        fs::remove_file(draft).unwrap();
        path
    }

    /// Puts a program of the machine into the PATH.
    pub fn link(&self, name: &str) {
        let path =
            std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|d| d.join(name)).find(|p| p.is_file());
        if let Some(path) = path {
            fs::create_dir_all(self.bin()).unwrap();
            let _ = fs::remove_file(self.bin().join(name));
            std::os::unix::fs::symlink(path, self.bin().join(name)).unwrap();
        }
    }

    /// Made-up tools that are all there and new enough.
    fn good_tools(&self) {
        self.script("clang-22", "echo 'Debian clang version 22.1.8 (1)'");
        for tool in ["ld.lld", "llvm-ar", "llvm-nm", "llvm-objcopy", "llvm-objdump", "llvm-readelf", "llvm-strip"] {
            self.script(&format!("{tool}-22"), "exit 0");
        }
        self.script("rustc", "echo 'rustc 1.96.0 (x)'");
        write(&self.dir.path().join("library/core/src/lib.rs"), "");
        self.script(
            "bindgen",
            "case $1 in --version) echo 'bindgen 0.72.1' ;; *) echo \"x: warning: clang version 22.1.8\" >&2 ;; esac",
        );
        self.script("rustfmt", "exec /bin/cat >/dev/null");
        // Every package is installed.
        let names = "bc bison ca-certificates ccache cpio device-tree-compiler dpkg-dev flex g++ gcc git kmod \
                     libc6-dev libelf-dev libfdt-dev libglib2.0-dev libseccomp-dev libslirp-dev libssl-dev make \
                     ninja-build patch perl pkg-config python3 python3-venv rsync xz-utils";
        self.script("dpkg-query", &format!("for p in {names}; do echo \"installed $p\"; done"));
    }

    /// A git clone with what the tool looks at in a kernel tree.
    fn kernel_tree(&self) {
        let dir = self.linux();
        write(&dir.join("Makefile"), "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\n");
        write(&dir.join("arch/riscv/Kconfig"), "config RISCV\n");
        write(&dir.join("arch/riscv/kernel/entry.S"), &numbered(60));
        write(&dir.join(".rustfmt.toml"), "edition = \"2021\"\n");
        // Like the kernel's: complains on stdout, exits with 1 then.
        let checkpatch = "my $bad = 0;\nmy $file = $ARGV[-1];\nopen(my $f, '<', $file) or die;\nwhile (<$f>) {\n\
                          die \"broken\\n\" if /CRASH/;\nif (/BADSTYLE/) { print \"$file:$.: WARNING:SOME_TYPE: bad\\n\"; $bad = 1; }\n}\nexit $bad;\n";
        write(&dir.join("scripts/checkpatch.pl"), checkpatch);
        // Complains on stderr, with the file's name, and exits with 3.
        let kernel_doc = dir.join("scripts/kernel-doc");
        write(
            &kernel_doc,
            "#!/bin/sh\n[ \"$1 $2\" = '-none -Werror' ] || exit 64\n/bin/grep -q NODOC \"$3\" && { echo broken >&2; exit 1; }\n\
             /bin/grep -q BADDOC \"$3\" || exit 0\necho \"Warning: $3:1 not described\" >&2\nexit 3\n",
        );
        fs::set_permissions(&kernel_doc, fs::Permissions::from_mode(0o755)).unwrap();
        write(&dir.join("MAINTAINERS"), "RISC-V\nS:\tSupported\nF:\tarch/riscv/\n");
        for header in ["kfence.h", "processor.h"] {
            write(&dir.join("arch/riscv/include/asm").join(header), "#define X 1\n");
        }
        git(&dir, &["init", "-q", "-b", "main", "."]);
        git(&dir, &["add", "-A", "-f"]);
        git(&dir, &["commit", "-q", "-m", "Linux 7.3.4"]);
    }

    /// Two patches: one births a file and edits one, the other, the switch, goes on with both.
    fn make_patches(&self) {
        let work = self.work();
        git(self.dir.path(), &["clone", "-q", "linux", "work"]);
        write(&work.join("arch/riscv/mm/lazy_map.c"), "int lazy;\n");
        edit(&work.join("arch/riscv/kernel/entry.S"), "line 10\n", "line ten\n");
        git(&work, &["add", "-A"]);
        let tags = "Fixes: 0123456789ab (\"riscv: old\")\nCc: stable@vger.kernel.org";
        git(&work, &["commit", "-q", "-m", "riscv: first", "-m", TESTED, "-m", tags]);
        write(&work.join("arch/riscv/mm/lazy_map.c"), "int lazy;\nint second;\n");
        edit(&work.join("arch/riscv/kernel/entry.S"), "line 20\n", "line twenty\n");
        edit(&work.join("arch/riscv/kernel/entry.S"), "line 50\n", "line fifty\n");
        git(&work, &["commit", "-q", "-a", "-m", SWITCH, "-m", TESTED]);
        self.write_patches(2);
    }

    /// Puts the last `count` commits of [`Self::work`] in place of the patches that there are.
    pub fn write_patches(&self, count: usize) {
        let _ = fs::remove_dir_all(self.patches());
        fs::create_dir_all(self.patches()).unwrap();
        let patches = self.patches().to_str().unwrap().to_owned();
        let from = format!("HEAD~{count}");
        let base = format!("--base={from}");
        let how = ["format-patch", "-q", "--zero-commit", "--no-signature", "--cover-letter", &base, "-o", &patches];
        git(&self.work(), &[&how[..], &[from.as_str()]].concat());
        // The mails as the tool writes them: the cover letter filled in, from whom the patches are.
        let made = self.patches().join("0000-cover-letter.patch");
        let cover = fs::read_to_string(&made).unwrap();
        let text = fs::read_to_string(self.repo().join("docs/cover-letter.md")).unwrap();
        let (subject, text) = text.split_once('\n').unwrap();
        let cover = cover.replace("*** SUBJECT HERE ***", subject).replace("*** BLURB HERE ***", text.trim());
        let kept = cover.lines().filter(|l| !l.starts_with("From: ") && !l.starts_with("Date: "));
        let cover = kept.map(|l| format!("{l}\n")).collect::<String>();
        let sender = git(&self.work(), &["log", "-1", "--format=From: %an <%ae>%nDate: %aD"]);
        let thread = format!("{sender}\nMessage-ID: <0@localhost>\nSubject: ");
        write(&self.patches().join("0000-cover-letter.txt"), &cover.replacen("Subject: ", &thread, 1));
        for (at, entry) in fs::read_dir(self.patches()).unwrap().flatten().enumerate() {
            if entry.path().extension().is_some_and(|e| e == "patch") {
                let thread = format!("Message-ID: <{at}-patch@localhost>\nIn-Reply-To: <0@localhost>\nSubject: ");
                edit(&entry.path(), "Subject: ", &thread);
            }
        }
        fs::remove_file(made).unwrap();
    }
}

/// What a run of the tool came to.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Checks the exit code and that the message, which must be one line, has all `words`.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let lines: Vec<&str> =
            self.err.lines().filter(|l| l.starts_with("lazymap: ") && !l.starts_with("lazymap: note")).collect();
        assert_eq!(lines.len(), 1, "one line of error: {self:#?}");
        for word in words {
            assert!(lines[0].contains(word), "\"{word}\" is missing: {self:#?}");
        }
    }

    /// Checks that it passed.
    #[track_caller]
    pub fn passes(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
    }
}

pub fn said(command: &mut Command) -> Said {
    let done = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) }
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} in {}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

pub fn numbered(lines: usize) -> String {
    (1..=lines).map(|n| format!("line {n}\n")).collect()
}

#[track_caller]
pub fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "tester");
        command.env(format!("GIT_{who}_EMAIL"), "tester@localhost");
        command.env(format!("GIT_{who}_DATE"), "2026-02-03T04:05:06Z");
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let done = command.arg("-C").arg(dir).args(["-c", "safe.directory=*"]).args(args).output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Names, contents and times of everything below `dir`: equal before and after means untouched.
pub fn snapshot(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut list = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            let path = entry.path();
            list.push(format!("{} {} {} {}", path.display(), meta.len(), meta.mtime_nsec(), meta.mode()));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    list.sort();
    list
}

/// Where the tool keeps the project's kernel trees: `lazymap check` says so, and it is `out` without it.
pub fn generated() -> PathBuf {
    let asked = std::env::var_os("LAZYMAP_OUT").filter(|v| !v.is_empty()).map(PathBuf::from);
    asked.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("out"))
}

/// Says that something was not tested, past the test runner, which would swallow it.
pub fn skipped(name: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {}", why.split_whitespace().collect::<Vec<_>>().join(" "));
}

/// The options of a run in the project's own repository, with everything generated in `out`.
pub fn options(out: PathBuf) -> Options {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf();
    let base = Base::load(&root).unwrap();
    Options { root, out, ksrc: None, base, jobs: 1, limits: LimitsGiven::default(), asked: Asked::default() }
}

/// Messages as if they came from a console, one in each line.
pub fn messages(texts: &[&str]) -> &'static [Line] {
    Box::leak(Box::new(Log::of(&texts.join("\n")))).lines.as_slice()
}
