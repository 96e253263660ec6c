//! Takes a TOML table apart, key by key.
//!
//! A key that nobody takes is noted, so that a file written for another
//! daemon still works and its owner learns what has no effect here. A value
//! of the wrong type is an error: it was meant for us.

use std::time::Duration;

use shim_protocol::{Error, Result};
use toml::{Table, Value};

use super::duration;

/// A table of the file and what is noted while it is read.
pub(super) struct Reader<'a> {
    /// Keys above this table with dots between them; empty at the top.
    path: String,
    table: Table,
    unknown: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    /// Keys that nobody takes are added to `unknown`.
    pub(super) fn new(table: Table, unknown: &'a mut Vec<String>) -> Self {
        Self { path: String::new(), table, unknown }
    }

    fn full(&self, key: &str) -> String {
        // Names of plugins have dots of their own.
        let key = if key.contains('.') { format!("{key:?}") } else { key.to_owned() };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        let found = found.type_str();
        Error::invalid(format!("key {}: expected {expected}, found {found}", self.full(key)))
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", &other)),
        }
    }

    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(key, "a boolean", &other)),
        }
    }

    /// An integer that fits into `T`; `range` describes those in the error.
    pub(super) fn integer<T: TryFrom<i64>>(&mut self, key: &str, range: &str) -> Result<Option<T>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => match T::try_from(value) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(Error::invalid(format!(
                    "key {}: expected {range}, found {value}",
                    self.full(key)
                ))),
            },
            Some(other) => Err(self.wrong(key, "an integer", &other)),
        }
    }

    /// A number that need not be whole.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<f64>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(value)),
            Some(Value::Integer(0)) => Ok(Some(0.0)),
            Some(Value::Integer(value)) => Ok(Some(if value < 0 { -1.0 } else { 1.0 })),
            Some(other) => Err(self.wrong(key, "a number", &other)),
        }
    }

    /// A length of time in Go's notation, such as `1m30s`.
    pub(super) fn duration(&mut self, key: &str) -> Result<Option<Duration>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match duration::parse(&text) {
            Some(duration) => Ok(Some(duration)),
            None => Err(Error::invalid(format!(
                "key {}: expected a duration such as \"10s\", found {text:?}",
                self.full(key)
            ))),
        }
    }

    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.table.remove(key) else { return Ok(Vec::new()) };
        let Value::Array(items) = value else {
            return Err(self.wrong(key, "an array of strings", &value));
        };
        items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                other => Err(self.wrong(key, "an array of strings", &other)),
            })
            .collect()
    }

    /// The table under `key`; an empty one if there is none.
    pub(super) fn section(&mut self, key: &str) -> Result<Reader<'_>> {
        let table = match self.table.remove(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => return Err(self.wrong(key, "a table", &other)),
        };
        Ok(Reader { path: self.full(key), table, unknown: self.unknown })
    }

    /// The tables of an array; none if there is no such array.
    pub(super) fn sections(&mut self, key: &str) -> Result<Option<Vec<Table>>> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let expected = "an array of tables";
        let Value::Array(items) = value else { return Err(self.wrong(key, expected, &value)) };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::Table(table) => tables.push(table),
                other => return Err(self.wrong(key, expected, &other)),
            }
        }
        Ok(Some(tables))
    }

    /// The keys that nobody has taken yet.
    pub(super) fn keys(&self) -> Vec<String> {
        self.table.keys().cloned().collect()
    }

    /// Accepts `key` whatever it holds, without a note.
    pub(super) fn ignore(&mut self, key: &str) {
        self.table.remove(key);
    }

    /// Notes what is left.
    pub(super) fn finish(self) {
        let left: Vec<_> = self.table.keys().map(|key| self.full(key)).collect();
        self.unknown.extend(left);
    }
}
