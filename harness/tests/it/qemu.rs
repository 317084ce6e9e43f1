// SPDX-License-Identifier: GPL-2.0-only
//! A QEMU without the property can find nothing: it is refused. Two runs wait for each other, and
//! an interrupted one leaves nothing running.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Lab, said, write};

const WITH: &str = "case $1 in --version) echo 'QEMU emulator version 10.0.13' ;; *) echo '  x-cache-invalid=<bool>  -  (default: false)' ;; esac";

#[test]
fn the_property_is_looked_for() {
    let lab = Lab::new();
    let run = |text: &str| {
        let qemu = lab.script("qemu", text);
        said(lab.tool().env("LAZYMAP_QEMU", qemu).arg("qemu"))
    };
    let good = run(WITH);
    good.passes();
    assert!(good.out.contains("QEMU emulator version 10.0.13"), "{good:?}");
    run(&WITH.replace("x-cache-invalid=", "x-cache-invalid-not="))
        .fails(2, &["no CPU property x-cache-invalid", "10.0.13"]);
    run("exit 3").fails(2, &["does not run", "LAZYMAP_QEMU"]);
    said(lab.tool().env("LAZYMAP_QEMU", "/nowhere/qemu").arg("qemu")).fails(2, &["/nowhere/qemu does not run"]);
}

#[test]
fn a_second_run_waits_for_the_first() {
    let lab = Lab::new();
    lab.link("sleep");
    let slow = lab.script("slow", &format!("sleep 1.5; {WITH}"));
    let fast = lab.script("fast", WITH);
    let start = Instant::now();
    let mut first = lab.tool().env("LAZYMAP_QEMU", slow).arg("qemu").stdout(Stdio::null()).spawn().unwrap();
    while !std::fs::read_to_string(lab.out().join("lock")).is_ok_and(|t| t.trim() == first.id().to_string()) {
        assert!(start.elapsed() < Duration::from_secs(5), "the first run never took the lock");
        sleep(Duration::from_millis(10));
    }
    let second = said(lab.tool().env("LAZYMAP_QEMU", fast).arg("qemu"));
    assert!(start.elapsed() > Duration::from_secs(1), "it did not wait");
    second.passes();
    assert!(second.err.contains(&format!("pid {} is working in", first.id())), "{second:?}");
    assert!(first.wait().unwrap().success());
}

/// Whether a process still runs (a zombie does not).
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

#[test]
fn nobody_reads_what_it_prints() {
    let lab = Lab::new();
    lab.link("sleep");
    // The reader of stderr is gone before the first line: no panic, no hang.
    let mut first = lab.tool().env("KSRC", lab.linux()).arg("kernels").stderr(Stdio::piped()).spawn().unwrap();
    drop(first.stderr.take());
    assert_eq!(first.wait().unwrap().code(), Some(2));
    // The same, interrupted while it prints nothing.
    let started = lab.dir.path().join("started");
    let slow = lab.script("slow", &format!("echo $$ > {}; exec sleep 60", started.display()));
    let mut tool = lab.tool();
    let mut child = tool.env("LAZYMAP_QEMU", slow).arg("qemu").stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let start = Instant::now();
    let pid = loop {
        let text = std::fs::read_to_string(&started).unwrap_or_default();
        if text.ends_with('\n') {
            break text;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "it never started");
        sleep(Duration::from_millis(10));
    };
    let kill = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status();
    assert!(kill.unwrap().success());
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("it hangs");
        }
        sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
    sleep(Duration::from_millis(100));
    assert!(!runs(pid.trim()), "a QEMU is left behind");
}

#[test]
fn an_interrupted_build_leaves_nothing_running() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("KILL", -1)] {
        let lab = Lab::new();
        lab.link("sleep");
        let (pids, ended) = (lab.dir.path().join("pids"), lab.dir.path().join("ended"));
        // A make that starts a child, as make does, and ends it when it is asked to end, as make does.
        let text = format!(
            "sleep 60 & echo $$ $! > {}; trap 'echo > {}; kill $!; exit 1' TERM; wait",
            pids.display(),
            ended.display()
        );
        lab.script("make", &text);
        let mut child = lab.tool().env("KSRC", lab.linux()).arg("kernels").stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        let running = loop {
            let text = std::fs::read_to_string(&pids).unwrap_or_default();
            if text.ends_with('\n') {
                break text;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the build never started");
            sleep(Duration::from_millis(20));
        };
        let kill = std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
        assert!(kill.unwrap().success());
        let status = child.wait().unwrap();
        assert_eq!(status.code().unwrap_or(-1), code, "{signal}");
        if code != -1 {
            let said: Vec<String> =
                BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok).collect();
            assert!(said.iter().any(|l| l.starts_with("lazymap: interrupted")), "{said:?}");
        }
        let start = Instant::now();
        while running.split_whitespace().any(runs) {
            assert!(start.elapsed() < Duration::from_secs(5), "{signal}: {running} still runs");
            sleep(Duration::from_millis(20));
        }
        assert!(ended.exists(), "{signal}: make had no time to clean up");
        // What was begun is continued, not taken for an edit by hand.
        write(&pids, "");
        lab.script("make", "echo 'make failed'; exit 2");
        lab.with_ksrc(&["kernels"]).fails(2, &["`make", "failed", "log"]);
    }
}
