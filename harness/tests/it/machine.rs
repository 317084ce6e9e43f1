// SPDX-License-Identifier: GPL-2.0-only
//! Runs of machines that are shell scripts: what they say, how they end, and that they end.

use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lazymap::boot::machine::{self, Boot, Counters, HartCounters, Irq, Limits, Machine, Model, Run};
use lazymap::ground::error::{Error, Exit};
use lazymap_console::end::{End, Ending};
use tempfile::TempDir;

const PLAIN: Machine = Machine {
    model: Model { name: Cow::Borrowed("plain"), cpu: Cow::Borrowed(""), stale: false },
    core: Cow::Borrowed(Machine::CORE),
    irq: Irq::Imsic,
    harts: 4,
    memory_mib: 1024,
    icount: false,
    seed: None,
};
const STALE: Machine = Machine {
    model: Model { name: Cow::Borrowed("stale"), cpu: Cow::Borrowed("x-cache-invalid=on"), stale: true },
    core: Cow::Borrowed(Machine::CORE),
    irq: Irq::Sbi,
    harts: 2,
    memory_mib: 512,
    icount: false,
    seed: None,
};
const COUNTERS: &str =
    "x-cache-invalid: hart=0 stale_hits=1 fences=2 remembered=3 coexisting=1 chosen_invalid=1 evictions=0
x-cache-invalid: hart=1 stale_hits=39 fences=3 remembered=3 coexisting=0 chosen_invalid=0 evictions=9
x-cache-invalid: total harts=2 stale_hits=40 fences=12345 remembered=5678 coexisting=1 chosen_invalid=1 evictions=9";
/// The least that a kernel says.
const BOOT: &str = "echo '[    0.000000] Linux version 7.3.4'; echo '[    1.000000] lazymap: guest ready'\n";

/// Enough for a busy machine, for runs that end by themselves.
const PATIENT: Limits = Limits {
    silence: Duration::from_secs(60),
    total: Duration::from_secs(120),
    panic: Duration::from_secs(60),
    end: Duration::from_secs(30),
};

/// The time that a run must not exceed if it is ended early; far less than [`PATIENT`].
const EARLY: Duration = Duration::from_secs(25);

struct Fake {
    dir: TempDir,
    qemu: PathBuf,
}

impl Fake {
    /// A machine that runs `script` in a folder of its own, where `pid` tells its process.
    fn new(script: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let qemu = dir.path().join("qemu");
        symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fake-qemu"), &qemu).unwrap();
        fs::write(dir.path().join("script"), script).unwrap();
        Self { dir, qemu }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn try_run(&self, machine: Machine, limits: Limits) -> Result<Run, Error> {
        let console = self.path("logs/k-m.log");
        let boot =
            Boot { machine: &machine, append: "lazymap.tests=a", limits, ..self.boot(Path::new("/Image"), &console) };
        boot.run(&mut |_| {})
    }

    /// A boot on harts that forget, with nothing but a kernel and an initramfs.
    fn boot<'a>(&'a self, image: &'a Path, console: &'a Path) -> Boot<'a> {
        Boot {
            machine: &PLAIN,
            qemu: &self.qemu,
            property: "x-cache-invalid",
            firmware: Path::new("/none"),
            image,
            image_stays: true,
            initrd: Some(Path::new("/none")),
            append: "",
            more: &[],
            drives: &[],
            plugin: None,
            trace: None,
            console,
            limits: PATIENT,
        }
    }

    fn run(&self, machine: Machine, limits: Limits) -> Run {
        self.try_run(machine, limits).unwrap()
    }
}

/// Whether the process in `file` is still there, as more than a line in its parent's books.
fn alive(file: &Path) -> bool {
    let pid = fs::read_to_string(file).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| state != 'Z')
}

/// Waits for `wanted`, for long enough on any machine.
fn wait_for(what: &str, wanted: impl Fn() -> bool) {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < Duration::from_secs(30), "waiting for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn finished() -> String {
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/console/tests/fixtures/console/finished.log");
    format!("cat '{log}'\n")
}

#[test]
fn a_run_to_the_end_is_kept_and_can_be_repeated() {
    let fake = Fake::new(&format!("{}printf '%s\\n' \"$@\" >arguments\necho warning >&2", finished()));
    let mut lines = Vec::new();
    let console = fake.path("logs/k-m.log");
    let boot = Boot {
        firmware: Path::new("/fw dir/fw.bin"),
        initrd: Some(Path::new("/it's.gz")),
        append: "lazymap.tests=a",
        plugin: Some("file=x.so,out=a b"),
        ..fake.boot(Path::new("/Image"), &console)
    };
    let run = boot.run(&mut |line| lines.push(line.to_owned())).unwrap();
    assert_eq!((run.reading.end.clone(), run.ending.clone()), (End::Finished, Ending::Exited(0)));
    assert_eq!(run.counters, Ok(None));
    assert_eq!(fake.text("logs/k-m.log"), run.log.raw);
    assert_eq!(fake.text("logs/k-m.qemu.log"), "warning\n");
    assert_eq!(lines.len(), run.log.raw.lines().count());
    assert_eq!(run.log.complete(), lines.len());
    assert!(run.log.at(1) <= run.log.at(lines.len()) && run.log.at(lines.len()) <= run.log.seconds);
    let arguments = "-M\nvirt,aia=aplic-imsic\n-cpu\nrv64\n-smp\n4\n-m\n1024M\n-display\nnone\n-monitor\nnone\n-serial\n\
         stdio\n-no-reboot\n-bios\n/fw dir/fw.bin\n-kernel\n/Image\n-initrd\n/it's.gz\n-plugin\nfile=x.so,out=a b\n-append\n\
         console=ttyS0 earlycon panic=-1 oops=panic printk.devkmsg=on loglevel=7 lazymap.tests=a\n";
    assert_eq!(fake.text("arguments"), arguments);
}

#[test]
fn a_boot_leaves_what_repeats_it_elsewhere() {
    let fake = Fake::new(&format!("for word; do echo \"$word\"; done >arguments\n{}", finished()));
    let at = |name: &str| fake.path(name);
    for (name, text) in [("Image", "kernel"), ("it's.gz", "guest"), ("fw.bin", "firmware")] {
        fs::write(at(name), text).unwrap();
    }
    let (console, trace, initrd) = (at("logs/k-m.log"), at("trace"), at("it's.gz"));
    let (firmware, image) = (at("fw.bin"), at("Image"));
    let boot = Boot {
        firmware: &firmware,
        image_stays: false,
        initrd: Some(&initrd),
        append: "lazymap.tests=a x=\"it's\"",
        plugin: Some("file=x.so,out=a b"),
        trace: Some((&trace, "riscv_*")),
        ..fake.boot(&image, &console)
    };
    boot.run(&mut |_| {}).unwrap();
    // On another machine, nothing of this one is there.
    let elsewhere = TempDir::new().unwrap();
    let moved = elsewhere.path().join("moved here");
    assert!(Command::new("cp").arg("-r").arg(at("logs/k-m")).arg(&moved).status().unwrap().success());
    let script = moved.join("reproduce.sh");
    let other = Fake::new("for word; do echo \"$word\"; done >arguments\n");
    for name in ["Image", "it's.gz", "fw.bin", "qemu"] {
        fs::remove_file(at(name)).unwrap();
    }
    let run = |env: &[(&str, &Path)], words: &[&str]| {
        let mut command = Command::new("sh");
        command.arg(&script).args(words).env_remove("QEMU").current_dir("/");
        env.iter().for_each(|(name, value)| {
            command.env(name, value);
        });
        command.output().unwrap()
    };
    let says = |done: &std::process::Output| String::from_utf8_lossy(&done.stderr).into_owned();
    let none = run(&[], &[]);
    assert_eq!(none.status.code(), Some(2));
    assert!(says(&none).contains("there is no QEMU at") && says(&none).contains("QEMU="), "{none:?}");
    let done = run(&[("QEMU", other.qemu.as_path())], &["-S", "a b"]);
    assert!(done.status.success(), "{done:?}");
    assert!(says(&done).contains("without the plugin x.so"), "{done:?}");
    let arguments = "-M\nvirt,aia=aplic-imsic\n-cpu\nrv64\n-smp\n4\n-m\n1024M\n-display\nnone\n-monitor\nnone\n-serial\n\
         stdio\n-no-reboot\n-bios\nfw_dynamic.bin\n-kernel\nImage\n-initrd\ninitramfs.cpio.gz\n-append\n\
         console=ttyS0 earlycon panic=-1 oops=panic printk.devkmsg=on loglevel=7 lazymap.tests=a x=\"it's\"\n\
         -D\nqemu.trace\n-trace\nriscv_*\n-S\na b\n";
    assert_eq!(other.text("arguments"), arguments);
    for (name, text) in [("Image", "kernel"), ("initramfs.cpio.gz", "guest"), ("fw_dynamic.bin", "firmware")] {
        assert_eq!(fs::read_to_string(moved.join(name)).unwrap(), text);
    }
    // Another kernel, and more for its command line.
    let image = Path::new("/else/Image");
    assert!(
        run(&[("QEMU", other.qemu.as_path()), ("IMAGE", image), ("APPEND", Path::new("debug"))], &[]).status.success()
    );
    let arguments = other.text("arguments");
    assert!(arguments.contains("-kernel\n/else/Image\n") && arguments.contains("x=\"it's\" debug\n"), "{arguments}");
    // Not the kernel that it says.
    fs::write(moved.join("Image"), "another").unwrap();
    let changed = run(&[("QEMU", other.qemu.as_path())], &[]);
    assert_eq!(changed.status.code(), Some(2));
    assert!(says(&changed).contains("not the kernel that was booted"), "{changed:?}");
}

#[test]
fn a_boot_may_have_a_disk_in_place_of_an_initramfs() {
    let fake = Fake::new(&format!("for word; do echo \"$word\"; done >arguments\n{}", finished()));
    let (console, image) = (fake.path("logs/k-m.log"), fake.path("Image"));
    fs::write(&image, "kernel").unwrap();
    let earlier = fake.path("logs/k-m/initramfs.cpio.gz");
    fs::create_dir_all(fake.path("logs/k-m")).unwrap();
    fs::write(&earlier, "").unwrap();
    let more = ["-drive", "if=virtio,file=/a b"].map(OsString::from);
    let boot = Boot { initrd: None, append: "root=/dev/vda", more: &more, ..fake.boot(&image, &console) };
    boot.run(&mut |_| {}).unwrap();
    let ended = "loglevel=7 root=/dev/vda\n-drive\nif=virtio,file=/a b\n";
    let arguments = fake.text("arguments");
    assert!(arguments.ends_with(ended) && !arguments.contains("-initrd"), "{arguments}");
    assert!(!earlier.exists(), "it is not of this boot");
    // Its reproducer takes one all the same.
    let again = |initrd: &str| {
        let mut command = Command::new("sh");
        command.arg(fake.path("logs/k-m/reproduce.sh")).env("QEMU", &fake.qemu).env("INITRD", initrd);
        assert!(command.output().unwrap().status.success());
        fake.text("arguments")
    };
    let without = again("");
    assert!(without.ends_with(ended) && !without.contains("-initrd"), "{without}");
    let with = again("/an initrd");
    assert!(with.ends_with(ended) && with.contains("\n-initrd\n/an initrd\n"), "{with}");
    let script = fake.text("logs/k-m/reproduce.sh");
    assert!(script.contains("the files that its last\n# arguments name"), "{script}");
}

#[test]
fn a_reproducer_uses_a_sandbox_if_its_qemu_has_one() {
    let refuses = "[ \"$1\" != -sandbox ] || [ ! -e refuse ] || exit 1\n";
    let fake = Fake::new(&format!("{refuses}for word; do echo \"$word\"; done >arguments\n{}", finished()));
    let (console, image) = (fake.path("logs/k-m.log"), fake.path("Image"));
    fs::write(&image, "kernel").unwrap();
    let more = ["-sandbox", "on,spawn=deny", "-device", "virtio-rng-pci"].map(OsString::from);
    let boot = Boot { more: &more, ..fake.boot(&image, &console) };
    boot.run(&mut |_| {}).unwrap();
    let ended = "-device\nvirtio-rng-pci\n";
    assert!(fake.text("arguments").ends_with(&format!("-sandbox\non,spawn=deny\n{ended}")));
    let again = || {
        let mut command = Command::new("sh");
        command.arg(fake.path("logs/k-m/reproduce.sh")).env("QEMU", &fake.qemu);
        assert!(command.output().unwrap().status.success());
        fake.text("arguments")
    };
    let with = again();
    assert!(with.ends_with(&format!("{ended}-sandbox\non,spawn=deny\n")), "{with}");
    fs::write(fake.path("refuse"), "").unwrap();
    let without = again();
    assert!(without.ends_with(ended) && !without.contains("-sandbox"), "{without}");
}

#[test]
fn a_link_to_an_image_outlives_its_replacement() {
    let fake = Fake::new(&finished());
    fs::write(fake.path("Image"), "old").unwrap();
    let (console, image) = (fake.path("logs/k-m.log"), fake.path("Image"));
    let boot = fake.boot(&image, &console);
    for text in ["old", "new"] {
        fs::remove_file(fake.path("Image")).unwrap();
        fs::write(fake.path("Image"), text).unwrap();
        boot.run(&mut |_| {}).unwrap();
        assert_eq!(fake.text("logs/k-m/Image"), text);
        // Once more: what is there already is a link to the very same file.
        boot.run(&mut |_| {}).unwrap();
        assert_eq!((fake.text("logs/k-m/Image").as_str(), fake.text("Image").as_str()), (text, text));
    }
    fs::remove_file(fake.path("Image")).unwrap();
    assert_eq!(fake.text("logs/k-m/Image"), "new");
}

#[test]
fn slow_tests_get_more_time() {
    let limits = |tests: &[&str]| Limits::for_boot(tests, &PLAIN).silence.as_secs();
    assert_eq!(limits(&["test-ipi.sh", "test-trace.sh", "test-regs.sh", "test-fork.sh"]), 60);
    assert_eq!(limits(&["test-ipi.sh", "test-reload.sh"]), 240);
    assert_eq!(limits(&["test-killed.sh"]), 240);
    assert_eq!(limits(&["test-ipi.sh"; 5]), 240);
}

#[test]
fn limits_stretch_with_the_host() {
    let limits = Limits { silence: Duration::from_secs(60), total: Duration::from_secs(240), ..Limits::default() };
    let slow = limits.times(2.5);
    assert_eq!((slow.silence, slow.total, slow.end), (Duration::from_secs(150), Duration::from_secs(600), limits.end));
    // Silent for longer than the limit allows on a fast host, for less than on a slow one.
    let fake = Fake::new(&format!("{BOOT}sleep 3\n"));
    let short = Limits { silence: Duration::from_secs(1), ..PATIENT };
    assert!(matches!(fake.run(PLAIN, short).ending, Ending::Silent(_)));
    assert_eq!(fake.run(PLAIN, short.times(20.0)).ending, Ending::Exited(0));
}

#[test]
fn a_stale_machine_gets_the_property_and_must_count() {
    let fake = Fake::new(&format!("{}echo '{COUNTERS}' >&2; echo \"$1 $2 $3 $4\" >arguments", finished()));
    let run = fake.run(STALE, PATIENT);
    assert_eq!(fake.text("arguments"), "-M virt -cpu rv64,x-cache-invalid=on\n");
    assert_eq!(run.counters, Ok(Some(Counters { harts: 2, stale_hits: 40, fences: 12345, gone_tables: 0 })));
    let hart = |hart, stale_hits, fences| HartCounters { hart, stale_hits, fences };
    assert_eq!(run.harts, Ok(vec![hart(0, 1, 2), hart(1, 39, 3)]));

    let run = fake.run(Machine { harts: 4, ..STALE }, PATIENT);
    assert_eq!(run.counters, Err("QEMU counted 2 harts of 4".to_owned()));
    assert!(fake.run(PLAIN, PATIENT).counters.is_err());
    assert!(Fake::new(&finished()).run(STALE, PATIENT).counters.is_err());
}

#[test]
fn counters_that_do_not_say_what_they_should() {
    let read = |text: &str| machine::parse_counters(text, "x-cache-invalid");
    assert_eq!(read(COUNTERS).unwrap().unwrap().stale_hits, 40);
    assert_eq!(read("qemu: warning\n\n"), Ok(None));
    assert_eq!(read(&COUNTERS.replace("x-cache-invalid", "other")), Ok(None));
    assert!(read(&format!("{COUNTERS}\n{COUNTERS}")).is_err());
    for (from, to) in [("stale_hits=40", ""), ("stale_hits=40", "stale_hits=many"), ("total harts=2", "total harts=-1")]
    {
        assert!(read(&COUNTERS.replace(from, to)).is_err(), "{to}");
    }
    let more = "x-cache-invalid: total harts=1 new=7 stale_hits=1 fences=2\r\n";
    assert_eq!(read(more), Ok(Some(Counters { harts: 1, stale_hits: 1, fences: 2, gone_tables: 0 })));
}

#[test]
fn counters_of_each_hart() {
    let read = |text: &str| machine::parse_harts(text, "x-cache-invalid");
    let harts = |text: &str| read(text).unwrap().iter().map(|h| (h.hart, h.fences)).collect::<Vec<_>>();
    assert_eq!(harts(COUNTERS), [(0, 2), (1, 3)]);
    assert_eq!(harts(&COUNTERS.replace("hart=0", "hart=10")), [(1, 3), (10, 2)]);
    assert_eq!(read("qemu: warning\n"), Ok(Vec::new()));
    for (from, to) in [("hart=1", "hart=0"), ("hart=1", "hart=b"), ("fences=2", ""), ("stale_hits=39", "stale_hits=-1")]
    {
        assert!(read(&COUNTERS.replace(from, to)).is_err(), "{to}");
    }
}

#[test]
fn a_machine_is_called_after_its_model_and_what_is_unusual() {
    let of = |machine: &Machine| (machine.name(), machine.cpu());
    let said = |name: &str, cpu: &str| (name.to_owned(), cpu.to_owned());
    assert_eq!(of(&PLAIN), said("plain", "rv64"));
    assert_eq!(of(&STALE), said("stale-sbi", "rv64,x-cache-invalid=on"));
    assert_eq!(of(&Machine { core: "max".into(), ..PLAIN }), said("plain-max", "max"));
    let all = Machine { core: "sifive-u54".into(), ..STALE };
    assert_eq!(of(&all), said("stale-sifive-u54-sbi", "sifive-u54,x-cache-invalid=on"));
    assert!(all.arguments().join(" ").contains("-cpu sifive-u54,x-cache-invalid=on -smp 2"));
}

#[test]
fn a_seed_fixes_all_that_is_random() {
    let seeded = Machine { icount: true, seed: Some(7), ..PLAIN };
    let all = seeded.arguments().join(" ");
    assert!(all.ends_with("-icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm -seed 7"), "{all}");
    assert!(!PLAIN.arguments().contains(&"-seed".to_owned()));
}

#[test]
fn a_qemu_that_fails_is_no_guest_that_fails() {
    let run = Fake::new("echo 'qemu: no such property' >&2; exit 1").run(PLAIN, PATIENT);
    assert_eq!(run.reading.end, End::QemuFailed { stderr: "qemu: no such property".to_owned() });
    assert_eq!(run.ending, Ending::Exited(1));
    let run = Fake::new(&format!("{BOOT}kill -SEGV $$")).run(PLAIN, PATIENT);
    assert_eq!(run.ending, Ending::Signal(11));
    assert!(matches!(run.reading.end, End::QemuFailed { .. }));
    assert_eq!(Fake::new("echo OpenSBI").run(PLAIN, PATIENT).reading.end, End::NeverBooted);
}

#[test]
fn a_qemu_that_is_not_there() {
    let fake = Fake::new("");
    fs::remove_file(&fake.qemu).unwrap();
    let error = fake.try_run(PLAIN, PATIENT).unwrap_err();
    assert_eq!(error.exit, Exit::CouldNot);
    assert!(error.message.contains("/qemu: No such file"), "{error}");
}

#[test]
fn a_silent_guest_is_ended_and_leaves_nothing_behind() {
    let limits = Limits { silence: Duration::from_secs(1), ..PATIENT };
    let fake = Fake::new(&format!("{BOOT}sleep 1000 & echo $! >child\nwait"));
    let started = Instant::now();
    let run = fake.run(PLAIN, limits);
    assert_eq!(run.reading.end, End::Hang(limits.silence));
    assert!(run.reading.ready);
    assert!(started.elapsed() < EARLY);
    assert!(!alive(&fake.path("pid")));
    wait_for("the child to end", || !alive(&fake.path("child")));
    let run = Fake::new("echo OpenSBI; sleep 1000").run(PLAIN, limits);
    assert_eq!(run.reading.end, End::NeverBooted);
}

#[test]
fn a_qemu_that_ignores_sigterm_is_ended_all_the_same() {
    let limits = Limits { silence: Duration::from_secs(1), end: Duration::from_millis(300), ..PATIENT };
    let fake = Fake::new(&format!("trap '' TERM\n{BOOT}while :; do sleep 1; done"));
    let started = Instant::now();
    assert_eq!(fake.run(PLAIN, limits).reading.end, End::Hang(limits.silence));
    assert!(started.elapsed() < EARLY);
    assert!(!alive(&fake.path("pid")));
}

#[test]
fn a_talkative_guest_is_ended_as_well() {
    let limits = Limits { total: Duration::from_secs(2), end: Duration::from_millis(300), ..PATIENT };
    for trap in ["", "trap '' TERM\n"] {
        let fake = Fake::new(&format!("{trap}{BOOT}while :; do echo x; sleep 0.01; done"));
        let started = Instant::now();
        assert_eq!(fake.run(PLAIN, limits).reading.end, End::Timeout(limits.total));
        assert!(started.elapsed() < EARLY);
        assert!(!alive(&fake.path("pid")));
    }
}

#[test]
fn a_machine_that_stays_on_after_a_panic_is_ended_and_counts() {
    let limits = Limits { panic: Duration::from_secs(5), ..PATIENT };
    let script = format!(
        "trap 'echo \"{COUNTERS}\" >&2; echo last words; exit 0' TERM\n{BOOT}\
         echo '[    2.000000] Kernel panic - not syncing: Kernel stack overflow'\n\
         sleep 0.2; echo '[    2.100000] Call Trace:'\nwhile :; do sleep 0.1; done"
    );
    let fake = Fake::new(&script);
    let started = Instant::now();
    let run = fake.run(STALE, limits);
    assert!(matches!(run.reading.end, End::StackOverflow { .. }), "{:?}", run.reading);
    assert_eq!(run.ending, Ending::Panicked);
    assert!(started.elapsed() < EARLY);
    assert!(run.log.raw.ends_with("Call Trace:\nlast words\n"), "{}", run.log.raw);
    assert_eq!(fake.text("logs/k-m.log"), run.log.raw);
    assert_eq!(run.counters.unwrap().unwrap().stale_hits, 40);
}

#[test]
fn a_machine_whose_next_kernel_starts_after_a_panic_goes_on() {
    let limits = Limits { panic: Duration::from_millis(500), ..PATIENT };
    let script = format!(
        "{}echo '[    2.200000] Kernel panic - not syncing: sysrq triggered crash'\n\
         echo '[    0.000000] Linux version 7'\nsleep 1.5\necho '[    1.500000] still here'\n",
        "echo '[    0.000000] Linux version 7'\necho '[    2.000000] lazymap: the next kernel starts'\n"
    );
    let fake = Fake::new(&script);
    let run = fake.run(PLAIN, limits);
    assert_eq!(run.ending, Ending::Exited(0));
    assert!(run.log.raw.ends_with("still here\n"), "{}", run.log.raw);
}

#[test]
fn what_qemu_leaves_behind_is_not_waited_for() {
    let fake = Fake::new(&format!("{}sleep 1000 & echo $! >child", finished()));
    let started = Instant::now();
    assert_eq!(fake.run(PLAIN, PATIENT).reading.end, End::Finished);
    assert!(started.elapsed() < EARLY);
    wait_for("the child to end", || !alive(&fake.path("child")));
}

/// The test is its own victim: started once more with the name of a file in this variable, it runs
/// a machine that writes its process there, until it is killed.
const VICTIM: &str = "LAZYMAP_TEST_VICTIM";

#[test]
fn a_tool_that_is_killed_leaves_no_machine_behind() {
    if let Some(pid) = env::var_os(VICTIM) {
        Fake::new(&format!("echo $$ >'{}'; exec sleep 1000", Path::new(&pid).display())).run(PLAIN, PATIENT);
        return;
    }
    let dir = TempDir::new().unwrap();
    let pid = dir.path().join("pid");
    let name = "a_tool_that_is_killed_leaves_no_machine_behind";
    let mut victim = Command::new(env::current_exe().unwrap());
    victim.args(["--exact", &format!("machine::{name}")]).env(VICTIM, &pid).env("TMPDIR", dir.path());
    let mut victim = victim.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the machine to run", || fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')));
    assert!(alive(&pid));
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_for("the machine to end", || !alive(&pid));
}
