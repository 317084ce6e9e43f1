// SPDX-License-Identifier: GPL-2.0-only
//! The interpreter of the exception entry, on the machine code of a real kernel: as it is, and with one
//! instruction changed.

use std::fs;
use std::path::Path;

use lazymap::exhaust::image::Image;
use lazymap::exhaust::layout::Layout;
use lazymap::exhaust::mutate::{Kind, mutants};
use lazymap::exhaust::search::Limit;
use lazymap::exhaust::world::Bounds;
use lazymap::exhaust::{Plan, Verdict, judge, kvm as of_kvm, report};
use lazymap::hunt::symbols::Symbols;

/// The kernel of `fixtures/exhaust/series.txt`.
fn kernel() -> Image {
    with("series.txt", &[])
}

/// KVM of `fixtures/exhaust/kvm.txt`.
fn kvm() -> Image {
    with("kvm.txt", &[])
}

/// A fixture, and code that it does not have: address, bytes, name.
fn with(fixture: &str, more: &[(u64, &[u8], &str)]) -> Image {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exhaust").join(fixture);
    let text = fs::read_to_string(file).unwrap();
    let number = |word: &str| u64::from_str_radix(word, 16).unwrap();
    let mut bytes: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut symbols: Vec<(u64, u64, String)> = Vec::new();
    let mut writable = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["bytes", at, hex] => {
                let new = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap());
                match bytes.last_mut() {
                    // One part, so that an instruction may cross from a line to the next.
                    Some((start, part)) if *start + part.len() as u64 == number(at) => part.extend(new),
                    _ => bytes.push((number(at), new.collect())),
                }
            }
            ["symbol", at, size, name] => symbols.push((number(at), number(size), name.to_owned())),
            ["writable", start, end] => writable.push((number(start), number(end))),
            _ => panic!("{line}"),
        }
    }
    let mut parts: Vec<_> = bytes.iter().map(|(at, part)| (*at, part.as_slice())).collect();
    let mut symbols: Vec<_> = symbols.iter().map(|(at, size, name)| (*at, *size, name.as_str())).collect();
    parts.extend(more.iter().map(|(at, code, _)| (*at, *code)));
    symbols.extend(more.iter().map(|(at, code, name)| (*at, code.len() as u64, *name)));
    Image::from_parts(&parts, &symbols, &writable)
}

/// A small search.
fn plan(cpu: u32) -> Plan {
    Plan {
        bounds: Bounds { depth: 1, mappings: 1, patient: false },
        cpus: vec![cpu],
        starts: 1,
        alternatives: true,
        limit: Limit { states: 1_000_000, first: false },
    }
}

/// The same, until something is found.
fn first(cpu: u32) -> Plan {
    let plan = plan(cpu);
    Plan { limit: Limit { first: true, ..plan.limit }, ..plan }
}

/// The kernel with one instruction in place of another of the same length; `nth` counts from 0 in the
/// function.
fn mutated(function: &str, old: &[u8], nth: usize, new: &[u8], plan: &Plan) -> Verdict {
    assert_eq!(old.len(), new.len());
    let image = kernel();
    let layout = Layout::of(&image).unwrap();
    let (start, end) = image.code(function).unwrap();
    let body = image.bytes(start, (end - start) as usize).unwrap();
    let places = (0..body.len() - old.len() + 1).step_by(2).filter(|at| body[*at..].starts_with(old));
    let at = places.collect::<Vec<_>>()[nth];
    judge(&image.patched(start + at as u64, new), &layout, plan)
}

/// Windows and properties of the findings.
fn findings(verdict: &Verdict) -> Vec<(u8, &str)> {
    assert_eq!(verdict.unknown, None);
    verdict.findings.iter().map(|f| (f.violation.window, f.violation.property)).collect()
}

const NOP: [u8; 4] = [0x13, 0, 0, 0];
const SFENCE_VMA: [u8; 4] = [0x73, 0, 0, 0x12];

#[test]
fn the_layout_is_found() {
    let layout = Layout::of(&kernel()).unwrap();
    assert_eq!((layout.kernel_sp, layout.user_sp, layout.cpu, layout.word), (0x10, 0x18, 0x20, Some(0x38)));
    assert_eq!((layout.frame, layout.shift), (0x120, Some(14)));
    assert!(layout.scratch.iter().eq(&[0x10, 0x18, 0x30]), "{:?}", layout.scratch);
    assert_eq!(layout.fork.len(), 2);
    let switch = layout.switch.unwrap();
    assert_eq!((switch.prev, switch.next, switch.prev_cpu), (27, 20, Some(0xb3c)));
    assert_eq!(layout.syncs.len(), 1);
    assert_eq!(layout.saved.len(), 14);
    assert!(layout.saved_sum.is_some() && layout.handlers.len() == 20);
}

#[test]
fn the_series_is_clean() {
    let image = kernel();
    let verdict = judge(&image, &Layout::of(&image).unwrap(), &plan(1));
    assert_eq!(findings(&verdict), []);
    assert!(verdict.is_clean() && verdict.states > 500, "{verdict:?}");
}

#[test]
fn the_scheduler_multiplies_no_states() {
    let image = kernel();
    let layout = Layout::of(&image).unwrap();
    // It branches on what nobody knows; with each branch on its own there are 14 times as many.
    let verdict = judge(&image, &layout, &plan(1));
    assert!(verdict.is_clean() && verdict.states < 2_000, "{verdict:?}");
}

#[test]
fn a_switch_without_a_fence_opens_windows() {
    // The search of such a kernel takes long, but these are found soon.
    let some = Plan { limit: Limit { states: 20_000, first: false }, ..plan(1) };
    let verdict = mutated("local_sync_new_mappings", &SFENCE_VMA, 0, &NOP, &some);
    for window in [2, 3] {
        assert!(verdict.findings.iter().any(|f| f.violation.window == window), "{window}: {verdict:?}");
    }
}

#[test]
fn a_patient_hart_finds_each_window_and_proves_nothing() {
    let patient = Plan { bounds: Bounds { depth: 2, mappings: 1, patient: true }, ..plan(1) };
    let verdict = mutated("local_sync_new_mappings", &SFENCE_VMA, 0, &NOP, &patient);
    for window in 1..=4 {
        assert!(verdict.findings.iter().any(|f| f.violation.window == window), "{window}: {verdict:?}");
    }
    let shallow = Plan { bounds: Bounds { patient: true, ..plan(1).bounds }, ..plan(1) };
    let verdict = judge(&kernel(), &Layout::of(&kernel()).unwrap(), &shallow);
    assert!(!verdict.is_clean() && verdict.findings.is_empty(), "{verdict:?}");
}

#[test]
fn a_register_that_the_switch_forgets_is_caught() {
    // ld s1, which __switch_to loads from the task: the first start is a new process.
    let image = kernel();
    let (start, end) = image.code("__switch_to").unwrap();
    let layout = Layout::of(&image).unwrap();
    let loads = |pc: &u64| image.decode(*pc).is_some_and(|(i, _)| i.to_string().starts_with("ld x9, "));
    let at = (start..end).step_by(2).find(loads).unwrap();
    let nop = if image.decode(at).unwrap().1 == 4 { NOP.to_vec() } else { vec![0x01, 0x00] };
    let verdict = judge(&image.patched(at, &nop), &layout, &first(1));
    assert!(findings(&verdict).iter().any(|(_, property)| *property == "registers"), "{verdict:?}");
}

#[test]
fn what_others_do_to_the_bitmap_is_seen() {
    // and a0, a0, a2 of local_sync_new_mappings(): the bits of others make it skip the fence.
    let narrow = Plan { starts: 2, ..first(1) };
    let verdict = mutated("local_sync_new_mappings", &[0x71, 0x8d], 0, &[0x01, 0x00], &narrow);
    assert_eq!(findings(&verdict), [(1, "ends")]);
}

#[test]
fn a_fence_for_an_address_space_is_none_for_the_kernel() {
    // sfence.vma zero, sp
    let verdict = mutated("handle_exception", &SFENCE_VMA, 0, &[0x73, 0x00, 0x20, 0x12], &first(1));
    assert!(findings(&verdict).contains(&(0, "spurious faults are absorbed")), "{verdict:?}");
}

#[test]
fn only_what_cannot_differ_is_no_mutant() {
    let image = kernel();
    let exchanged = |function: &str| {
        let all = mutants(&image, image.code(function).unwrap());
        all.into_iter().filter(|m| m.kind == Kind::Exchanged).map(|m| m.old).collect::<Vec<_>>()
    };
    // The return, after what gives the stack back.
    assert!(exchanged("flush_cache_vmap").contains(&"addi x2, x2, 16".to_owned()));
    // Two stores to different words of the stack.
    assert!(!exchanged("flush_cache_vmap").contains(&"sd x1, 8(x2)".to_owned()));
    assert!(exchanged("local_sync_new_mappings").iter().any(|old| old.starts_with("csrrci")));
}

#[test]
fn a_call_between_mark_and_fence_is_caught() {
    let image = kernel();
    let (start, end) = image.code("local_sync_new_mappings").unwrap();
    let body = image.bytes(start, (end - start) as usize).unwrap();
    // In place of the test of the AMO's result, which makes two compressed instructions: jal ra, flush_cache_vmap.
    let at = start + body.windows(4).position(|four| four == [0x71, 0x8d, 0x19, 0xe1]).unwrap() as u64;
    let by = image.symbol("flush_cache_vmap").unwrap().0.wrapping_sub(at) as u32;
    let jal = (by & 0x10_0000) << 11 | by & 0xf_f000 | (by & 0x800) << 9 | (by & 0x7fe) << 20 | 0xef;
    let layout = Layout::of(&image).unwrap();
    // A page of data must have been announced as well, for a tracer to know of it.
    let two = Plan { bounds: Bounds { mappings: 2, ..plan(1).bounds }, ..first(1) };
    let verdict = judge(&image.patched(at, &jal.to_le_bytes()), &layout, &two);
    let found = &verdict.findings.first().unwrap().violation;
    assert_eq!(found.property, "spurious faults are absorbed");
    assert!(found.what.contains("flush_cache_vmap") && found.what.contains("before the fence"), "{found:?}");
}

#[test]
fn a_check_without_a_fence_is_caught() {
    let verdict = mutated("handle_exception", &SFENCE_VMA, 0, &NOP, &plan(1));
    assert!(findings(&verdict).contains(&(0, "spurious faults are absorbed")), "{verdict:?}");
}

#[test]
fn a_narrow_amo_is_caught_on_cpu_33() {
    // amoor.d.aq a0, sp, (a0), and amoor.w.aq.
    // A genuine fault of the kernel is the second trap.
    let deep = Plan { bounds: Bounds { depth: 2, mappings: 1, patient: false }, ..first(33) };
    let (d, w) = ([0x2f, 0x35, 0x25, 0x44], [0x2f, 0x25, 0x25, 0x44]);
    assert_eq!(findings(&mutated("handle_exception", &d, 0, &w, &deep)), [(0, "spurious faults are absorbed")]);
    assert_eq!(findings(&mutated("handle_exception", &d, 0, &w, &plan(1))), []);
}

#[test]
fn swapped_slots_are_caught() {
    // sd gp, 24(sp) becomes sd gp, 40(sp).
    let verdict = mutated("handle_exception", &[0x0e, 0xec], 0, &[0x0e, 0xf4], &first(1));
    assert!(findings(&verdict).iter().any(|(_, property)| *property == "pt_regs"), "{verdict:?}");
}

#[test]
fn an_unknown_instruction_does_not_pass() {
    // vsetvli a0, a1, e8, m1
    let verdict = mutated("handle_exception", &SFENCE_VMA, 0, &[0x57, 0xf5, 0x05, 0x00], &plan(1));
    assert!(verdict.unknown.as_ref().is_some_and(|why| why.contains("handle_exception+")), "{verdict:?}");
    assert!(!verdict.is_clean());
}

#[test]
fn what_is_not_understood_is_an_error() {
    let image = kernel();
    // The branch that tests sscratch: without it nothing is known of the entry.
    let (start, _) = image.code("handle_exception").unwrap();
    let error = Layout::of(&image.patched(start + 4, &NOP)).unwrap_err();
    assert!(error.contains("sscratch"), "{error}");
    // ld gp, 0(tp), in place of the auipc of the global pointer.
    let body = image.bytes(start, 0x200).unwrap();
    let auipc = body.windows(2).position(|two| two[0] == 0x97 && two[1] & 15 == 1).unwrap() as u64;
    let error = Layout::of(&image.patched(start + auipc, &0x0002_3183u32.to_le_bytes())).unwrap_err();
    assert!(error.contains("shadow call stack"), "{error}");
}

#[test]
fn compressed_instructions_are_decoded() {
    // c.and s0, s1; c.slli a0, 40; c.srli s0, 40; a reserved one.
    let bytes = [0x65, 0x8c, 0x22, 0x15, 0x21, 0x90, 0x65, 0x9c];
    let image = Image::from_parts(&[(0x1000, &bytes)], &[], &[]);
    let decoded = |pc| image.decode(pc).map(|(instruction, len)| (instruction.to_string(), len));
    assert_eq!(decoded(0x1000), Some(("and x8, x8, x9".to_owned(), 2)));
    assert_eq!(decoded(0x1002), Some(("slli x10, x10, 40".to_owned(), 2)));
    assert_eq!(decoded(0x1004), Some(("srli x8, x8, 40".to_owned(), 2)));
    assert_eq!(decoded(0x1006), None);
}

#[test]
fn each_kind_of_mutant_is_made() {
    let image = kernel();
    let layout = Layout::of(&image).unwrap();
    let all = mutants(&image, (layout.vector, layout.saves));
    assert!(all.len() >= 120, "{}", all.len());
    for kind in [
        Kind::Deleted,
        Kind::Exchanged,
        Kind::Register,
        Kind::Swapped,
        Kind::Sense,
        Kind::Operation,
        Kind::Width,
        Kind::Number,
        Kind::Csr,
        Kind::Order,
        Kind::Fence,
    ] {
        assert!(all.iter().any(|m| m.kind == kind), "{kind}");
    }
    for mutant in &all {
        let old = image.bytes(mutant.address, mutant.bytes.len()).unwrap();
        assert_ne!(old, mutant.bytes, "{mutant:?}");
    }
}

/// What is found in KVM of a kernel in which `flushes` says whether the loader of modules makes every hart fence, and
/// which fences at a switch if `fences`.
fn found_in_kvm(module: Option<&Image>, flushes: bool, fences: bool) -> of_kvm::Found {
    // j .+0x1000 (to flush_tlb_all), or ret.
    let code: &[u8] = if flushes { &[0x6f, 0x10, 0x00, 0x00] } else { &[0x67, 0x80, 0x00, 0x00] };
    let at = 0xffff_ffff_8000_4000;
    let kernel =
        with("series.txt", &[(at, code, "set_memory_rox"), (at + 0x1000, &[0x67, 0x80, 0, 0], "flush_tlb_all")]);
    let mut layout = Layout::of(&kernel).unwrap();
    if !fences {
        layout.syncs.clear();
    }
    of_kvm::search(&kernel, &layout, module)
}

/// What is broken, in words.
fn broken_in_kvm(found: &of_kvm::Found) -> Vec<&str> {
    assert_eq!(found.unknown, None);
    found.broken.iter().map(|b| &*b.what).collect()
}

#[test]
fn kvm_is_clean_if_its_text_and_the_stack_are_seen_by_all_harts() {
    let found = found_in_kvm(Some(&kvm()), true, true);
    assert_eq!(broken_in_kvm(&found), Vec::<&str>::new());
    assert!(found.instructions > 350, "{found:?}");
}

#[test]
fn kvm_cannot_take_a_fault_on_its_text() {
    let found = found_in_kvm(Some(&kvm()), false, true);
    let broken = broken_in_kvm(&found);
    assert!(broken.iter().all(|what| what.starts_with("a stale translation of KVM's text")), "{broken:?}");
    for function in ["__kvm_riscv_switch_to+", "__kvm_riscv_nacl_switch_to+", "__kvm_riscv_unpriv_trap+"] {
        assert!(broken.iter().any(|what| what.contains(function)), "{function}: {broken:?}");
    }
    // In the kernel image it is mapped from the start.
    let module = kvm();
    let names = ["__kvm_riscv_switch_to", "__kvm_riscv_unpriv_trap", "kvm_riscv_vcpu_unpriv_read"];
    let code = names.map(|name| module.code(name).map(|(start, end)| (start, (end - start) as usize)).unwrap());
    let code = code.map(|(start, len)| (start, module.bytes(start, len).unwrap()));
    // The pointer to the handler of traps.
    let pointer = (0xffff_ffff_0202_2000, module.bytes(0xffff_ffff_0202_2000, 8).unwrap());
    let parts = code.iter().zip(names).map(|((at, bytes), name)| (*at, bytes.as_slice(), name));
    let parts: Vec<_> = parts.chain([(pointer.0, pointer.1.as_slice(), "pointer")]).collect();
    let kernel = with("series.txt", &parts);
    let found = of_kvm::search(&kernel, &Layout::of(&kernel).unwrap(), None);
    assert_eq!(broken_in_kvm(&found), Vec::<&str>::new());
    assert!(found.instructions > 200, "{found:?}");
}

#[test]
fn a_far_call_of_the_flush_counts_and_no_loader_is_an_error() {
    // auipc ra, 0; jalr ra, 4092(ra); ret: a helper that calls flush_tlb_all().
    let at = 0xffff_ffff_8000_4000;
    let far: &[u8] = &[0x97, 0x00, 0x00, 0x00, 0xe7, 0x80, 0xc0, 0x7f, 0x67, 0x80, 0, 0];
    let jump: &[u8] = &[0x6f, 0x00, 0x00, 0x10];
    let ret: &[u8] = &[0x67, 0x80, 0, 0];
    let search = |more: &[(u64, &[u8], &str)]| {
        let kernel = with("series.txt", more);
        of_kvm::search(&kernel, &Layout::of(&kernel).unwrap(), Some(&kvm()))
    };
    let flush = (at + 0x100 + 0x7fc, ret, "flush_tlb_all");
    let found = search(&[(at, jump, "set_memory_x"), (at + 0x100, far, "__set_memory"), flush]);
    assert_eq!(broken_in_kvm(&found), Vec::<&str>::new());
    let found = search(&[(at, ret, "set_memory_x"), (at + 0x100, far, "__set_memory"), flush]);
    assert!(!broken_in_kvm(&found).is_empty());
    assert!(search(&[flush]).unknown.is_some_and(|why| why.contains("set_memory_rox")));
}

#[test]
fn kvm_cannot_take_a_fault_on_the_stack() {
    let found = found_in_kvm(Some(&kvm()), true, false);
    let broken = broken_in_kvm(&found);
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(broken[0].starts_with("a stale translation of the stack"), "{broken:?}");
    assert!(broken[0].ends_with("__kvm_riscv_unpriv_trap+0x0"), "{broken:?}");
}

#[test]
fn what_kvm_forgets_is_caught() {
    let changed = |old: &str, new: &[u8], function: &str| {
        let image = kvm();
        let (start, end) = image.code(function).unwrap();
        let is_old = |pc: &u64| image.decode(*pc).is_some_and(|(i, _)| i.to_string() == old);
        let at = (start..end).step_by(2).find(is_old).unwrap_or_else(|| panic!("{old}"));
        let found = found_in_kvm(Some(&image.patched(at, new)), true, true);
        broken_in_kvm(&found).join("; ")
    };
    let switch = "__kvm_riscv_switch_to";
    // The last write of stvec, and of sscratch; a register of the host, and of the guest both ways.
    assert!(changed("csrrw x0, 261, x5", &NOP, switch).contains("stvec"));
    assert!(changed("csrrw x6, 320, x6", &NOP, switch).contains("sscratch"));
    assert!(changed("csrrw x7, 256, x7", &NOP, switch).contains("sstatus"));
    assert!(changed("ld x18, 240(x10)", &NOP, switch).contains("a wrong s2"));
    assert!(changed("ld x28, 1184(x10)", &NOP, switch).contains("entered with a t3"));
    assert!(changed("sd x28, 1184(x10)", &NOP, switch).contains("guest's t3"));
    assert!(changed("sd x28, 1184(x10)", &NOP, "__kvm_riscv_nacl_switch_to").contains("guest's t3"));
    assert!(changed("csrrci x16, 256, 2", &NOP, "kvm_riscv_vcpu_unpriv_read").contains("interrupts are enabled"));
    assert!(changed("csrrw x0, 321, x11", &NOP, "__kvm_riscv_unpriv_trap").contains("wrong place"));
    assert!(changed("csrrw x0, 261, x5", &NOP, "kvm_riscv_vcpu_unpriv_read").contains("stvec"));
}

#[test]
fn what_kvm_breaks_is_told_beside_the_rest() {
    let (module, symbols) = (kvm(), Symbols::from_list(&[], None));
    let told = |kernel: &str, found| {
        let code = self::kernel();
        let (layout, plan) = (Layout::of(&code).unwrap(), first(1));
        let mut report = report::report(kernel, &code, &layout, &symbols, &plan, &Verdict::default());
        report.clean = true;
        report::add_kvm(&mut report, &module, &symbols, found);
        report
    };
    let clean = told("clean", found_in_kvm(Some(&module), true, true));
    assert!(clean.clean && clean.findings.is_empty() && clean.kvm.is_some_and(|n| n > 350), "{clean:?}");
    let broken = told("broken", found_in_kvm(Some(&module), false, true));
    assert!(!broken.clean && broken.unknown.is_none());
    let first = &broken.findings[0];
    assert_eq!((first.window, first.property, first.setting.model), (0, "KVM", Some("window-5")));
    assert!(first.place.contains("kvm_riscv") && first.start.starts_with("a hart calls "), "{first:?}");
    assert!(!first.steps.is_empty() && first.steps.iter().all(|step| step.place.contains('+')), "{first:?}");
    // A register that is lost shows on any machine.
    let lost = of_kvm::Broken { what: "x".to_owned(), function: "f", place: 0, stale: false, steps: Vec::new() };
    let found = of_kvm::Found { broken: vec![lost], instructions: 1, unknown: None };
    assert_eq!(told("lost", found).findings[0].setting.model, Some("plain"));
    // What is not understood is not clean.
    let found = of_kvm::Found { broken: Vec::new(), instructions: 1, unknown: Some("y".to_owned()) };
    let unknown = told("unknown", found);
    assert!(!unknown.clean && unknown.unknown.as_deref() == Some("y"));
}

#[test]
fn a_kvm_that_is_not_understood_does_not_pass() {
    let found = found_in_kvm(Some(&Image::from_parts(&[(0x1000, &NOP)], &[], &[])), true, true);
    assert!(found.unknown.is_some_and(|why| why.contains("__kvm_riscv_switch_to")));
    let image = kvm();
    let (start, _) = image.code("__kvm_riscv_switch_to").unwrap();
    // A switch that returns at once.
    let found = found_in_kvm(Some(&image.patched(start, &[0x67, 0x80, 0, 0])), true, true);
    assert!(found.unknown.is_some_and(|why| why.contains("without having entered a guest")));
    // vsetvli a0, a1, e8, m1
    let found = found_in_kvm(Some(&image.patched(start, &[0x57, 0xf5, 0x05, 0x00])), true, true);
    assert!(found.unknown.is_some_and(|why| why.contains("decoder")));
}
