//! Which devices a container may use. Later rules override earlier ones, and
//! what no rule names is forbidden.
//!
//! v1 takes the rules as text (cgroup-v1/devices.rst), v2 wants a program
//! (cgroup-v2.rst, "Device controller"; bpf.h, `struct bpf_cgroup_dev_ctx`).

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use shim_protocol::{Context, Error, Result};

use super::tree;
use crate::sys::bpf;

/// Bits of an access, as the kernel's program sees them.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    allow: bool,
    /// 'a' for block and character devices, else 'b' or 'c'.
    kind: char,
    /// `None` is any.
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// What every container may use (config-linux.md, "Default Devices"), after
/// the client's own rules, as with runc: making nodes; null, zero, full,
/// random, urandom, tty, console, ptmx, and pseudoterminals.
const DEFAULTS: [(char, Option<u32>, Option<u32>, u32); 11] = [
    ('c', None, None, MKNOD),
    ('b', None, None, MKNOD),
    ('c', Some(1), Some(3), ALL),
    ('c', Some(1), Some(5), ALL),
    ('c', Some(1), Some(7), ALL),
    ('c', Some(1), Some(8), ALL),
    ('c', Some(1), Some(9), ALL),
    ('c', Some(5), Some(0), ALL),
    ('c', Some(5), Some(1), ALL),
    ('c', Some(5), Some(2), ALL),
    ('c', Some(136), None, ALL),
];

impl Rule {
    /// The rules of a container.
    ///
    /// # Errors
    /// `InvalidArgument` for a rule that makes no sense.
    pub(super) fn all(resources: Option<&LinuxResources>) -> Result<Vec<Self>> {
        let asked = resources.and_then(|resources| resources.devices().as_ref());
        let mut rules = Vec::new();
        for rule in asked.into_iter().flatten() {
            let rule = Self::parse(rule)?;
            if rule.is_everything() {
                // Whatever was before counts no more.
                rules.clear();
                if !rule.allow {
                    continue;
                }
            }
            rules.push(rule);
        }
        if !rules.first().is_some_and(|rule| rule.is_everything() && rules.len() == 1) {
            let default =
                |(kind, major, minor, access)| Self { allow: true, kind, major, minor, access };
            rules.extend(DEFAULTS.map(default));
        }
        Ok(rules)
    }

    fn parse(rule: &LinuxDeviceCgroup) -> Result<Self> {
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => 'a',
            LinuxDeviceType::B => 'b',
            LinuxDeviceType::C | LinuxDeviceType::U => 'c',
            LinuxDeviceType::P => {
                return Err(Error::invalid("linux.resources.devices: a FIFO is no device"));
            }
        };
        // -1 is what clients older than the absent number write.
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number).map(Some).map_err(|e| {
                let what = format!("linux.resources.devices: number {number}");
                Error::caused(shim_protocol::ErrorKind::InvalidArgument, what, e)
            }),
        };
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => {
                    let what = format!("linux.resources.devices: access {letter:?}");
                    return Err(Error::invalid(what));
                }
            };
        }
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        Ok(Self { allow: rule.allow(), kind, major, minor, access })
    }

    fn is_everything(&self) -> bool {
        self.kind == 'a' && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    /// As v1 wants it.
    fn text(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let access = self.letters();
        format!("{} {}:{} {access}", self.kind, number(self.major), number(self.minor))
    }

    fn letters(&self) -> String {
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        let access = letters.iter().filter(|(bit, _)| self.access & bit != 0);
        access.map(|(_, letter)| letter).collect()
    }
}

/// What a list of devices that may be used says of rules.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Every device.
    All,
    /// These, by systemd's names for them, with how they may be used
    /// (systemd.resource-control(5), "DeviceAllow").
    These(Vec<(String, String)>),
    /// What no list says.
    Other,
}

/// The devices that `rules` allow, as a list.
pub(super) fn allowed(rules: &[Rule]) -> Allowed {
    if rules.iter().any(|rule| !rule.allow || (rule.is_everything() && rules.len() > 1)) {
        return Allowed::Other;
    }
    if rules.first().is_some_and(Rule::is_everything) {
        return Allowed::All;
    }
    let mut these = Vec::new();
    for rule in rules.iter().filter(|rule| rule.access != 0) {
        let kinds = if rule.kind == 'a' { &['b', 'c'][..] } else { &[rule.kind][..] };
        for kind in kinds {
            let name = if *kind == 'b' { "block" } else { "char" };
            let path = match (rule.major, rule.minor) {
                (Some(major), Some(minor)) => format!("/dev/{name}/{major}:{minor}"),
                // What has no name there cannot be said.
                (Some(major), None) => match group_of(*kind, major) {
                    Some(group) => format!("{name}-{group}"),
                    None => return Allowed::Other,
                },
                (None, None) => format!("{name}-*"),
                (None, Some(_)) => return Allowed::Other,
            };
            these.push((path, rule.letters()));
        }
    }
    Allowed::These(these)
}

/// The name of a driver (proc(5), `/proc/devices`).
fn group_of(kind: char, major: u32) -> Option<String> {
    let text = fs::read_to_string("/proc/devices").ok()?;
    let (characters, blocks) = text.split_once("Block devices:")?;
    let lines = if kind == 'b' { blocks } else { characters }.lines();
    let mut pairs = lines.filter_map(|line| line.trim().split_once(' '));
    pairs.find(|(number, _)| number.parse() == Ok(major)).map(|(_, name)| name.to_owned())
}

pub(super) fn write_v1(folder: &Path, rules: &[Rule]) -> Result<()> {
    let mut lines = Vec::new();
    if !rules.first().is_some_and(Rule::is_everything) {
        lines.push((false, "a".to_owned()));
    }
    for rule in rules.iter().filter(|rule| rule.access != 0) {
        if rule.is_everything() {
            lines.push((rule.allow, "a".to_owned()));
            continue;
        }
        // v1 takes "a" for all of everything, whatever follows.
        let kinds = if rule.kind == 'a' { &['b', 'c'][..] } else { &[rule.kind][..] };
        let of_kind = |kind: &char| Rule { kind: *kind, ..rule.clone() }.text();
        lines.extend(kinds.iter().map(|kind| (rule.allow, of_kind(kind))));
    }
    // In their order, but a file is opened once for those that follow each other.
    for lines in lines.chunk_by(|one, other| one.0 == other.0) {
        let name = if lines[0].0 { "devices.allow" } else { "devices.deny" };
        tree::write_each(&folder.join(name), lines.iter().map(|(_, line)| line.as_str()))?;
    }
    Ok(())
}

pub(super) fn attach_v2(folder: &Path, rules: &[Rule]) -> Result<()> {
    let group = File::open(folder).context("open", folder.display())?;
    bpf::attach_devices(group.as_fd(), &program(rules))
        .context("limit devices of", folder.display())
}

/// Registers: the answer; the question, and then what lies between; type,
/// access, major and minor number of the device.
const ANSWER: u8 = 0;
const WORK: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Instructions (`include/uapi/linux/bpf.h`, `bpf_common.h`).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    let registers = u64::from(target | source << 4);
    u64::from(code)
        | registers << 8
        | u64::from(offset as u16) << 16
        | u64::from(value as u32) << 32
}

/// The last rule that matches answers.
fn program(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, TYPE, WORK, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        instruction(AND, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, WORK, 4, 0),
        instruction(LOAD_WORD, MINOR, WORK, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        match rule.kind {
            'b' => tests.push(instruction(JUMP_NOT_EQUAL, TYPE, 0, 0, BLOCK as i32)),
            'c' => tests.push(instruction(JUMP_NOT_EQUAL, TYPE, 0, 0, CHARACTER as i32)),
            _ => {}
        }
        if rule.access != ALL {
            tests.push(instruction(MOVE_REGISTER, WORK, ACCESS, 0, 0));
            tests.push(instruction(AND, WORK, 0, 0, rule.access as i32));
            // Allowed is who asks for no more; forbidden, who asks for any of it.
            tests.push(match rule.allow {
                true => instruction(JUMP_NOT_EQUAL_REGISTER, WORK, ACCESS, 0, 0),
                false => instruction(JUMP_EQUAL, WORK, 0, 0, 0),
            });
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = number {
                tests.push(instruction(JUMP_NOT_EQUAL, register, 0, 0, number as i32));
            }
        }
        // Behind the tests come the two instructions that answer.
        let end = tests.len() + 2;
        for (at, test) in tests.iter_mut().enumerate() {
            if matches!(*test as u8, JUMP_EQUAL | JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER) {
                *test |= u64::from((end - at - 1) as u16) << 16;
            }
        }
        let always = tests.is_empty();
        program.append(&mut tests);
        program.push(instruction(MOVE, ANSWER, 0, 0, i32::from(rule.allow)));
        program.push(instruction(EXIT, 0, 0, 0, 0));
        if always {
            // The kernel takes no instructions that nothing leads to.
            return program;
        }
    }
    program.push(instruction(MOVE, ANSWER, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}
