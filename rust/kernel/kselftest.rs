// SPDX-License-Identifier: GPL-2.0

//! Tests that run when a module is loaded.
//!
//! [`#[kselftests]`](kselftests) makes cases from functions with `#[test]`, and
//! [`kselftest_module!`](crate::kselftest_module!) makes a loadable module of them. Loading it runs
//! them in the order of their functions. It loads only if at least one of them passes and none
//! fails, so a script gets the verdict from the exit status of `insmod`, and from `rmmod` if a
//! thread has died. The log has the details in KTAP:
//!
//! ```text
//! example: KTAP version 1
//! example: 1..3
//! example: # reads_back: starts
//! example: # reads_back: What is written to an address is read back.
//! example: # addresses: 512
//! example: # reads_back: 3 ms
//! example: ok 1 reads_back
//! example: # probes: skipped: needs CONFIG_KPROBES
//! example: ok 2 probes # SKIP
//! example: # writes: starts
//! example: # writes: drivers/example.rs:42: 5 != 6: words in a page
//! example: # writes: 1 ms
//! example: not ok 3 writes
//! example: # Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0
//! ```
//!
//! The second line of a case is what its documentation says, if there is any. A function that
//! `#[cfg]` leaves out is a case that is skipped.
//!
//! The parameter `case` of the module selects cases, by a name or by a pattern as in
//! [`glob_match()`](srctree/lib/glob.c): `insmod example.ko 'case=read*'`.
//!
//! Each case runs in a thread of its own, so one in which the kernel oopses is a failed case, and
//! `insmod` returns. If the kernel oopses in a thread that a case has made with [`kthread`], the
//! case ends where it waits for that. As what a dead thread has left behind may still use the
//! module, the module stays loaded for good then, and the cases that remain are skipped. A signal
//! for `insmod` asks the threads to stop, see [`should_stop()`](crate::kthread::should_stop).
//!
//! The C form of this is `tools/testing/selftests/kselftest_module.h` with `kselftest/module.sh`
//! beside it, whose modules count checks and have no cases. As there, the module says `test: Y` in
//! its information, and loading it taints the kernel with `TAINT_TEST`.
//!
//! Reference: <https://docs.kernel.org/dev-tools/ktap.html>

use crate::{
    alloc::AllocError,
    bindings, fmt, kthread,
    prelude::*,
    print,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SetOnce, //
    },
    time::{
        Instant,
        Monotonic, //
    },
};
use core::panic::Location;

pub use macros::kselftests;

/// How many failures of a case are printed. A handler that fails on every CPU must not flood the
/// log, from which the results are read.
const SHOWN: u32 = 16;

/// Why a case ended before the end of its function.
#[derive(Debug)]
pub enum End {
    /// A [`Test::require()`] was not met. It has been printed.
    Failed,
    /// The case cannot run here. The reason has been printed.
    Skipped,
    /// Something that the case needs failed, so the case fails.
    Error(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<AllocError> for End {
    fn from(error: AllocError) -> Self {
        Self::Error(error.into())
    }
}

/// What the function of a case returns; [`Ok`] is a pass unless an expectation was not met.
pub type Result<T = ()> = core::result::Result<T, End>;

/// A test case; made by [`#[kselftests]`](kselftests).
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    description: &'static str,
    body: Body,
}

#[derive(Clone, Copy)]
enum Body {
    /// What runs.
    Function(fn(&Test) -> Result),
    /// Nothing, because of kernel options that are not set as it needs them.
    LeftOut(&'static [&'static str]),
}

impl Case {
    /// A case with a name that does not change, and one line that describes it or none.
    pub const fn new(
        name: &'static str,
        description: &'static str,
        function: fn(&Test) -> Result,
    ) -> Self {
        Self {
            name,
            description,
            body: Body::Function(function),
        }
    }

    /// A case that is skipped, because it needs kernel options.
    pub const fn left_out(
        name: &'static str,
        description: &'static str,
        needs: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            description,
            body: Body::LeftOut(needs),
        }
    }
}

/// A test case while it runs.
///
/// It can be shared with other CPUs, and its methods may be called in any context in which
/// `printk()` may.
pub struct Test {
    module: &'static CStr,
    name: &'static str,
    failures: Atomic<u32>,
    /// Whether something may use the module for ever.
    kept: Atomic<bool>,
}

impl Test {
    /// Prints a line of diagnostics.
    pub fn note(&self, text: fmt::Arguments<'_>) {
        say(self.module, fmt!("# {text}"));
    }

    /// Prints a number that the test has counted, as `what: number`.
    pub fn report(&self, what: &str, number: u64) {
        self.note(fmt!("{what}: {number}"));
    }

    /// Prints a number that the test has counted, and fails if it is 0.
    ///
    /// For numbers that show that the test was not idle. The name for accesses to new mappings is
    /// `touches`.
    #[track_caller]
    pub fn report_some(&self, what: &str, number: u64) {
        self.report(what, number);
        if number == 0 {
            self.fail(fmt!("{what}: nothing was tested"));
        }
    }

    /// Fails, but continues.
    #[track_caller]
    pub fn fail(&self, why: fmt::Arguments<'_>) {
        let place = Location::caller();
        let before = self.failures.fetch_add(1, Relaxed);
        if before < SHOWN {
            self.note(fmt!(
                "{}: {}:{}: {why}",
                self.name,
                place.file(),
                place.line()
            ));
        }
    }

    /// Fails if `condition` is false, but continues; returns `condition`.
    #[track_caller]
    pub fn expect(&self, condition: bool, what: fmt::Arguments<'_>) -> bool {
        if !condition {
            self.fail(fmt!("not so: {what}"));
        }
        condition
    }

    /// Fails if `left` and `right` differ, but continues; returns whether they are equal.
    #[track_caller]
    pub fn expect_eq<L, R>(&self, left: L, right: R, what: fmt::Arguments<'_>) -> bool
    where
        L: PartialEq<R> + core::fmt::Debug,
        R: core::fmt::Debug,
    {
        let equal = left == right;
        if !equal {
            self.fail(fmt!("{left:?} != {right:?}: {what}"));
        }
        equal
    }

    /// Fails and ends the case if `condition` is false.
    ///
    /// # Errors
    ///
    /// [`End::Failed`], to be passed on.
    #[track_caller]
    pub fn require(&self, condition: bool, what: fmt::Arguments<'_>) -> Result {
        if self.expect(condition, what) {
            Ok(())
        } else {
            Err(End::Failed)
        }
    }

    /// Fails and ends the case if `left` and `right` differ.
    ///
    /// # Errors
    ///
    /// [`End::Failed`], to be passed on.
    #[track_caller]
    pub fn require_eq<L, R>(&self, left: L, right: R, what: fmt::Arguments<'_>) -> Result
    where
        L: PartialEq<R> + core::fmt::Debug,
        R: core::fmt::Debug,
    {
        if self.expect_eq(left, right, what) {
            Ok(())
        } else {
            Err(End::Failed)
        }
    }

    /// Skips the case, and prints why it cannot run here. Return the result as the error.
    ///
    /// A case that has already failed still fails.
    pub fn skip(&self, reason: fmt::Arguments<'_>) -> End {
        self.note(fmt!("{}: skipped: {reason}", self.name));
        End::Skipped
    }

    /// Whether an expectation was not met so far.
    pub fn has_failed(&self) -> bool {
        self.failures.load(Relaxed) != 0
    }

    /// Fails, and keeps the module from being unloaded, because something still uses it that nobody
    /// can wait for. The cases that remain are skipped.
    #[track_caller]
    pub fn keep_module(&self, why: fmt::Arguments<'_>) {
        self.fail(fmt!("the module cannot be unloaded any more: {why}"));
        self.kept.store(true, Relaxed);
    }

    /// Ends a case that runs for long when it is asked to stop.
    ///
    /// # Errors
    ///
    /// [`EINTR`], to be passed on.
    pub fn go_on(&self) -> Result {
        if kthread::should_stop() {
            return Err(End::Error(EINTR));
        }
        Ok(())
    }
}

/// The cases that the user wants; generated by [`kselftest_module!`](crate::kselftest_module!).
#[doc(hidden)]
pub struct Selection(SetOnce<CString>);

impl Selection {
    /// All cases.
    pub const fn new() -> Self {
        Self(SetOnce::new())
    }

    /// Whether `name` is one of the cases.
    fn has(&self, name: &str) -> core::result::Result<bool, Error> {
        let Some(pattern) = self.0.as_ref() else {
            return Ok(true);
        };
        let name = CString::try_from_fmt(fmt!("{name}"))?;
        // SAFETY: Both are null-terminated, and not changed meanwhile.
        Ok(unsafe { bindings::glob_match(pattern.as_char_ptr(), name.as_char_ptr()) })
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self::new()
    }
}

/// The operations of the parameter `case`, whose argument is a [`Selection`].
#[doc(hidden)]
pub static SELECTION_OPS: bindings::kernel_param_ops = bindings::kernel_param_ops {
    flags: 0,
    set: Some(set_selection),
    get: None,
    free: Some(free_selection),
};

/// # Safety
///
/// `value` must be null or a string, and `param` a parameter whose argument is a [`Selection`] that
/// nobody changes at the same time.
unsafe extern "C" fn set_selection(
    value: *const c_char,
    param: *const bindings::kernel_param,
) -> c_int {
    if value.is_null() {
        return EINVAL.to_errno();
    }
    // SAFETY: By the safety requirements.
    let (value, selection) = unsafe {
        let selection = (*param).__bindgen_anon_1.arg.cast_const();
        (CStr::from_char_ptr(value), &*selection.cast::<Selection>())
    };
    crate::error::from_result(|| {
        let pattern = CString::try_from(value)?;
        selection.0.populate(pattern).then_some(0).ok_or(EEXIST)
    })
}

/// # Safety
///
/// `selection` must point to a [`Selection`] that nobody else uses any more.
unsafe extern "C" fn free_selection(selection: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { selection.cast::<Selection>().replace(Selection::new()) });
}

/// The word at `index` of memory that is filled with `seed`, to recognise it when it is read back.
///
/// It is never 0, and almost always differs from that at another small index or seed.
///
/// # Context
///
/// Any.
///
/// # Examples
///
/// ```
/// use kernel::kselftest::pattern;
///
/// assert!(pattern(0, 0) != 0);
/// assert!(pattern(0, 1) != pattern(0, 2));
/// assert!(pattern(1 << 32, 1) != pattern(2 << 32, 1));
/// ```
pub const fn pattern(seed: u64, index: usize) -> u64 {
    // Odd, so that different sums have different products.
    seed.wrapping_add(index as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        | 1
}

/// Runs test cases and prints their results.
///
/// # Context
///
/// Process context. Sleeps.
///
/// # Errors
///
/// The error of the first case that returned one, [`EIO`] if a case failed without one,
/// [`EOPNOTSUPP`] if all cases were skipped, [`ENOENT`] if none is selected. [`EOWNERDEAD`] if a
/// thread has died or [`Test::keep_module()`] was called: the module must never be unloaded.
///
/// # Examples
///
/// ```
/// use kernel::kselftest::{self, kselftests, Case, Selection};
/// use kernel::prelude::*;
///
/// #[kselftests]
/// mod tests {
///     use kernel::kselftest::{self, Test};
///     use kernel::prelude::*;
///
///     #[test]
///     #[cfg(CONFIG_NO_SUCH_OPTION)]
///     fn needs_an_option(_test: &Test) -> kselftest::Result {
///         Ok(())
///     }
///
///     #[test]
///     fn skips(test: &Test) -> kselftest::Result {
///         Err(test.skip(fmt!("no such device")))
///     }
///
///     /// Two numbers are added.
///     #[test]
///     fn adds(test: &Test) -> kselftest::Result {
///         test.expect_eq(1 + 1, 2, fmt!("a sum"));
///         Ok(())
///     }
///
///     #[test]
///     fn differs(test: &Test) -> kselftest::Result {
///         test.require_eq(1, 2, fmt!("wrong on purpose"))?;
///         unreachable!()
///     }
/// }
///
/// let run = |cases: &[Case]| kselftest::run(c"example", cases, &Selection::new());
/// assert_eq!(run(&tests::CASES[..2]), Err(EOPNOTSUPP));
/// assert_eq!(run(&tests::CASES[..3]), Ok(()));
/// assert_eq!(run(tests::CASES), Err(EIO));
/// ```
pub fn run(
    module: &'static CStr,
    cases: &[Case],
    selection: &Selection,
) -> core::result::Result<(), Error> {
    let mut selected = KVec::new();
    for case in cases {
        if selection.has(case.name)? {
            let test = Test {
                module,
                name: case.name,
                failures: Atomic::new(0),
                kept: Atomic::new(false),
            };
            selected.push((*case, test), GFP_KERNEL)?;
        }
    }
    if selected.is_empty() && !cases.is_empty() {
        say(module, fmt!("no case has that name"));
        return Err(ENOENT);
    }

    let mut verdict = Ok(());
    let mut dead = false;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    say(module, fmt!("KTAP version 1"));
    say(module, fmt!("1..{}", selected.len()));
    for (index, (case, test)) in selected.iter().enumerate() {
        let (number, name) = (index + 1, case.name);
        if dead {
            test.skip(fmt!("an earlier case has left something behind"));
            skipped += 1;
            say(module, fmt!("ok {number} {name} # SKIP"));
            continue;
        }
        let function = match case.body {
            Body::Function(function) => function,
            Body::LeftOut(needs) => {
                for option in needs {
                    test.skip(fmt!("needs {option}"));
                }
                skipped += 1;
                say(module, fmt!("ok {number} {name} # SKIP"));
                continue;
            }
        };
        test.note(fmt!("{name}: starts"));
        if !case.description.is_empty() {
            test.note(fmt!("{name}: {}", case.description));
        }
        let start = Instant::<Monotonic>::now();
        let deaths = kthread::deaths();
        let end = kthread::in_thread(|_| function(test), || {});
        if kthread::deaths() != deaths {
            test.keep_module(fmt!("a thread that ran its code has died"));
        }
        dead = test.kept.load(Relaxed);
        let ms = start.elapsed().as_millis();
        let failures = test.failures.load(Relaxed);

        test.note(fmt!("{name}: {ms} ms"));
        if failures > SHOWN {
            test.note(fmt!("{name}: {failures} failures, {SHOWN} of them shown"));
        }
        let error = match end {
            _ if dead => Some(EOWNERDEAD),
            Err(error) => {
                test.note(fmt!("{name}: {error:?}"));
                Some(error)
            }
            Ok(Ok(()) | Err(End::Skipped)) if failures != 0 => Some(EIO),
            Ok(Ok(())) => None,
            Ok(Err(End::Skipped)) => {
                skipped += 1;
                say(module, fmt!("ok {number} {name} # SKIP"));
                continue;
            }
            Ok(Err(End::Failed)) => Some(EIO),
            Ok(Err(End::Error(error))) => {
                test.note(fmt!("{name}: {error:?}"));
                Some(error)
            }
        };
        if let Some(error) = error {
            failed += 1;
            verdict = if dead {
                Err(error)
            } else {
                verdict.and(Err(error))
            };
            say(module, fmt!("not ok {number} {name}"));
            if error == EINTR {
                break;
            }
        } else {
            passed += 1;
            say(module, fmt!("ok {number} {name}"));
        }
    }
    say(
        module,
        fmt!("# Totals: pass:{passed} fail:{failed} xfail:0 xpass:0 skip:{skipped} error:0"),
    );

    if dead {
        // What has been left behind may use the `Test`, for instance a probe that counts failures.
        core::mem::forget(selected);
    }
    if passed + failed == 0 {
        return Err(EOPNOTSUPP);
    }
    verdict
}

/// Runs the test cases of a module that is being loaded; called by
/// [`kselftest_module!`](crate::kselftest_module!).
///
/// If it returns an error, the module must not be loaded. If it returns [`Ok`], the module stays
/// until it is unloaded; one in which a thread has died never can be.
#[doc(hidden)]
pub fn run_module(
    module: &'static ThisModule,
    name: &'static CStr,
    cases: &[Case],
    selection: &Selection,
) -> core::result::Result<(), Error> {
    let verdict = run(name, cases, selection);
    if verdict == Err(EOWNERDEAD) {
        // SAFETY: The module is being loaded, so it exists.
        #[cfg(CONFIG_MODULE_UNLOAD)]
        unsafe {
            bindings::__module_get(module.as_ptr())
        };
        // It stays anyway.
        #[cfg(not(CONFIG_MODULE_UNLOAD))]
        let _ = module;
        return Ok(());
    }
    verdict
}

/// Prints a line of the module's log.
fn say(module: &'static CStr, text: fmt::Arguments<'_>) {
    // SAFETY: The format string is one of `format_strings`, and the name of the module is
    // null-terminated.
    unsafe {
        print::call_printk(
            &print::format_strings::INFO,
            module.to_bytes_with_nul(),
            fmt!("{text}\n"),
        )
    }
}

/// Declares a module that runs tests when it is loaded.
///
/// `tests` is the module with [`#[kselftests]`](crate::kselftest::kselftests), beside this.
/// What follows is that of [`module!`](crate::prelude::module), without `type`.
///
/// The module has a parameter `case` besides its own ones. As with the macros of
/// `kselftest_module.h`, which are the C form, its information says `test: Y`.
///
/// # Examples
///
/// ```ignore
/// use kernel::kselftest::{self, kselftests, Test};
/// use kernel::prelude::*;
///
/// kernel::kselftest_module! {
///     tests: tests,
///     name: "example",
///     authors: ["Rust for Linux Contributors"],
///     description: "Read back what was written",
///     license: "GPL",
///     params: {
///         words: u32 {
///             default: 16,
///             range: 1..=1024,
///             description: "Words to write",
///         },
///     },
/// }
///
/// #[kselftests]
/// mod tests {
///     use super::*;
///
///     /// What is written is read back.
///     #[test]
///     fn reads_back(test: &Test) -> kselftest::Result {
///         let words = module_parameters::words.value() as usize;
///         let area = KVec::from_elem(7u64, words, GFP_KERNEL)?;
///         for word in &area {
///             test.expect_eq(*word, 7, fmt!("what was written"));
///         }
///         test.report_some("words", area.len() as u64);
///         Ok(())
///     }
/// }
/// ```
#[macro_export]
macro_rules! kselftest_module {
    (tests: $tests:ident, $($field:tt)*) => {
        /// The tests, once they have passed.
        struct Kselftest;

        $crate::prelude::module! {
            type: Kselftest,
            $($field)*
        }

        /// The cases that the user wants.
        static SELECTION: $crate::kselftest::Selection = $crate::kselftest::Selection::new();

        impl $crate::Module for Kselftest {
            fn init(module: &'static $crate::ThisModule) -> $crate::error::Result<Self> {
                $crate::kselftest::run_module(
                    module,
                    <Self as $crate::ModuleMetadata>::NAME,
                    $tests::CASES,
                    &SELECTION,
                )?;
                Ok(Self)
            }
        }

        #[cfg(MODULE)]
        const _: () = {
            macro_rules! info {
                ($name:ident, $text:literal) => {
                    #[link_section = ".modinfo"]
                    #[used(compiler)]
                    static $name: [u8; $text.len()] = *$text;
                };
            }

            // As MODULE_INFO(test, "Y") and module_param(case, charp, 0).
            info!(TEST, b"test=Y\0");
            info!(TYPE, b"parmtype=case:charp\0");
            info!(TEXT, b"parm=case:Cases to run, a name or a pattern (default all)\0");

            #[link_section = "__param"]
            #[used(compiler)]
            static CASE: $crate::module_param::KernelParam =
                $crate::module_param::KernelParam::new($crate::bindings::kernel_param {
                    name: $crate::str::as_char_ptr_in_const_context(c"case"),
                    // SAFETY: The kernel constructs it when it loads the module, and frees it
                    // after the module is unloaded.
                    mod_: unsafe {
                        ::core::ptr::from_ref(&$crate::bindings::__this_module).cast_mut()
                    },
                    ops: &raw const $crate::kselftest::SELECTION_OPS,
                    perm: 0,
                    level: -1,
                    flags: 0,
                    __bindgen_anon_1: $crate::bindings::kernel_param__bindgen_ty_1 {
                        arg: (&raw const SELECTION).cast_mut().cast(),
                    },
                });
        };
    };
    ($($other:tt)*) => {
        ::core::compile_error!(
            "`kselftest_module!` begins with `tests: NAME,`, a module with `#[kselftests]`"
        );
    };
}

#[cfg(CONFIG_RUST_KSELFTEST_KUNIT_TEST)]
#[macros::kunit_tests(rust_kselftest)]
mod tests {
    use super::*;
    use crate::sync::atomic::Atomic;

    fn passes(test: &Test) -> super::Result {
        test.report_some("something", 1);
        test.expect(true, fmt!("true"));
        test.require_eq(2, 2, fmt!("a number"))
    }

    fn skips(test: &Test) -> super::Result {
        Err(test.skip(fmt!("nothing to test")))
    }

    fn is_idle(test: &Test) -> super::Result {
        test.report_some("nothing", 0);
        Ok(())
    }

    /// Number of times that `expects()` was told the opposite of what is so. It runs in a thread,
    /// where an assertion would not fail the KUnit test.
    static WRONG: Atomic<u32> = Atomic::new(0);

    fn expects(test: &Test) -> super::Result {
        let wrong = [
            test.has_failed(),
            test.expect_eq(1, 2, fmt!("wrong on purpose")),
            !test.has_failed(),
        ];
        for _ in wrong.into_iter().filter(|wrong| *wrong) {
            WRONG.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Number of times that a case wrongly continued.
    static WENT_ON: Atomic<u32> = Atomic::new(0);

    fn requires(test: &Test) -> super::Result {
        test.require(false, fmt!("wrong on purpose"))?;
        WENT_ON.fetch_add(1, Relaxed);
        Ok(())
    }

    fn lacks(_test: &Test) -> super::Result {
        Err(ENODEV)?;
        WENT_ON.fetch_add(1, Relaxed);
        Ok(())
    }

    fn fails_and_skips(test: &Test) -> super::Result {
        test.fail(fmt!("wrong on purpose"));
        Err(test.skip(fmt!("too late")))
    }

    const fn case(name: &'static str, function: fn(&Test) -> super::Result) -> Case {
        Case::new(name, "", function)
    }

    fn verdict(cases: &[Case]) -> core::result::Result<(), Error> {
        run(c"rust_kselftest", cases, &Selection::new())
    }

    fn dies(_test: &Test) -> super::Result {
        // As the kernel does to a task that has oopsed.
        // SAFETY: Nothing that others use is on this stack.
        unsafe { bindings::do_exit(0) }
    }

    fn lets_one_die(test: &Test) -> super::Result {
        let _ = kthread::on_any_cpu(
            2,
            |thread| {
                if thread.number() == 0 {
                    let _ = dies(test);
                }
                while !kthread::should_stop() {
                    crate::time::delay::fsleep(crate::time::Delta::from_millis(1));
                }
            },
            || {},
        );
        WENT_ON.fetch_add(1, Relaxed);
        Ok(())
    }

    #[test]
    fn a_dead_thread_is_a_failure() {
        for function in [dies, lets_one_die] {
            assert_eq!(
                verdict(&[case("case", function), case("passes", passes)]),
                Err(EOWNERDEAD)
            );
            // What it has left behind does no harm to others here.
            assert_eq!(verdict(&[case("passes", passes)]), Ok(()));
        }
        assert_eq!(WENT_ON.load(Relaxed), 0);
    }

    fn select(pattern: &CStr) -> core::result::Result<(), Error> {
        let selection = Selection::new();
        let param = bindings::kernel_param {
            name: c"case".as_char_ptr(),
            __bindgen_anon_1: bindings::kernel_param__bindgen_ty_1 {
                arg: (&raw const selection).cast_mut().cast(),
            },
            ..pin_init::zeroed()
        };
        // SAFETY: The pattern is a string, and the parameter made as the macro makes it.
        let set = unsafe { set_selection(pattern.as_char_ptr(), &raw const param) };
        crate::error::to_result(set)?;
        let cases = [
            case("adds", passes),
            case("adds_more", skips),
            case("differs", expects),
        ];
        run(c"rust_kselftest", &cases, &selection)
    }

    #[test]
    fn cases_are_selected() {
        assert_eq!(select(c"adds"), Ok(()));
        assert_eq!(select(c"adds_more"), Err(EOPNOTSUPP));
        assert_eq!(select(c"adds*"), Ok(()));
        assert_eq!(select(c"*r?"), Err(EIO));
        assert_eq!(select(c"*"), Err(EIO));
        assert_eq!(select(c"add"), Err(ENOENT));
        assert_eq!(select(c""), Err(ENOENT));
    }

    #[test]
    fn one_pass_is_enough() {
        assert_eq!(verdict(&[case("passes", passes)]), Ok(()));
        assert_eq!(
            verdict(&[case("skips", skips), case("passes", passes)]),
            Ok(())
        );
    }

    #[test]
    fn nothing_but_skips_is_no_pass() {
        assert_eq!(verdict(&[case("skips", skips)]), Err(EOPNOTSUPP));
        assert_eq!(verdict(&[]), Err(EOPNOTSUPP));
    }

    #[test]
    fn one_failure_is_too_much() {
        assert_eq!(
            verdict(&[case("passes", passes), case("expects", expects)]),
            Err(EIO)
        );
        assert_eq!(
            verdict(&[case("expects", expects), case("passes", passes)]),
            Err(EIO)
        );
        assert_eq!(verdict(&[case("is_idle", is_idle)]), Err(EIO));
        assert_eq!(
            verdict(&[case("fails_and_skips", fails_and_skips)]),
            Err(EIO)
        );
        assert_eq!(WRONG.load(Relaxed), 0);
    }

    #[test]
    fn the_first_error_is_the_verdict() {
        assert_eq!(
            verdict(&[case("lacks", lacks), case("expects", expects)]),
            Err(ENODEV)
        );
        assert_eq!(
            verdict(&[case("expects", expects), case("lacks", lacks)]),
            Err(EIO)
        );
    }

    #[test]
    fn a_requirement_ends_a_case() {
        assert_eq!(
            verdict(&[case("requires", requires), case("lacks", lacks)]),
            Err(EIO)
        );
        assert_eq!(WENT_ON.load(Relaxed), 0);
    }

    /// Cases as a module has them.
    #[kselftests]
    mod made {
        use crate::{
            kselftest::{
                self,
                Test, //
            },
            prelude::*, //
        };

        #[test]
        #[cfg(all(CONFIG_RUST_KSELFTEST_SUPPORT, CONFIG_NO_SUCH_OPTION))]
        #[cfg(not(CONFIG_RUST))]
        fn needs_two(_test: &Test) -> kselftest::Result {
            compile_error!("this is left out")
        }

        /// This is its description,
        /// on one line.
        ///
        /// This is not.
        #[test]
        fn passes(test: &Test) -> kselftest::Result {
            test.expect(helper(), fmt!("what the others use is still there"));
            Ok(())
        }

        fn helper() -> bool {
            true
        }

        #[test]
        #[cfg(CONFIG_RUST_KSELFTEST_SUPPORT)]
        fn differs(test: &Test) -> kselftest::Result {
            test.require_eq(1, 2, fmt!("wrong on purpose"))
        }
    }

    #[test]
    fn functions_become_cases() {
        let names = ["needs_two", "passes", "differs"];
        assert!(made::CASES.iter().map(|case| case.name).eq(names));
        assert_eq!(
            made::CASES[1].description,
            "This is its description, on one line."
        );
        assert!(matches!(
            made::CASES[0].body,
            Body::LeftOut(["CONFIG_NO_SUCH_OPTION", "no CONFIG_RUST"])
        ));
        assert_eq!(verdict(&made::CASES[..1]), Err(EOPNOTSUPP));
        assert_eq!(verdict(&made::CASES[..2]), Ok(()));
        assert_eq!(verdict(made::CASES), Err(EIO));
    }
}
