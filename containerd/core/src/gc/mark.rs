//! Finds what is reached, in whatever graph. Pure: it knows no database.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::SystemTime,
};

use shim_protocol::Result;

use super::{
    label::Condition,
    node::{Kind, Node},
};

/// How much of what an object refers to is reached with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// What it is made of: a snapshot's parent, an image's target.
    Flat,
    /// What its labels say, too.
    Full,
}

/// What a record says, besides what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Saying {
    /// There is such an object.
    Exists(Node),
    /// It is in use whatever refers to it.
    Root(Node, Depth),
    /// The second is needed by the first.
    Back(Node, Node),
    /// The second, a snapshot, is needed by the first under a condition.
    Conditional(Node, Node, Condition),
    /// When a snapshot was in use.
    Used(Node, SystemTime),
}

/// What refers to what.
pub(super) trait Graph {
    /// Calls `visit` with what `node` refers to; with nothing if it is not
    /// there.
    ///
    /// # Errors
    /// Those of the disk.
    fn references(
        &self,
        node: &Node,
        depth: Depth,
        visit: &mut dyn FnMut(Node, Depth),
    ) -> Result<()>;
}

/// What was reached so far. It never becomes less.
#[derive(Debug)]
pub(super) struct Marks {
    now: SystemTime,
    reached: HashMap<Node, Depth>,
    /// Reached, but where it leads was not looked at yet.
    grey: Vec<Node>,
    /// Who is needed by whom, from labels of the needed.
    needed: HashMap<Node, Vec<Node>>,
    /// Snapshots that are needed under conditions, and by whom.
    conditional: HashMap<Node, Vec<(Node, Condition)>>,
    used: HashMap<Node, Vec<SystemTime>>,
}

impl Marks {
    /// Nothing is reached. `now` is compared with times in labels.
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            now,
            reached: HashMap::new(),
            grey: Vec::new(),
            needed: HashMap::new(),
            conditional: HashMap::new(),
            used: HashMap::new(),
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        self.now
    }

    pub(super) fn is_reached(&self, node: &Node) -> bool {
        self.reached.contains_key(node)
    }

    /// Takes into account what a record says; [`Self::walk`] follows it.
    pub(super) fn note(&mut self, saying: Saying) {
        match saying {
            Saying::Exists(_) => {}
            Saying::Root(node, depth) => self.reach(node, depth),
            Saying::Back(by, node) => self.need(by, node),
            Saying::Conditional(by, node, condition) => {
                let used = self.used.get(&node).into_iter().flatten();
                let holds = used.clone().any(|used| condition.holds(*used, self.now));
                self.conditional.entry(node.clone()).or_default().push((by.clone(), condition));
                if holds {
                    self.need(by, node);
                }
            }
            Saying::Used(node, used) => {
                self.used.entry(node.clone()).or_default().push(used);
                let all = self.conditional.get(&node).into_iter().flatten();
                let by: Vec<_> = all
                    .filter(|(_, condition)| condition.holds(used, self.now))
                    .map(|(by, _)| by.clone())
                    .collect();
                by.into_iter().for_each(|by| self.need(by, node.clone()));
            }
        }
    }

    /// Looks again at where an object leads, if it was reached.
    pub(super) fn look_again(&mut self, node: Node) {
        if self.is_reached(&node) {
            self.grey.push(node);
        }
    }

    /// Reaches all that can be reached.
    ///
    /// # Errors
    /// Those of the graph.
    pub(super) fn walk(&mut self, graph: &impl Graph) -> Result<()> {
        while let Some(node) = self.grey.pop() {
            let Some(depth) = self.reached.get(&node).copied() else { continue };
            if depth == Depth::Full
                && let Some(needed) = self.needed.get(&node)
            {
                for node in needed.clone() {
                    self.reach(node, Depth::Full);
                }
            }
            graph.references(&node, depth, &mut |node, depth| self.reach(node, depth))?;
        }
        Ok(())
    }

    fn need(&mut self, by: Node, node: Node) {
        if self.reached.get(&by) == Some(&Depth::Full) {
            self.reach(node.clone(), Depth::Full);
        }
        self.needed.entry(by).or_default().push(node);
    }

    fn reach(&mut self, node: Node, depth: Depth) {
        // Flat content leads nowhere, and there is no flat container.
        debug_assert!(depth == Depth::Full || node.kind != Kind::Container);
        match self.reached.entry(node) {
            Entry::Occupied(mut entry) if *entry.get() < depth => {
                self.grey.push(entry.key().clone());
                entry.insert(depth);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) => {
                self.grey.push(entry.key().clone());
                entry.insert(depth);
            }
        }
    }
}
