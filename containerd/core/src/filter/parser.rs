//! From the text of one filter to its selectors.

use regex::Regex;
use shim_protocol::{Error, ErrorKind, Result};

use super::{All, Selector, Test, quoted};

/// Parses a filter that is not empty.
pub(super) fn parse(text: &str) -> Result<All> {
    let mut parser = Parser { text, at: 0 };
    let mut selectors = vec![parser.selector()?];
    while let Some(next) = parser.peek() {
        if next != ',' {
            return Err(parser.error(format!("unexpected {next:?}")));
        }
        parser.take(next);
        selectors.push(parser.selector()?);
    }
    Ok(selectors)
}

struct Parser<'a> {
    text: &'a str,
    /// Byte offset of what comes next; always on a character's boundary.
    at: usize,
}

impl<'a> Parser<'a> {
    fn selector(&mut self) -> Result<Selector> {
        let path = self.path()?;
        let test = match self.peek() {
            None | Some(',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn path(&mut self) -> Result<Vec<String>> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.take('.');
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String> {
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let field = self.run(|c| c == '_' || c.is_ascii_alphanumeric());
        if field.is_empty() {
            return Err(self.error("expected a field"));
        }
        Ok(field.to_owned())
    }

    fn test(&mut self) -> Result<Test> {
        self.skip_blanks();
        let start = self.at;
        match self.run(|c| matches!(c, '=' | '!' | '~')) {
            "==" => self.value(&['"']).map(Test::Equal),
            "!=" => self.value(&['"']).map(Test::NotEqual),
            "~=" => {
                let pattern = self.value(&['"', '/', '|'])?;
                Regex::new(&pattern).map(Test::Matches).map_err(|e| {
                    let what = format!("filter {:?}: regular expression {pattern:?}", self.text);
                    Error::caused(ErrorKind::InvalidArgument, what, e)
                })
            }
            "" => Err(self.error(r#"expected one of "==", "!=", "~=""#)),
            other => {
                self.at = start;
                Err(self.error(format!("no operator {other:?}")))
            }
        }
    }

    /// A value, which may be in one of `quotes`.
    fn value(&mut self, quotes: &[char]) -> Result<String> {
        match self.peek() {
            Some(quote @ ('"' | '/' | '|')) => {
                if !quotes.contains(&quote) {
                    return Err(self.error(format!("{quote:?} quotes regular expressions only")));
                }
                self.quoted(quote)
            }
            Some('.') | None => Err(self.error("expected a value")),
            Some(_) => {
                let value = self.run(|c| c != ',' && !c.is_whitespace() && !c.is_control());
                if value.is_empty() {
                    return Err(self.error("expected a value"));
                }
                Ok(value.to_owned())
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        match quoted::unquote(&self.text[self.at..], quote) {
            Ok((value, length)) => {
                self.at += length;
                Ok(value)
            }
            Err((offset, why)) => {
                self.at += offset;
                Err(self.error(why))
            }
        }
    }

    /// The next character after blanks, which stay untouched until it is taken.
    fn peek(&mut self) -> Option<char> {
        self.skip_blanks();
        self.text[self.at..].chars().next()
    }

    fn skip_blanks(&mut self) {
        self.run(char::is_whitespace);
    }

    fn take(&mut self, c: char) {
        self.at += c.len_utf8();
    }

    /// Takes all characters that `belongs` wants.
    fn run(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn error(&self, what: impl AsRef<str>) -> Error {
        Error::invalid(format!("filter {:?} at byte {}: {}", self.text, self.at, what.as_ref()))
    }
}
