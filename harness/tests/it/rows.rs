// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap run` and `lazymap controls` as a whole, with a make whose kernels are copies of the entry
//! code, and a QEMU that dies of a kernel in which that is broken.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::common::{Lab, Said, TESTED, edit, git, said, write};
use crate::hunt::elf;
use serde_json::Value;

/// Makes an `Image` of the entry code and the configuration, and selftests of nothing.
const MAKE: &str = r#"
echo "$*" >>"${0%/*}/../made"
while [ $# -gt 0 ]; do
	case $1 in
	-C) dir=$2; shift ;;
	O=*) o=${1#O=} ;;
	KDIR=*) kdir=y ;;
	INSTALL_PATH=*) to=${1#*=} ;;
	esac
	verb=$1
	shift
done
case $verb in
tinyconfig) mkdir -p $o; : >$o/.config ;;
olddefconfig) ;;
Image | modules)
	# Of the kernel, or the one module alone.
	if [ -n "$kdir" ]; then
		: >$dir/lazy_map_basic.ko
		exit
	fi
	mkdir -p $o/arch/riscv/boot
	: >$o/modules.order
	cat $dir/arch/riscv/kernel/entry.S $o/.config >$o/arch/riscv/boot/Image
	cp $o/arch/riscv/boot/Image $o/vmlinux ;;
install)
	tests=$to/riscv/lazy_map
	mkdir -p $tests/test_modules $to/kselftest
	: >$tests/test-trace.sh
	: >$tests/test_modules/x.ko
	: >$to/kselftest/ktap_helpers.sh ;;
*/) ! grep -n 'error: ' $dir/arch/riscv/kernel/entry.S ;;
esac
"#;

const MERGE: &str = "#!/bin/sh\nfor f; do case $f in -m | -O) ;; -*) ;; *) last=$f ;; esac; done\nshift 2\no=$1\nshift 2\ncat \"$@\" >>$o/.config\n";

/// Kills a kernel with broken entry code, runs the others to their end, and refuses what is no machine.
const QEMU: &str = r#"
case "$*" in
--version) echo 'QEMU emulator version 10.0.13'; exit ;;
*help*) echo '  x-cache-invalid=<bool>  -  (default: false)'; exit ;;
*nonsense*) echo "qemu: Property 'nonsense' not found" >&2; exit 1 ;;
*stdio*-S* | *-S*stdio*) exit ;;
esac
for word; do
	case $word in */Image) image=$word ;; esac
done
echo 'x-cache-invalid: total harts=4 stale_hits=40 fences=50' >&2
if grep -q broken $image; then
	cat $logs/stack-overflow.log
else
	cat $logs/finished.log
fi
"#;

const SCENARIO: &str = "description = \"d\"\n[machine]\nmodel = \"stale\"\n";

const CONTROLS: &str = "[[control]]\nname = \"broken\"\nwhat = \"d\"\non = \"selftests: third\"\n\
                        [[control.run]]\ntest = \"test-trace.sh\"\nobserve = \"stack-overflow\"\n";

/// A lab with everything that a boot needs, the scenarios `default` and `other`, and a control.
struct Rows(Lab);

impl Rows {
    fn new() -> Self {
        let lab = Lab::new();
        for name in ["mkdir", "cat", "grep", "cp"] {
            lab.link(name);
        }
        lab.script("make", MAKE);
        let logs = concat!(env!("CARGO_MANIFEST_DIR"), "/console/tests/fixtures/console");
        lab.script("qemu", &format!("logs={logs}\n{QEMU}"));
        let linux = lab.linux();
        let merge = linux.join("scripts/kconfig/merge_config.sh");
        write(&merge, MERGE);
        fs::set_permissions(&merge, fs::Permissions::from_mode(0o755)).unwrap();
        git(&linux, &["add", "-A", "-f"]);
        git(&linux, &["commit", "-q", "-m", "what a build needs"]);
        // A third patch brings a test, whose sources are in the repository.
        let (repo, work) = (lab.repo(), lab.work());
        for name in ["Makefile", "test-trace.sh"] {
            write(&repo.join("selftests").join(name), "#\n");
            write(&work.join("tools/testing/selftests/riscv/lazy_map").join(name), "#\n");
        }
        git(&work, &["add", "-A", "-f"]);
        git(&work, &["commit", "-q", "-m", "selftests: third", "-m", TESTED]);
        lab.write_patches(3);
        // The control breaks the entry code of the second patch.
        git(&work, &["checkout", "-q", "-b", "control", "HEAD~1"]);
        edit(&work.join("arch/riscv/kernel/entry.S"), "line 30\n", "broken\n");
        git(&work, &["commit", "-q", "-a", "-m", "control: broken"]);
        let patch = git(&work, &["format-patch", "-q", "--zero-commit", "--no-signature", "--stdout", "HEAD~1"]);
        write(&repo.join("patches/controls/broken.patch"), &(patch + "\n"));
        write(&repo.join("patches/controls/controls.toml"), CONTROLS);
        write(&repo.join("harness/kernel.config"), "CONFIG_A=y\n");
        write(&repo.join("harness/scenarios/default.toml"), SCENARIO);
        write(&repo.join("harness/scenarios/other.toml"), &format!("config = \"CONFIG_B=y\"\n{SCENARIO}"));
        let compile = "description = \"d\"\nconfig = \"CONFIG_C=y\"\n[compile]\nfolders = [\"mm/\"]\n";
        write(&repo.join("harness/scenarios/compiled.toml"), compile);
        let rows = Self(lab);
        let guest = rows.0.out().join("guest");
        for (name, key, path) in
            [("busybox", "busybox", "busybox_path"), ("fw_dynamic.bin", "firmware", "firmware_path")]
        {
            let mut elf = b"\x7fELF".to_vec();
            elf.resize(64, 0);
            elf[18] = 243;
            fs::create_dir_all(&guest).unwrap();
            fs::write(guest.join(name), elf).unwrap();
            let base: toml::Table = fs::read_to_string(repo.join("base.toml")).unwrap().parse().unwrap();
            let text = |v: &toml::Value| v.as_str().unwrap().to_owned();
            let package = base["guest"][key].get(0).unwrap_or(&base["guest"][key]);
            let (package, sha256) = (text(&package["name"]), text(&package["sha256"]));
            let stamp = format!("{package} {sha256} {}", text(&base["guest"][path]));
            write(&guest.join(format!("{name}.stamp")), &stamp);
        }
        rows
    }

    fn run(&self, args: &[&str]) -> Said {
        let qemu = self.0.bin().join("qemu");
        said(self.0.tool().env("KSRC", self.0.linux()).env("LAZYMAP_QEMU", qemu).args(args))
    }

    fn tree(&self) -> PathBuf {
        self.0.out().join("linux-ksrc")
    }

    /// What is checked out.
    fn head(&self) -> String {
        git(&self.tree(), &["log", "-1", "--format=%s"])
    }

    /// `scenario kernel test verdict` of all rows.
    fn results(&self, of: &str) -> Vec<String> {
        let text = fs::read(self.0.out().join(of).join("results.json")).unwrap();
        let results: Value = serde_json::from_slice(&text).unwrap();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows = results["runs"].as_array().unwrap();
        let keys = ["scenario", "kernel", "test", "verdict"];
        rows.iter().map(|row| keys.map(|key| text(row, key)).join(" ")).collect()
    }

    /// How often make was called to build an image.
    fn built(&self) -> usize {
        let made = fs::read_to_string(self.0.dir.path().join("made")).unwrap();
        made.lines().filter(|line| line.ends_with(" modules") || line.ends_with(" Image")).count()
    }
}

#[test]
fn scenarios_are_built_booted_and_judged() {
    let rows = Rows::new();
    let all = rows.run(&["run"]);
    all.passes();
    assert!(all.out.ends_with("3 passed, 0 failed, 0 skipped\n"), "{all:?}");
    let passed = ["default series test-trace.sh PASS", "other series test-trace.sh PASS", "compiled series mm/ PASS"];
    assert_eq!(rows.results("run"), passed);
    let image = |name: &str| fs::read_to_string(rows.0.out().join("kernel").join(name).join("Image")).unwrap();
    assert!(image("series").ends_with("line 60\nCONFIG_A=y\n"));
    assert!(image("series-other").ends_with("CONFIG_A=y\nCONFIG_B=y\n"));
    assert_eq!(rows.built(), 2);
    // Nothing is built twice.
    rows.run(&["run", "other"]).passes();
    assert_eq!((rows.built(), rows.results("run").len()), (2, 1));
    // A line that does not come true is an error of this scenario alone.
    let other = rows.0.repo().join("harness/scenarios/other.toml");
    write(&other, &format!("config = \"# CONFIG_A is not set\"\n{SCENARIO}"));
    let result = rows.run(&["run", "default", "other"]);
    assert_eq!(result.code, Some(2), "{result:?}");
    assert!(result.out.contains("`# CONFIG_A is not set`") && result.out.contains("did not make it"), "{result:?}");
    assert_eq!(rows.results("run"), [passed[0], "other series test-trace.sh ERROR"]);
    // A machine that QEMU does not know is a mistake of the file.
    write(&other, &format!("{SCENARIO}cpu = \"nonsense=on\"\n"));
    rows.run(&["run", "other"]).fails(64, &["harness/scenarios/other.toml", "'nonsense' not found"]);
    // A kernel that does not compile has failed.
    edit(&rows.0.linux().join("arch/riscv/kernel/entry.S"), "line 1\n", "error: no\n");
    git(&rows.0.linux(), &["commit", "-q", "-a", "-m", "does not compile"]);
    let result = rows.run(&["run", "compiled"]);
    assert_eq!(result.code, Some(1), "{result:?}");
    assert!(result.out.contains("does not compile: mm/: 1:error: no"), "{result:?}");
}

#[test]
fn a_control_is_built_caught_and_put_away() {
    let rows = Rows::new();
    let done = rows.run(&["controls"]);
    done.passes();
    assert!(done.out.ends_with("1 passed, 0 failed, 0 skipped\n"), "{done:?}");
    assert_eq!(rows.results("controls"), ["default broken test-trace.sh PASS"]);
    assert_eq!(rows.head(), "selftests: third", "the series is checked out again");
    assert!(fs::read_to_string(rows.0.out().join("kernel/control-broken/Image")).unwrap().contains("broken"));
    // The tests are those of the series: the control has another entry.S, but on a commit without any.
    let console = rows.0.out().join("controls/broken-default-stale-4-trace.log");
    assert!(fs::read_to_string(console).unwrap().contains("stack overflow"));
    // A run that was interrupted leaves the control checked out; whatever comes next puts it away.
    git(&rows.tree(), &["checkout", "-q", "refs/lazymap/control-broken"]);
    assert_eq!(rows.head(), "control: broken");
    rows.run(&["series-check"]);
    assert_eq!(rows.head(), "selftests: third");
    // One that is not caught has failed, one that does not apply or whose commit is gone is an error.
    let file = rows.0.repo().join("patches/controls/controls.toml");
    edit(&file, "stack-overflow", "hang");
    let result = rows.run(&["controls"]);
    assert_eq!((result.code, rows.results("controls")), (Some(1), vec!["default broken test-trace.sh FAIL".into()]));
    edit(&file, "selftests: third", "selftests: fourth");
    let result = rows.run(&["controls"]);
    assert_eq!((result.code, rows.results("controls")), (Some(2), vec!["default broken test-trace.sh ERROR".into()]));
    assert!(result.out.contains("no patch of the series has the subject \"selftests: fourth\""), "{result:?}");
    edit(&file, "selftests: fourth", "tip");
    edit(&rows.0.repo().join("patches/controls/broken.patch"), "line 31", "line thirty-one");
    let result = rows.run(&["controls"]);
    assert_eq!((result.code, rows.head().as_str()), (Some(2), "selftests: third"));
    assert!(result.out.contains("broken.patch does not apply"), "{result:?}");
}

/// A machine on which a kernel without the first patch dies if its harts remember, and on which one with
/// the second dies everywhere if `second` is there.
const FRAGILE: &str = r#"
case "$*" in
--version | *help* | *stdio*-S* | *-S*stdio*) exec "${0%/*}/qemu" "$@" ;;
esac
for word; do
	case $word in */Image) image=$word ;; esac
done
case "$*" in
*x-cache-invalid=on*)
	echo 'x-cache-invalid: total harts=4 stale_hits=40 fences=50' >&2
	stale=y ;;
esac
case "$*" in
*lazymap.tests=test-pass.sh*) test=test-pass.sh ;;
*) test=test-trace.sh ;;
esac
if { [ -n "$stale" ] && ! grep -q 'line ten' $image; } ||
	{ [ -e "${0%/*}/second" ] && grep -q 'line twenty' $image; }; then
	sed "s/test-trace.sh/$test/" $logs/stack-overflow.log
else
	sed "s/test-trace.sh/$test/" $logs/finished.log
fi
"#;

#[test]
fn each_patch_and_each_topic_is_built_and_booted() {
    let rows = Rows::new();
    let lab = &rows.0;
    lab.link("sed");
    let logs = concat!(env!("CARGO_MANIFEST_DIR"), "/console/tests/fixtures/console");
    lab.script("fragile", &format!("logs={logs}\n{FRAGILE}"));
    write(&lab.repo().join("harness/tests/fixtures/guest/test-pass.sh"), "#\n");
    let base = lab.repo().join("base.toml");
    let topic =
        "[[topic]]\nname = \"selftests\"\nfirst = [\"selftests: third\"]\nsubjects = [\"selftests: \"]\non = []\n";
    write(&base, &format!("{}\n{topic}", fs::read_to_string(&base).unwrap()));
    edit(&lab.repo().join("docs/cover-letter.md"), "map, patch 2.", "map, patch 2.\n3. Selftests, patch 3.");
    git(&lab.work(), &["checkout", "-q", "main"]);
    // What kernels without tests run.
    write(&lab.repo().join("harness/results.toml"), "tests = [\"test-trace.sh\"]\nrow = []\n");
    for name in ["Makefile", "lazy_map_basic.c"] {
        write(&lab.repo().join("selftests/test_modules").join(name), "#\n");
        write(&lab.work().join("tools/testing/selftests/riscv/lazy_map/test_modules").join(name), "#\n");
    }
    git(&lab.work(), &["add", "-A", "-f"]);
    git(&lab.work(), &["commit", "-q", "--amend", "--no-edit"]);
    lab.write_patches(3);
    let check = || {
        let qemu = lab.bin().join("fragile");
        said(lab.tool().env("KSRC", lab.linux()).env("LAZYMAP_QEMU", qemu).args(["series-check", "--build"]))
    };
    let row = |said: &Said, topic: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        said.out.lines().map(words).find(|l| l.starts_with(&format!("7.3.4 {topic} "))).unwrap()
    };
    let good = check();
    good.passes();
    assert_eq!(row(&good, "fixes"), "7.3.4 fixes 1-1 the bare base yes yes yes yes");
    assert_eq!(row(&good, "lazy-map"), "7.3.4 lazy-map 2-2 fixes yes yes yes yes");
    assert_eq!(row(&good, "selftests"), "7.3.4 selftests 3-3 the bare base yes yes yes yes");
    assert_eq!(row(&good, "all"), "7.3.4 all 1-3 - yes yes yes yes");
    // The series, three patches and the one topic that is no beginning of the series, which has none of the others; and
    // a module for each of the two kernels without tests.
    assert_eq!(rows.built(), 7);
    for model in ["plain", "stale", "window-1", "window-4"] {
        assert!(good.out.contains(&format!("0001-riscv-first boots on {model}: test-trace.sh\n")), "{model}: {good:?}");
    }
    assert!(!good.out.contains("0003-selftests-third boots on window-1"), "{good:?}");
    // In the middle of a topic nothing is tested but that it boots.
    let text = fs::read_to_string(&base).unwrap();
    let lazy_map = &text
        [text.find("[[topic]]\nname = \"lazy-map\"").unwrap()..text.find("[[topic]]\nname = \"selftests\"").unwrap()];
    let letter = lab.repo().join("docs/cover-letter.md");
    let named = fs::read_to_string(&letter).unwrap();
    write(&base, &text.replace(lazy_map, "").replace("stable = true\n", ""));
    write(&letter, &named.replace("patch 1.\n2. Lazy map, patch 2.\n3.", "patches 1 to 2.\n2."));
    lab.write_patches(3);
    let middle = check();
    middle.passes();
    assert!(middle.out.contains("0001-riscv-first boots on stale: test-pass.sh\n"), "{middle:?}");
    assert!(!middle.out.contains("0001-riscv-first boots on window-1"), "{middle:?}");
    assert_eq!(row(&middle, "fixes"), "7.3.4 fixes 1-2 the bare base yes yes yes yes");
    write(&base, &text);
    write(&letter, &named);
    lab.write_patches(3);
    let image = fs::read_to_string(lab.out().join("kernel/topic-selftests/Image")).unwrap();
    assert!(image.contains("line 10\n") && image.contains("line 20\n"), "{image}");
    let stale = good.out.lines().find(|l| l.starts_with("ok     series: topic selftests boots on stale")).unwrap();
    assert!(stale.contains("without the fixes test-trace.sh: stack overflow"), "{stale}");
    assert_eq!(rows.head(), "selftests: third", "the series is checked out again");
    // On the fixes it has to survive, and does.
    edit(&base, "subjects = [\"selftests: \"]\non = []", "subjects = [\"selftests: \"]\non = [\"fixes\"]");
    let good = check();
    good.passes();
    assert_eq!(row(&good, "selftests"), "7.3.4 selftests 3-3 fixes yes yes yes yes");
    assert!(good.out.contains("topic selftests boots on stale: test-trace.sh\n"), "{good:?}");
    // A kernel that dies of the second patch is one of the topics with it, and of the whole.
    write(&lab.bin().join("second"), "");
    let bad = check();
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert_eq!(row(&bad, "fixes"), "7.3.4 fixes 1-1 the bare base yes yes yes yes");
    assert_eq!(row(&bad, "lazy-map"), "7.3.4 lazy-map 2-2 fixes yes yes yes NO");
    assert_eq!(row(&bad, "selftests"), "7.3.4 selftests 3-3 fixes yes yes yes yes");
    assert_eq!(row(&bad, "all"), "7.3.4 all 1-3 - yes yes yes NO");
    assert!(bad.out.contains("FAILED series: 0002-riscv-switch boots on plain: "), "{bad:?}");
}

#[test]
fn tests_are_selected_and_repeated() {
    let rows = Rows::new();
    let done = rows.run(&["run", "default", "other", "--test", "trace", "--repeat", "3"]);
    done.passes();
    assert!(done.out.contains("default: series on stale, test-trace.sh: 0 of 3 failed\n"), "{done:?}");
    assert!(done.out.ends_with("6 passed, 0 failed, 0 skipped\n"), "{done:?}");
    assert_eq!(rows.results("run").len(), 6);
    for run in 1..=3 {
        assert!(rows.0.out().join(format!("run/default-run{run}.log")).is_file());
    }
    rows.run(&["run", "--test", "tracee"]).fails(64, &["`tracee`", "did you mean `test-trace.sh`"]);
    rows.run(&["run", "compiled", "--test", "trace"]).fails(64, &["nothing that was named runs test-trace.sh"]);
    rows.run(&["run", "--case", "no_such_case"]).fails(64, &["`no_such_case`"]);
    rows.run(&["run", "defualt"]).fails(64, &["`defualt`", "did you mean `default`"]);
    rows.run(&["controls", "brokken"]).fails(64, &["`brokken`", "did you mean `broken`"]);
    // Every other boot dies.
    let count = rows.0.dir.path().join("count");
    let machine = format!(
        "case \"$*\" in *lazymap.tests=*)\n\
         n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) >{count}\n\
         [ $((n % 2)) = 0 ] || {{ echo 'x-cache-invalid: total harts=4 stale_hits=40 fences=50' >&2; \
         cat {logs}/stack-overflow.log; exit; }} ;;\nesac\nexec \"${{0%/*}}/qemu\" \"$@\"",
        count = count.display(),
        logs = concat!(env!("CARGO_MANIFEST_DIR"), "/console/tests/fixtures/console"),
    );
    let flaky = rows.0.script("flaky", &machine);
    let mut tool = rows.0.tool();
    tool.env("KSRC", rows.0.linux()).env("LAZYMAP_QEMU", flaky).args(["run", "default", "--repeat", "4", "-q"]);
    let done = said(&mut tool);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.out.contains("test-trace.sh: 2 of 4 failed: flaky: run 2, 4\n"), "{done:?}");
    // Quiet: no steps, no rows that passed.
    assert!(!done.err.contains(" ...") && !done.out.contains("PASS") && done.out.contains("FAIL"), "{done:?}");
}

#[test]
fn results_are_written_also_if_nothing_could_be_booted() {
    let rows = Rows::new();
    let folder = rows.0.dir.path().join("for the bot");
    let options = ["--junit", "j.xml", "--tap", "tap", "--kcidb", "k.json", "--html", "h.html"];
    let words: Vec<String> = options
        .iter()
        .map(|w| if w.starts_with("--") { (*w).into() } else { folder.join(w).display().to_string() })
        .collect();
    let all: Vec<&str> = words.iter().map(String::as_str).collect();
    rows.run(&[&["run", "default"][..], all.as_slice()].concat()).passes();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(read("j.xml").contains("run.default") && read("tap/run-default.tap").contains("ok 1 selftests:"));
    assert!(read("k.json").contains("lazymap.run.default.test-trace_sh") && read("h.html").contains("<svg"));
    // Nothing of the first run may pass for a result of one that could not start.
    edit(&rows.0.linux().join("arch/riscv/kernel/entry.S"), "line 1\n", "changed\n");
    rows.run(&[&["run", "default"][..], all.as_slice()].concat()).fails(2, &["not committed"]);
    assert!(read("j.xml").contains("errors=\"1\"") && read("j.xml").contains("not committed"), "{}", read("j.xml"));
    assert!(!folder.join("tap/run-default.tap").exists());
    assert!(read("tap/run-checks.tap").contains("not ok 1 ") && read("h.html").contains("not committed"));
    assert!(!read("k.json").contains("tests"));
    rows.run(&["run", "default", "--junit", "/"]).fails(64, &["--junit / is a folder"]);
    rows.run(&["run", "default", "--slow", "0"]).fails(64, &["--slow 0", "0.1 to 100"]);
}

/// Six commits: the fifth brings a culprit, the third cannot be tested. Gives the one before them, and the culprit.
fn history(rows: &Rows) -> (String, String) {
    let linux = rows.0.linux();
    let entry = linux.join("arch/riscv/kernel/entry.S");
    let commit = |subject: &str| {
        git(&linux, &["commit", "-q", "-a", "--allow-empty", "-m", subject]);
        git(&linux, &["rev-parse", "HEAD"])
    };
    let good = commit("c0");
    commit("c1");
    commit("c2");
    // The first that git tries, and the second patch does not apply there.
    edit(&entry, "line 21\n", "elsewhere\n");
    commit("c3");
    edit(&entry, "elsewhere\n", "line 21\n");
    commit("c4");
    edit(&entry, "line 55\n", "broken\n");
    let culprit = commit("c5");
    commit("c6");
    (good, culprit)
}

/// `git bisect run` of the tool with these words, on this machine; and the commit that is blamed.
fn bisect(rows: &Rows, good: &str, machine: &str, words: &str) -> (Said, String) {
    let linux = rows.0.linux();
    git(&linux, &["bisect", "start", "HEAD", good]);
    let tool = env!("CARGO_BIN_EXE_lazymap");
    let line = format!("exec {tool} --root {} {words} >/dev/null 2>&1", rows.0.repo().display());
    let command = rows.0.tool();
    let environment: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.unwrap().to_owned())).collect();
    let mut git_bisect = std::process::Command::new("git");
    git_bisect.args(["-c", "safe.directory=*", "bisect", "run", "/bin/sh", "-c", &line]);
    git_bisect.env_clear().envs(environment).env("KSRC", &linux).env("LAZYMAP_QEMU", rows.0.bin().join(machine));
    git_bisect.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").current_dir(&linux);
    git_bisect.env("PATH", format!("{}:/usr/bin:/bin", rows.0.bin().display()));
    let done = said(&mut git_bisect);
    let first = git(&linux, &["rev-parse", "refs/bisect/bad"]);
    git(&linux, &["bisect", "reset"]);
    (done, first)
}

#[test]
fn a_bisection_finds_the_culprit_past_what_cannot_be_tested() {
    let rows = Rows::new();
    let (good, culprit) = history(&rows);
    let (done, first) = bisect(&rows, &good, "qemu", "run default --bisect");
    assert_eq!((done.code, &first), (Some(0), &culprit), "{done:?}");
    // A wrong command line ends it, and blames nobody.
    let (done, _) = bisect(&rows, &good, "qemu", "run default --bisect --frobnicate");
    assert_ne!(done.code, Some(0), "{done:?}");
    // Without the option, the commit that cannot be tested is blamed: the option is what helps.
    let (_, first) = bisect(&rows, &good, "qemu", "run default");
    assert_ne!(first, culprit);
}

/// A machine whose trace tells of what killed a kernel with broken entry code.
const TRACING: &str = r#"
case "$*" in
--version | *help* | *stdio*-S* | *-S*stdio*) exec "${0%/*}/qemu" "$@" ;;
esac
for word; do
	case $word in */Image) image=$word ;; esac
	[ "$last" = -D ] && trace=$word
	last=$word
done
if grep -q broken $image; then
	cat $tests/hunt/shadow.trace >$trace
	echo 'x-cache-invalid: total harts=4 stale_hits=10 fences=50' >&2
	cat $tests/hunt/shadow.log
else
	echo 'x-cache-invalid: total harts=4 stale_hits=0 fences=50' >&2
	cat $logs/finished.log
fi
"#;

#[test]
fn a_bisection_finds_the_commit_on_which_a_bare_kernel_dies_of_a_stale_hit() {
    let rows = Rows::new();
    let here = env!("CARGO_MANIFEST_DIR");
    let (tests, logs) = (format!("{here}/tests/fixtures"), format!("{here}/console/tests/fixtures/console"));
    rows.0.script("tracing", &format!("tests={tests}\nlogs={logs}\n{TRACING}"));
    // A kernel that has symbols, and a module for the workload.
    let vmlinux = rows.0.dir.path().join("elf");
    fs::write(&vmlinux, elf("places.elf.hex")).unwrap();
    let made = MAKE
        .replace("cp $o/arch/riscv/boot/Image $o/vmlinux", &format!("cp {} $o/vmlinux", vmlinux.display()))
        .replace(": >$o/modules.order", "echo x.o >$o/modules.order; : >$o/x.ko");
    assert!(made.contains("/elf $o/vmlinux") && made.contains("$o/x.ko"));
    rows.0.script("make", &made);
    let quiet = || {
        let mut tool = rows.0.tool();
        tool.env("KSRC", rows.0.linux()).env("LAZYMAP_QEMU", rows.0.bin().join("tracing"));
        said(tool.args(["hunt", "--tree", "base", "-q"]))
    };
    let survived = quiet();
    survived.passes();
    assert!(survived.out.starts_with("report: ") && survived.out.lines().count() == 2, "{survived:?}");
    let (good, culprit) = history(&rows);
    let killed = quiet();
    assert_eq!(killed.code, Some(1), "{killed:?}");
    assert!(killed.out.contains("a stale hit killed the kernel") && killed.out.contains("\nreport: "), "{killed:?}");
    let (done, first) = bisect(&rows, &good, "tracing", "hunt --tree base --bisect");
    assert_eq!((done.code, &first), (Some(0), &culprit), "{done:?}");
}
