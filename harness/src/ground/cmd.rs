// SPDX-License-Identifier: GPL-2.0-only
//! Child processes: output kept in a log file or in memory, and none that outlives the tool.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal, test_kill_process_group,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;

/// Number of log lines that an error message quotes.
const SHOWN_LINES: usize = 12;

/// How long interrupted builds get to remove their half-written files.
const GRACE: Duration = Duration::from_secs(5);

/// Set on a signal; the process is about to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Process groups of the running [`logged`] children.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Runs `command` to its end with stdout and stderr in `log`, showing lines in `step`.
///
/// # Errors
/// When it cannot be started or ends with a status other than 0; then the last lines of the log go
/// to stderr, and the error names the log.
pub fn logged(command: &mut Command, log: &Path, step: &Step) -> Result<()> {
    let tail = match captured(command, log, step)? {
        Ended::Well => return Ok(()),
        Ended::Badly { tail, what } => {
            for line in &tail {
                step.println(&format!("    {line}"));
            }
            what
        }
    };
    Err(Error::could_not(format!("{tail}; whole output in {}", log.display())))
}

/// How a child of [`captured`] ended.
pub enum Ended {
    /// With status 0.
    Well,
    /// With another status.
    Badly {
        /// The last lines that it printed.
        tail: Vec<String>,
        /// The program and its status, as the start of a message.
        what: String,
    },
}

/// As [`logged`], for callers that report a failure themselves.
///
/// # Errors
/// When the command cannot be started or the log cannot be written.
pub fn captured(command: &mut Command, log: &Path, step: &Step) -> Result<Ended> {
    if let Some(parent) = log.parent() {
        files::create_dir(parent)?;
    }
    let mut file = File::create(log).map_err(|e| Error::io("create", log, e))?;
    let name = display(command);
    let (reader, writer) = std::io::pipe().map_err(|e| Error::could_not(format!("pipe: {e}")))?;
    let second = writer.try_clone().map_err(|e| Error::could_not(format!("pipe: {e}")))?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second).process_group(0);
    dies_with_signal(command, Signal::TERM);
    let mut child = command.spawn().map_err(|e| cannot_run(&name, &e))?;
    let group = Group::register(child.id());
    // The parent's copies of the pipe's write end must go, or the read below never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail: Vec<String> = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let Ok(line) = line else { break };
        file.write_all(&line).and_then(|()| file.write_all(b"\n")).map_err(|e| Error::io("write", log, e))?;
        let text = String::from_utf8_lossy(&line).into_owned();
        step.detail(text.trim());
        if tail.len() == SHOWN_LINES {
            tail.remove(0);
        }
        tail.push(text);
    }
    let status = child.wait().map_err(|e| Error::could_not(format!("waiting for `{name}`: {e}")))?;
    drop(group);
    park_if_interrupted();
    Ok(if status.success() { Ended::Well } else { Ended::Badly { tail, what: format!("`{name}` failed ({status})") } })
}

/// As [`captured`], for what must not be interrupted: if the tool is, the command still runs to its
/// end. (Killing a package manager leaves the machine in need of repair.)
///
/// # Errors
/// As [`captured`].
pub fn uninterrupted(command: &mut Command, log: &Path) -> Result<Ended> {
    if let Some(parent) = log.parent() {
        files::create_dir(parent)?;
    }
    let name = display(command);
    // A file and not a pipe, which would break with the tool.
    let file = File::create(log).map_err(|e| Error::io("create", log, e))?;
    let second = file.try_clone().map_err(|e| Error::io("create", log, e))?;
    command.stdin(Stdio::null()).stdout(file).stderr(second).process_group(0);
    let status = command.status().map_err(|e| cannot_run(&name, &e))?;
    park_if_interrupted();
    if status.success() {
        return Ok(Ended::Well);
    }
    let text = files::read_lossy(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().map(|l| (*l).to_owned()).collect();
    Ok(Ended::Badly { tail, what: format!("`{name}` failed ({status})") })
}

/// Runs `command` and returns its stdout as text.
///
/// # Errors
/// When it cannot be started or fails; the error carries its last line of stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let name = display(command);
    dies_with_signal(command, Signal::TERM);
    let done = command.stdin(Stdio::null()).output().map_err(|e| cannot_run(&name, &e))?;
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        let last = stderr.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("no message");
        return Err(Error::could_not(format!("`{name}` failed ({}): {last}", done.status)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// How often a [`Dialogue`] is polled.
const TICK: Duration = Duration::from_millis(10);
/// How long to wait for the output of a process that has ended.
const DRAIN: Duration = Duration::from_secs(5);

/// All that a program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it ended; `None` if it had to be killed.
    pub status: Option<ExitStatus>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// Runs `command` with an empty stdin; kills it after `limit`.
///
/// # Errors
/// When it cannot be started or waited for. A command that fails or is killed is not an error.
pub fn within(command: &mut Command, limit: Duration) -> Result<Said> {
    Dialogue::start(command)?.end(limit)
}

/// A running program: its output is kept in memory, and it never outlives this value.
///
/// The thread that starts it must outlive it; see [`dies_with_us`].
pub struct Dialogue {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Pipe,
    stderr: Pipe,
}

impl Dialogue {
    /// Starts `command` in its own process group.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = display(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = dies_with_us(command).spawn().map_err(|e| cannot_run(&name, &e))?;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (Pipe::read(child.stdout.take()), Pipe::read(child.stderr.take()));
        Ok(Self { name, child, stdin, stdout, stderr })
    }

    pub fn say(&mut self, text: &str) {
        if let Some(stdin) = &mut self.stdin {
            // It may have ended by now; its status and output say why.
            let _ = stdin.write_all(text.as_bytes());
        }
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until `wanted` holds for its stdout so far. False if the program ends, or `limit` is over,
    /// first.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn wait_until(&mut self, limit: Duration, mut wanted: impl FnMut(&str) -> bool) -> Result<bool> {
        let until = Instant::now() + limit;
        loop {
            let over = self.try_wait()?.is_some() || Instant::now() >= until;
            if wanted(&self.stdout.text()) {
                return Ok(true);
            }
            if over {
                return Ok(false);
            }
            thread::sleep(TICK);
        }
    }

    /// Closes its stdin and waits for its end; kills it after `limit`.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn end(mut self, limit: Duration) -> Result<Said> {
        self.stdin = None;
        let until = Instant::now() + limit;
        let mut status = self.try_wait()?;
        while status.is_none() && Instant::now() < until {
            thread::sleep(TICK);
            status = self.try_wait()?;
        }
        if status.is_none() {
            self.kill();
        }
        Ok(Said { status, stdout: self.stdout.rest(), stderr: self.stderr.rest() })
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|e| Error::could_not(format!("waiting for `{}`: {e}", self.name)))
    }

    fn kill(&mut self) {
        if let Some(group) = self.pid() {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // Once it has been waited for, its number may be that of another process.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

/// A pipe with a thread that reads it, so that the program never blocks on a full pipe.
struct Pipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Pipe {
    fn read(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = pipe.map(|mut pipe| {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
                }
            })
        });
        Self { bytes, reader }
    }

    /// The output so far.
    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// All output, after the end of the program. Does not wait for a process that it left behind.
    fn rest(&self) -> String {
        let until = Instant::now() + DRAIN;
        while self.reader.as_ref().is_some_and(|r| !r.is_finished()) && Instant::now() < until {
            thread::sleep(TICK);
        }
        self.text()
    }
}

/// A value among others in an argument of QEMU's: a single comma would end it.
pub fn option_value(text: &str) -> String {
    text.replace(',', ",,")
}

/// A command without the variables with which an outer make or the user's shell would steer a build.
///
/// `make demo KSRC=…` exports its variables to everything below it; the kernel's make must not see them.
pub fn plain(program: impl AsRef<OsStr>) -> Command {
    const STEERING: [&str; 24] = [
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "MAKEFILES",
        "MAKEOVERRIDES",
        "GNUMAKEFLAGS",
        "KSRC",
        "BASE",
        "OUT",
        "ARCH",
        "CROSS_COMPILE",
        "CC",
        "LD",
        "LLVM",
        "LLVM_IAS",
        "O",
        "V",
        "W",
        "C",
        "M",
        "KBUILD_OUTPUT",
        "KCFLAGS",
        "KRUSTFLAGS",
        "LOCALVERSION",
    ];
    let mut command = Command::new(program);
    for name in STEERING {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C");
    command
}

/// Makes the kernel kill the child the moment the tool is gone, however it went.
///
/// The *thread* that spawns the child counts as its parent: it must outlive the child.
pub fn dies_with_us(command: &mut Command) -> &mut Command {
    dies_with_signal(command, Signal::KILL)
}

/// As [`dies_with_us`], with a signal that lets the child clean up: for git and its lock files.
pub fn ends_with_us(command: &mut Command) -> &mut Command {
    dies_with_signal(command, Signal::TERM)
}

/// `make` and `ninja` get SIGTERM rather than SIGKILL: they then end their own children.
#[allow(unsafe_code)]
fn dies_with_signal(command: &mut Command, signal: Signal) -> &mut Command {
    // SAFETY: the closure runs between fork and exec; all it does is one prctl system call,
    // which neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || Ok(set_parent_process_death_signal(Some(signal))?)) }
}

/// Ends the tool on Ctrl-C, SIGTERM and SIGHUP, builds first; the exit code is 128 + the signal.
///
/// # Errors
/// When the signals cannot be caught.
pub fn end_on_signals() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| Error::could_not(format!("cannot catch signals: {e}")))?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            // The reader of stderr may be gone; that must not keep the process from ending.
            let _ = writeln!(
                std::io::stderr(),
                "\nlazymap: interrupted; what was finished is kept, the same command continues from there"
            );
            end_groups();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Never returns once the tool is about to end: a build that was told to end has not failed.
pub fn park_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Asks all running builds to end, and kills them after [`GRACE`].
fn end_groups() {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let ask = |signal| {
        for &group in &groups {
            // It may have ended by now.
            let _ = kill_process_group(group, signal);
        }
    };
    ask(Signal::TERM);
    let until = Instant::now() + GRACE;
    while Instant::now() < until && groups.iter().any(|&g| test_kill_process_group(g).is_ok()) {
        thread::sleep(Duration::from_millis(20));
    }
    ask(Signal::KILL);
}

/// Keeps a process group in [`GROUPS`] while its leader runs.
struct Group(Option<Pid>);

impl Group {
    fn register(id: u32) -> Self {
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).extend(pid);
        Self(pid)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).retain(|p| Some(*p) != self.0);
    }
}

fn cannot_run(name: &str, error: &std::io::Error) -> Error {
    Error::could_not(format!("cannot run `{name}`: {error}; is it installed?"))
}

/// Program and arguments, shortened for a message.
fn display(command: &Command) -> String {
    let mut words = vec![short(command.get_program())];
    words.extend(command.get_args().take(4).map(short));
    words.join(" ")
}

fn short(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    match word.rsplit_once('/') {
        Some((_, last)) if word.starts_with('/') => last.to_owned(),
        _ => word.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough on any machine.
    const PATIENT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_program_says_is_kept() {
        let said = within(&mut shell("echo out; echo err >&2; cat; exit 3"), PATIENT).unwrap();
        assert_eq!(said.status.and_then(|s| s.code()), Some(3));
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"));
        let none = within(&mut Command::new("/no/such/program"), PATIENT).unwrap_err();
        assert!(none.message.starts_with("cannot run `program`"), "{none}");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let started = Instant::now();
        let said = within(&mut shell("echo begun; sleep 600 & wait"), Duration::from_secs(5)).unwrap();
        assert!(said.status.is_none());
        assert_eq!(said.stdout, "begun\n");
        assert!(started.elapsed() < PATIENT);
    }

    #[test]
    fn a_program_can_be_talked_to() {
        let mut talk = Dialogue::start(&mut shell("read word; echo \"heard $word\"; exec sleep 600")).unwrap();
        assert!(!talk.wait_until(Duration::from_millis(50), |said| said.contains("heard")).unwrap());
        talk.say("this\n");
        assert!(talk.wait_until(PATIENT, |said| said.contains("heard this\n")).unwrap());
        talk.signal(Signal::TERM);
        let said = talk.end(PATIENT).unwrap();
        assert!(said.status.is_some_and(|s| !s.success()));
    }

    #[test]
    fn waiting_ends_with_the_program() {
        let mut talk = Dialogue::start(&mut shell("exit 0")).unwrap();
        assert!(!talk.wait_until(PATIENT, |_| false).unwrap());
    }
}
