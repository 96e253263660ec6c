//! Tables of rules, assembled.
//!
//! A call's number is looked up in a binary tree of ranges, so that usual
//! profiles of some hundred calls cost some ten comparisons. The program is
//! written from its end, because its jumps lead forward: where they lead is
//! known by then.

use std::collections::BTreeMap;

use nix::libc::sock_filter;
use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

use super::{ALLOW, ENOSYS, ERRNO, KILL_PROCESS, LOG, numbers::Architecture};

/// Instructions (`include/uapi/linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Offsets in what a filter sees (`include/uapi/linux/seccomp.h`, `struct
/// seccomp_data`).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Of the x32 way to call a 64-bit kernel.
const X32: u32 = 0x4000_0000;

/// What is done with one call.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) number: u32,
    /// All of these must hold.
    pub(super) conditions: Vec<LinuxSeccompArg>,
    pub(super) action: u32,
}

/// The rules of one architecture.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) architecture: Architecture,
    pub(super) default: u32,
    pub(super) rules: Vec<Rule>,
}

/// A place in the program, counted from its end.
type Label = usize;

/// A program, the last instruction first.
#[derive(Default)]
struct Writer {
    reversed: Vec<sock_filter>,
    returns: BTreeMap<u32, Label>,
}

impl Writer {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, 0, 0, offset)
    }

    fn give(&mut self, action: u32) -> Label {
        match self.returns.get(&action) {
            // Near enough to be reached by a short jump.
            Some(label) if self.reversed.len() - label < 200 => *label,
            _ => {
                let label = self.push(RETURN, 0, 0, action);
                self.returns.insert(action, label);
                label
            }
        }
    }

    /// How many instructions lie between the next one and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label - 1
    }

    /// A label for `target` that a conditional jump in one of the next two
    /// instructions reaches.
    fn near(&mut self, target: Label) -> Label {
        match self.distance(target) < usize::from(u8::MAX) - 1 {
            true => target,
            false => {
                let distance = self.distance(target) as u32;
                self.push(JUMP, 0, 0, distance)
            }
        }
    }

    fn branch(&mut self, code: u16, value: u32, yes: Label, no: Label) -> Label {
        let yes = self.near(yes);
        let no = self.near(no);
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, jt, jf, value)
    }

    /// Goes on at `yes` if a condition holds. Each half of an argument is loaded
    /// where it is compared.
    fn condition(&mut self, arg: &LinuxSeccompArg, yes: Label, no: Label) -> Label {
        let offset = ARGUMENTS + 8 * arg.index() as u32;
        let (low, high) = match cfg!(target_endian = "little") {
            true => (offset, offset + 4),
            false => (offset + 4, offset),
        };
        let value = arg.value();
        let (value_low, value_high) = (value as u32, (value >> 32) as u32);
        // Without a second value it is 0, as in Go's form.
        let second = arg.value_two().unwrap_or_default();
        let equal = |writer: &mut Self, yes, no| {
            writer.branch(JUMP_EQUAL, value_low, yes, no);
            let low = writer.load(low);
            writer.branch(JUMP_EQUAL, value_high, low, no);
            writer.load(high)
        };
        let compare = |writer: &mut Self, code, yes, no| {
            writer.branch(code, value_low, yes, no);
            let low = writer.load(low);
            let same = writer.branch(JUMP_EQUAL, value_high, low, no);
            writer.branch(JUMP_GREATER, value_high, yes, same);
            writer.load(high)
        };
        match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => equal(self, yes, no),
            LinuxSeccompOperator::ScmpCmpNe => equal(self, no, yes),
            LinuxSeccompOperator::ScmpCmpGt => compare(self, JUMP_GREATER, yes, no),
            LinuxSeccompOperator::ScmpCmpGe => compare(self, JUMP_GREATER_EQUAL, yes, no),
            LinuxSeccompOperator::ScmpCmpLe => compare(self, JUMP_GREATER, no, yes),
            LinuxSeccompOperator::ScmpCmpLt => compare(self, JUMP_GREATER_EQUAL, no, yes),
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                // The value is the mask, the second value what must remain.
                self.branch(JUMP_EQUAL, second as u32, yes, no);
                self.push(AND, 0, 0, value_low);
                let low = self.load(low);
                self.branch(JUMP_EQUAL, (second >> 32) as u32, low, no);
                self.push(AND, 0, 0, value_high);
                self.load(high)
            }
        }
    }

    /// Goes on at `yes` if all conditions hold.
    fn conditions(&mut self, args: &[LinuxSeccompArg], yes: Label, no: Label) -> Label {
        args.iter().rev().fold(yes, |next, arg| self.condition(arg, next, no))
    }

    /// What is done with the calls of one number.
    fn leaf(&mut self, leaf: &Leaf<'_>) -> Label {
        let Leaf { conditional, otherwise } = leaf;
        if conditional.is_empty() {
            return self.give(*otherwise);
        }
        let mut next = self.give(*otherwise);
        for rule in conditional.iter().rev() {
            let yes = self.give(rule.action);
            next = self.conditions(&rule.conditions, yes, next);
        }
        next
    }

    /// Finds the range that a number is in. The number is loaded.
    fn tree(&mut self, ranges: &[(u32, Leaf<'_>)]) -> Label {
        if let [(_, leaf)] = ranges {
            return self.leaf(leaf);
        }
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let from = right.first().map_or(u32::MAX, |(from, _)| *from);
        let right = self.tree(right);
        let left = self.tree(left);
        self.branch(JUMP_GREATER_EQUAL, from, right, left)
    }
}

/// What is done with a call.
#[derive(Clone, Debug, Default)]
struct Leaf<'a> {
    conditional: Vec<&'a Rule>,
    otherwise: u32,
}

impl Leaf<'_> {
    fn is_same(&self, other: &Self) -> bool {
        self.conditional.is_empty()
            && other.conditional.is_empty()
            && self.otherwise == other.otherwise
    }
}

impl Table {
    /// The first number of each range, and what is done with it.
    fn ranges(&self) -> Vec<(u32, Leaf<'_>)> {
        let mut calls: BTreeMap<u32, (Vec<&Rule>, Option<u32>)> = BTreeMap::new();
        for rule in &self.rules {
            let (conditional, otherwise) = calls.entry(rule.number).or_default();
            // Nothing gets past a rule without conditions.
            if otherwise.is_some() {
                continue;
            }
            match rule.conditions.is_empty() {
                true => *otherwise = Some(rule.action),
                false => conditional.push(rule),
            }
        }
        let default = Leaf { conditional: Vec::new(), otherwise: self.default };
        let newest = calls.keys().next_back().copied();
        let mut ranges = vec![(0, default.clone())];
        for (number, (conditional, otherwise)) in calls {
            let leaf = Leaf { conditional, otherwise: otherwise.unwrap_or(self.default) };
            ranges.push((number, leaf));
            ranges.push((number + 1, default.clone()));
        }
        if let Some(newest) = newest
            && !matches!(self.default, ALLOW | LOG)
            && self.default & 0xffff_0000 == ERRNO
        {
            ranges.push((newest + 1, Leaf { conditional: Vec::new(), otherwise: ENOSYS }));
        }
        if self.architecture == Architecture::X86_64 {
            // A kernel without x32 says the same.
            ranges.push((X32, Leaf { conditional: Vec::new(), otherwise: ENOSYS }));
        }
        // Of several that begin at one number the last one counts.
        let mut merged: Vec<(u32, Leaf<'_>)> = Vec::new();
        for (from, leaf) in ranges {
            if merged.last().is_some_and(|(last, _)| *last == from) {
                merged.pop();
            }
            if merged.last().is_none_or(|(_, last)| !last.is_same(&leaf)) {
                merged.push((from, leaf));
            }
        }
        merged
    }
}

/// The program of all tables. Calls of another architecture end the process.
pub(super) fn assemble(tables: &[Table]) -> Vec<sock_filter> {
    let mut writer = Writer::default();
    let mut next = writer.give(KILL_PROCESS);
    for table in tables.iter().rev() {
        // Each has its own ends, so that they are near.
        writer.returns.clear();
        let ranges = table.ranges();
        writer.tree(&ranges);
        let start = writer.load(NUMBER);
        next = writer.branch(JUMP_EQUAL, table.architecture.audit(), start, next);
    }
    writer.load(ARCHITECTURE);
    writer.reversed.reverse();
    writer.reversed
}
