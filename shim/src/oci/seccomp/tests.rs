//! Programs, run as the kernel would (`kernel/bpf/core.c`, for the few
//! instructions that are used).

use nix::libc::sock_filter;
use serde_json::{Value, json};
use shim_protocol::ErrorKind;

use super::{ALLOW, ERRNO, Filter, KILL_PROCESS, LOG, NOTIFY, TRACE, numbers::Architecture};

const ENOSYS: u32 = ERRNO | 38;
const EPERM: u32 = ERRNO | 1;

fn compile(profile: Value) -> shim_protocol::Result<Filter> {
    Filter::compile(&serde_json::from_value(profile).unwrap())
}

/// What a program answers to a call.
fn run(program: &[sock_filter], architecture: Architecture, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [0_u32; 16];
    data[0] = number;
    data[1] = architecture.audit();
    for (index, arg) in args.iter().enumerate() {
        let (low, high) = if cfg!(target_endian = "little") { (0, 1) } else { (1, 0) };
        data[4 + 2 * index + low] = *arg as u32;
        data[4 + 2 * index + high] = (*arg >> 32) as u32;
    }
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let jump = |condition: bool| usize::from(if condition { jt } else { jf });
        at += 1 + match code {
            0x20 => {
                value = data[k as usize / 4];
                0
            }
            0x54 => {
                value &= k;
                0
            }
            0x05 => k as usize,
            0x15 => jump(value == k),
            0x25 => jump(value > k),
            0x35 => jump(value >= k),
            0x06 => return k,
            code => panic!("instruction {code:#x}"),
        };
    }
}

fn native(filter: &Filter, name: &str, args: [u64; 6]) -> u32 {
    let number = Architecture::NATIVE.number(name).unwrap();
    run(&filter.program, Architecture::NATIVE, number, args)
}

#[test]
fn the_first_rule_that_matches_decides() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "write", "clone3", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["close"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]},
            {"names": ["close"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9},
            {"names": ["dup"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        ],
    }))
    .unwrap();
    for (name, first, answer) in [
        ("read", 0, ALLOW),
        ("write", 0, ALLOW),
        ("close", 3, LOG),
        ("close", 4, ERRNO | 9),
        ("dup", 0, TRACE | 7),
        ("getpid", 0, EPERM),
    ] {
        assert_eq!(native(&filter, name, [first, 0, 0, 0, 0, 0]), answer, "{name} {first}");
    }
    // Newer than all that the profile knows.
    assert_eq!(run(&filter.program, Architecture::NATIVE, 4000, [0; 6]), ENOSYS);
    let other = match Architecture::NATIVE {
        Architecture::X86_64 => Architecture::Aarch64,
        _ => Architecture::X86_64,
    };
    assert_eq!(run(&filter.program, other, 0, [0; 6]), KILL_PROCESS);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(run(&filter.program, Architecture::NATIVE, 0x4000_0000, [0; 6]), ENOSYS);
}

#[test]
fn arguments_have_64_bits() {
    const BIG: u64 = 0x1_0000_0005;
    for (op, value, second, matching, other) in [
        ("EQ", BIG, 0_u64, vec![BIG], vec![5, BIG + 1, 0x2_0000_0005]),
        ("NE", BIG, 0, vec![5, BIG + 1, 0x2_0000_0005], vec![BIG]),
        ("GT", BIG, 0, vec![BIG + 1, 0x2_0000_0000], vec![BIG, 0xffff_ffff, 0]),
        ("GE", BIG, 0, vec![BIG, 0x2_0000_0000], vec![BIG - 1, 0xffff_ffff]),
        ("LT", BIG, 0, vec![BIG - 1, 0xffff_ffff], vec![BIG, 0x2_0000_0000]),
        ("LE", BIG, 0, vec![BIG, 0xffff_ffff, 0], vec![BIG + 1, 0x2_0000_0000]),
        (
            "MASKED_EQ",
            0xf_0000_000f,
            0x1_0000_0005,
            vec![BIG, 0xff1_0000_00f5],
            vec![5, BIG + 1, 0x2_0000_0005],
        ),
    ] {
        let filter = compile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{
                "names": ["lseek"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 5, "value": value, "valueTwo": second, "op": format!("SCMP_CMP_{op}")}],
            }],
        }))
        .unwrap();
        for (args, answer) in [(matching, ALLOW), (other, EPERM)] {
            for arg in args {
                let found = native(&filter, "lseek", [0, 0, 0, 0, 0, arg]);
                assert_eq!(found, answer, "{arg:#x} {op} {value:#x}");
            }
        }
    }
}

#[test]
fn conditions_are_all_needed_unless_they_are_of_one_argument() {
    let arg = |index: u32, value: u32| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 1), arg(1, 2)]},
            {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 1), arg(0, 2)]},
        ],
    }))
    .unwrap();
    for (name, args, answer) in [
        ("socket", [1, 2], ALLOW),
        ("socket", [1, 1], EPERM),
        ("socket", [2, 2], EPERM),
        ("kill", [1, 9], ALLOW),
        ("kill", [2, 9], ALLOW),
        ("kill", [3, 9], EPERM),
    ] {
        assert_eq!(
            native(&filter, name, [args[0], args[1], 0, 0, 0, 0]),
            answer,
            "{name} {args:?}"
        );
    }
}

/// As large as profiles get, with jumps that are too far for one instruction.
#[test]
fn large_profiles() {
    let names: Vec<_> = (0..460)
        .filter_map(syscalls::x86_64::Sysno::new)
        .map(|call| call.name())
        .filter(|name| Architecture::NATIVE.number(name).is_some())
        .collect();
    let rules: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let args: Vec<_> = (0..index % 3)
                .map(|arg| json!({"index": arg, "value": index, "op": "SCMP_CMP_GE"}))
                .collect();
            json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": index, "args": args})
        })
        .collect();
    let filter = compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})).unwrap();
    for (index, name) in names.iter().enumerate() {
        let number = index as u64;
        assert_eq!(native(&filter, name, [number; 6]), ERRNO | index as u32, "{name}");
        let less = number.saturating_sub(1);
        let answer = if index % 3 == 0 { ERRNO | index as u32 } else { ALLOW };
        assert_eq!(native(&filter, name, [less; 6]), answer, "{name} with less");
    }
}

#[test]
fn what_the_kernel_would_refuse_is_refused() {
    for profile in [
        json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
            "names": ["read"], "action": "SCMP_ACT_KILL",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}],
        }]}),
    ] {
        assert_eq!(compile(profile).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn only_who_notifies_has_a_listener() {
    let profile = |action: &str| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{"names": ["swapon"], "action": action}],
        })
    };
    let filter = compile(profile("SCMP_ACT_NOTIFY")).unwrap();
    assert!(filter.has_listener());
    assert_eq!(native(&filter, "swapon", [0; 6]), NOTIFY);
    assert!(!compile(profile("SCMP_ACT_LOG")).unwrap().has_listener());
}
