// SPDX-License-Identifier: GPL-2.0-only
//! What `lazymap check` makes of the output of `cargo test`.

use lazymap::check::{self, Tests};

const OUTPUT: &str = "\
    Finished `test` profile [unoptimized + debuginfo] target(s) in 0.20s
     Running unittests src/lib.rs (out/harness/debug/deps/lazymap-c32ece800eb89015)

running 2 tests
test console::printk::tests::other_brackets_stay ... ok
test progress::tests::slow ... ignored, takes an hour

test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/ktap.rs (out/harness/debug/deps/ktap-a27ba466f09ae00e)

running 3 tests
test a ... ok
test b - should panic ... FAILED
test c ... ok

failures:

---- b stdout ----
note: test did not panic as expected

failures:
    b

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.11s

   Doc-tests lazymap

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: 1 target failed:
    `--test ktap`
";

#[test]
fn results_of_all_test_programs_are_added() {
    let expected = Tests {
        passed: 3,
        failures: vec!["b - should panic".to_owned()],
        ignored: vec!["progress::tests::slow".to_owned()],
    };
    assert_eq!(check::parse_tests(OUTPUT), Some(expected));
}

#[test]
fn output_that_says_nothing_certain_is_no_result() {
    for (from, to) in [
        ("test result: ", "test outcome: "),
        ("; 1 failed", "; some failed"),
        ("; 1 failed", "; 2 failed"),
        ("1 passed; 0 failed", "1 passed; 0 broken"),
        ("test b - should panic ... FAILED", "test b - should panic ... warning"),
    ] {
        assert!(OUTPUT.contains(from), "{from}");
        assert_eq!(check::parse_tests(&OUTPUT.replace(from, to)), None, "{from} -> {to}");
    }
    assert_eq!(check::parse_tests("error: could not compile `lazymap`\n"), None);
    assert_eq!(
        check::parse_tests("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n"),
        None
    );
}
