// SPDX-License-Identifier: GPL-2.0-only
//! Entry point; see [`lazymap::cli`].

fn main() -> std::process::ExitCode {
    lazymap::cli::main()
}
