// SPDX-License-Identifier: GPL-2.0-only
//! A package mirror inside the test, for the machine's own apt.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use lazymap::ground::files::sha256_file;

use super::{Lab, edit, write};

/// The package's place in the pool.
pub const DEB: &str = "pool/linux-source-7.3_7.3.4-1_all.deb";

/// A mirror of one package, which serves over HTTP and can misbehave.
pub struct Mirror {
    pub dir: PathBuf,
    /// The one architecture that it has, as Debian calls it.
    pub arch: String,
    pub address: String,
    /// A file of which only the first half is sent before the connection ends.
    pub cut: Arc<Mutex<Option<String>>>,
    /// How many requests were answered.
    pub requests: Arc<Mutex<usize>>,
}

impl Mirror {
    pub fn new(lab: &Lab, arch: &str) -> Self {
        let dir = lab.dir.path().join("mirror");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://127.0.0.1:{}/debian/", listener.local_addr().unwrap().port());
        let cut: Arc<Mutex<Option<String>>> = Arc::default();
        let requests: Arc<Mutex<usize>> = Arc::default();
        let (top, cut_too, count) = (dir.clone(), Arc::clone(&cut), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let request = lines.next().unwrap_or_default();
                lines.take_while(|l| !l.is_empty()).for_each(drop);
                *count.lock().unwrap() += 1;
                let path =
                    request.split(' ').nth(1).unwrap_or_default().trim_start_matches("/debian/").replace("%7e", "~");
                let answer = fs::read(top.join(&path));
                let head = |status: &str, len: usize| {
                    format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n")
                };
                let _ = match answer {
                    Ok(body) => {
                        let half = cut_too.lock().unwrap().as_deref() == Some(path.as_str());
                        let sent = if half { &body[..body.len() / 2] } else { &body[..] };
                        stream.write_all(head("200 OK", body.len()).as_bytes()).and_then(|()| stream.write_all(sent))
                    }
                    Err(_) => stream.write_all(head("404 Not Found", 0).as_bytes()),
                };
            }
        });
        let mirror = Self { dir, arch: arch.to_owned(), address, cut, requests };
        mirror.make_package(lab);
        mirror.index();
        mirror
    }

    /// A `.deb` with a tarball of the lab's kernel tree, as the distribution's has it.
    fn make_package(&self, lab: &Lab) {
        let package = lab.dir.path().join("package");
        write(
            &package.join("DEBIAN/control"),
            "Package: linux-source-7.3\nVersion: 7.3.4-1\nArchitecture: all\nMaintainer: tester <t@localhost>\nDescription: test\n",
        );
        fs::create_dir_all(package.join("usr/src")).unwrap();
        let tarball = package.join("usr/src/linux-source-7.3.tar.xz");
        run(Command::new("tar")
            .arg("-C")
            .arg(lab.dir.path())
            .args(["--exclude=.git", "-cJf"])
            .arg(tarball)
            .arg("linux"));
        let deb = self.dir.join(DEB);
        fs::create_dir_all(deb.parent().unwrap()).unwrap();
        run(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(package).arg(deb));
    }

    pub fn index(&self) {
        let deb = self.dir.join(DEB);
        let (size, sha256) = (fs::metadata(&deb).unwrap().len(), sha256_file(&deb).unwrap());
        let suite = self.dir.join("dists/trixie-backports");
        let packages = suite.join(format!("main/binary-{}/Packages", self.arch));
        write(
            &packages,
            &format!(
                "Package: linux-source-7.3\nVersion: 7.3.4-1\nArchitecture: all\nMaintainer: tester <t@localhost>\nFilename: {DEB}\nSize: {size}\nSHA256: {sha256}\nDescription: test\n\n"
            ),
        );
        self.release(&packages);
    }

    pub fn release(&self, packages: &Path) {
        let (size, sha256) = (fs::metadata(packages).unwrap().len(), sha256_file(packages).unwrap());
        let suite = self.dir.join("dists/trixie-backports");
        write(
            &suite.join("Release"),
            &format!(
                "Origin: Debian\nLabel: Debian\nSuite: trixie-backports\nCodename: trixie-backports\nDate: Mon, 02 Feb 2026 00:00:00 UTC\nArchitectures: all {arch}\nComponents: main\nSHA256:\n {sha256} {size} main/binary-{arch}/Packages\n",
                arch = self.arch
            ),
        );
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A lab that downloads from a mirror of its own, on a machine that calls itself amd64.
pub fn lab() -> (Lab, Mirror) {
    lab_on("amd64")
}

/// The same on a machine of another architecture, which is all that the mirror has.
pub fn lab_on(arch: &str) -> (Lab, Mirror) {
    let lab = Lab::new();
    let mirror = Mirror::new(&lab, arch);
    let deb = mirror.dir.join(DEB);
    let base = lab.repo().join("base.toml");
    edit(&base, "7.3.4-1~bpo13+1", "7.3.4-1");
    edit(&base, "703e369ddd4cce971452f5a593ee55df3a5c10c83caf0fa0df039633ed181ee3", &sha256_file(&deb).unwrap());
    let dpkg = which("dpkg");
    lab.script("dpkg", &format!("[ \"$1\" = --print-architecture ] && echo {arch} || exec {dpkg} \"$@\""));
    (lab, mirror)
}

fn which(name: &str) -> String {
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|d| d.join(name)).find(|p| p.is_file());
    path.unwrap().display().to_string()
}
