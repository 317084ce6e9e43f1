// SPDX-License-Identifier: GPL-2.0-only
//! Downloads through the machine's own apt, from a mirror inside the test: every way in which one
//! goes wrong is told apart, and nothing half-way is kept.

use std::fs;
use std::net::TcpListener;

use crate::common::mirror::{DEB, Mirror, lab, lab_on};
use crate::common::{Lab, Said, edit, git, said, write};

fn check(lab: &Lab, mirror: &Mirror) -> Said {
    said(lab.tool().env("LAZYMAP_MIRROR", &mirror.address).arg("series-check"))
}

/// Nothing that is not whole may be left.
fn nothing_left(lab: &Lab) {
    let left: Vec<_> = fs::read_dir(lab.out().join("dl")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_whole_download_is_used_and_not_repeated() {
    let (lab, mirror) = lab();
    let first = check(&lab, &mirror);
    // The commit's id is not the recorded one, and that is said.
    assert!(first.err.contains("note: the base commit is "), "{first:?}");
    first.passes();
    let requests = *mirror.requests.lock().unwrap();
    assert!(requests > 0);
    check(&lab, &mirror).passes();
    assert_eq!(*mirror.requests.lock().unwrap(), requests, "the tree is there: no network");
    // A tree made again from the same download needs no network either, and has the same id.
    let id = git(&lab.out().join("linux-7.3"), &["rev-parse", "lazymap-base"]);
    fs::remove_dir_all(lab.out().join("linux-7.3")).unwrap();
    check(&lab, &mirror).passes();
    assert_eq!(*mirror.requests.lock().unwrap(), requests);
    assert_eq!(git(&lab.out().join("linux-7.3"), &["rev-parse", "lazymap-base"]), id);
    // When base.toml moves on, the mirror is asked again.
    edit(&lab.repo().join("base.toml"), "version = \"7.3.4-1\"", "version = \"7.3.5-1\"");
    let moved = check(&lab, &mirror);
    moved.passes();
    assert!(moved.err.contains("tested with 7.3.5-1"), "{moved:?}");
    let requests = *mirror.requests.lock().unwrap();
    // A damaged download is not trusted.
    fs::remove_dir_all(lab.out().join("linux-7.3")).unwrap();
    write(&lab.out().join("dl").join(DEB.rsplit('/').next().unwrap()), "damaged");
    check(&lab, &mirror).passes();
    assert!(*mirror.requests.lock().unwrap() > requests);
}

#[test]
fn hosts_of_other_architectures_ask_for_their_own_packages() {
    for arch in ["arm64", "riscv64"] {
        let (lab, mirror) = lab_on(arch);
        // The mirror has no packages of another one.
        check(&lab, &mirror).passes();
        assert!(lab.out().join(format!("apt/trixie-backports-{arch}")).is_dir(), "{arch}");
    }
}

#[test]
fn a_newer_point_release_is_used_with_a_note() {
    let (lab, mirror) = lab();
    edit(&lab.repo().join("base.toml"), "version = \"7.3.4-1\"", "version = \"7.3.3-1\"");
    let result = check(&lab, &mirror);
    result.passes();
    assert!(result.err.contains("using linux-source-7.3 7.3.4-1; base.toml was tested with 7.3.3-1"), "{result:?}");
}

#[test]
fn cut_off() {
    let (lab, mirror) = lab();
    *mirror.cut.lock().unwrap() = Some(DEB.to_owned());
    check(&lab, &mirror).fails(2, &["download of linux-source-7.3 was cut off", "run again"]);
    nothing_left(&lab);
    *mirror.cut.lock().unwrap() = None;
    let deb = mirror.dir.join(DEB);
    let whole = fs::read(&deb).unwrap();
    fs::write(&deb, &whole[..whole.len() / 2]).unwrap();
    check(&lab, &mirror).fails(2, &["download of linux-source-7.3 was cut off"]);
    nothing_left(&lab);
    fs::write(&deb, whole).unwrap();
    check(&lab, &mirror).passes();
}

#[test]
fn wrong_checksum() {
    let (lab, mirror) = lab();
    let deb = mirror.dir.join(DEB);
    let mut bytes = fs::read(&deb).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&deb, bytes).unwrap();
    check(&lab, &mirror).fails(2, &["linux-source-7.3 has a wrong checksum"]);
    nothing_left(&lab);
    // The index agrees now, but the file is not the one that was tested under this version.
    mirror.index();
    check(&lab, &mirror).fails(2, &["wrong checksum: linux-source-7.3 7.3.4-1", "base.toml says"]);
    nothing_left(&lab);
}

#[test]
fn gone_from_the_pool() {
    let (lab, mirror) = lab();
    fs::remove_file(mirror.dir.join(DEB)).unwrap();
    check(&lab, &mirror).fails(2, &["linux-source-7.3 is gone from the mirror's pool", "trixie-backports"]);
    nothing_left(&lab);
}

#[test]
fn not_in_the_index() {
    let (lab, mirror) = lab();
    let packages = mirror.dir.join("dists/trixie-backports/main/binary-amd64/Packages");
    edit(&packages, "linux-source-7.3", "linux-source-7.4");
    mirror.release(&packages);
    check(&lab, &mirror).fails(2, &["linux-source-7.3 is not in trixie-backports", "KSRC=path"]);
}

#[test]
fn an_index_that_is_being_replaced() {
    let (lab, mirror) = lab();
    let packages = mirror.dir.join("dists/trixie-backports/main/binary-amd64/Packages");
    let text = fs::read_to_string(&packages).unwrap();
    write(&packages, &format!("{text}\n"));
    check(&lab, &mirror).fails(2, &["index of trixie-backports does not match", "run again in half an hour"]);
}

#[test]
fn no_network() {
    let (lab, mirror) = lab();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Mirror { address: format!("http://127.0.0.1:{port}/"), ..mirror };
    check(&lab, &nobody).fails(2, &["no network", "linux-source-7.3", "Connection refused", "connect and run again"]);
}

#[test]
fn a_machine_without_a_mirror() {
    let (lab, _mirror) = lab();
    lab.script("apt-get", "exit 0");
    said(lab.tool().env("LAZYMAP_MIRROR", "").arg("series-check"))
        .fails(2, &["name no Debian mirror", "LAZYMAP_MIRROR"]);
}
