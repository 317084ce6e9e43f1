#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Reads results with the programs that they are for, and prints what those make of them.

consumers.py junit FILE     with junitparser
consumers.py kcidb FILE     validates against the newest schema of kcidb-io
consumers.py tap FILE...    with tap.py

Prints a line of words NAME=NUMBER in the order of the names. Fails if the reader does.
"""

import collections
import io
import json
import sys


def junit(path):
    import junitparser

    count = collections.Counter()
    for suite in junitparser.JUnitXml.fromfile(path):
        declared = (suite.tests, suite.failures, suite.errors)
        suite.update_statistics()
        found = (suite.tests, suite.failures, suite.errors)
        assert declared == found, f"suite {suite.name}: {declared} declared, {found} found"
        for case in suite:
            assert case.name and case.classname, "a case without a name"
            kinds = [type(result).__name__.lower() for result in case.result] or ["passed"]
            assert len(kinds) == 1, f"{case.name}: {kinds}"
            count[kinds[0]] += 1
    return count


def kcidb(path):
    from kcidb_io.schema import LATEST

    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    LATEST.validate(report)
    assert LATEST.is_compatible_exactly(report), f"not schema {LATEST.major}.{LATEST.minor}"
    checkouts = {checkout["id"] for checkout in report["checkouts"]}
    builds = {build["id"] for build in report["builds"]}
    tests = [test["id"] for test in report["tests"]]
    assert len(tests) == len(set(tests)), "two tests have one id"
    assert all(build["checkout_id"] in checkouts for build in report["builds"]), "a build of nothing"
    assert all(test["build_id"] in builds for test in report["tests"]), "a test of nothing"
    return collections.Counter(test["status"].lower() for test in report["tests"])


def tap(paths):
    from tap.parser import Parser

    count = collections.Counter()
    for path in paths:
        lines = list(Parser().parse_file(path))
        assert lines[0].category == "version" and lines[0].version == 13, f"{path}: no version first"
        plans = [line for line in lines if line.category == "plan"]
        tests = [line for line in lines if line.category == "test"]
        assert len(plans) == 1 and plans[0].expected_tests == len(tests), f"{path}: the plan is wrong"
        assert [int(test.number) for test in tests] == list(range(1, len(tests) + 1)), f"{path}: numbers"
        unknown = [line for line in lines if line.category == "unknown"]
        assert not unknown, f"{path}: {len(unknown)} lines that are no TAP"
        for test in tests:
            count["skipped" if test.skip else "passed" if test.ok else "failed"] += 1

    # And as its command line does.
    from tap.loader import Loader
    import unittest

    result = unittest.TextTestRunner(stream=io.StringIO()).run(Loader().load(paths))
    bad = len(result.failures) + len(result.errors)
    assert bad == count["failed"], f"its loader finds {bad} failures, its parser {count['failed']}"
    return count


def main():
    what, paths = sys.argv[1], sys.argv[2:]
    count = {"junit": lambda: junit(*paths), "kcidb": lambda: kcidb(*paths), "tap": lambda: tap(paths)}[what]()
    print(" ".join(f"{name}={number}" for name, number in sorted(count.items()) if number))


if __name__ == "__main__":
    main()
