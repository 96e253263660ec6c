//! containerd's filter language, which picks objects out of a listing.
//!
//! ```text
//! filter    = selector ("," selector)*          all must match
//! selector  = path [operator value]             alone: the field is present
//! path      = field ("." field)*
//! field     = quoted | [A-Za-z0-9_]+
//! operator  = "==" | "!=" | "~="                "~=": a regular expression
//! value     = quoted | printable characters but "," and blanks
//! quoted    = "…" with Go's escapes; after "~=" also /…/ and |…|
//! ```
//!
//! Several filters are an "or"; none, or an empty one, matches everything
//! (containerd, `pkg/filters`). One thing is stricter here: a regular
//! expression that does not compile is an error, and not a filter that
//! silently matches nothing.

mod parser;
mod quoted;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap};

use regex::Regex;
use shim_protocol::Result;

/// An object that filters can look into.
pub trait Adaptor {
    /// The value of the field at `path`, or `None` if the object has no such
    /// field, or has nothing in it.
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>>;
}

/// One or more parsed filters, of which any may match.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Empty: everything matches. Each entry is one filter.
    any: Vec<All>,
}

/// Selectors that must all match.
type All = Vec<Selector>;

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filter {
    /// Parses the filters of one request.
    ///
    /// ```
    /// # use containerd_core::filter::Filter;
    /// let error = Filter::parse(&["name=foo"]).unwrap_err();
    /// assert_eq!(error.to_string(), r#"filter "name=foo" at byte 4: no operator "=""#);
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument`, with the place in the text where it went wrong.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self> {
        let any = filters
            .iter()
            .map(|text| match text.as_ref() {
                // No selector: all of none match, so everything does.
                "" => Ok(All::new()),
                text => parser::parse(text),
            })
            .collect::<Result<_>>()?;
        Ok(Self { any })
    }

    /// Whether any of the filters matches `object`.
    pub fn matches(&self, object: &impl Adaptor) -> bool {
        self.any.is_empty() || self.any.iter().any(|all| all.iter().all(|s| s.matches(object)))
    }
}

impl Selector {
    fn matches(&self, object: &impl Adaptor) -> bool {
        let value = object.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|v| v == wanted.as_str()),
            // An absent field counts as empty here and below.
            Test::NotEqual(unwanted) => value.unwrap_or_default() != unwanted.as_str(),
            Test::Matches(pattern) => pattern.is_match(&value.unwrap_or_default()),
        }
    }
}

/// What `labels.<rest of the path>` means in every adaptor. A label's key may
/// have dots of its own, so the rest is joined again.
pub fn labels_field<'a>(
    labels: &'a BTreeMap<String, String>,
    rest: &[String],
) -> Option<Cow<'a, str>> {
    let value = match rest {
        [key] => labels.get(key),
        _ => labels.get(&rest.join(".")),
    };
    value.map(|v| v.as_str().into())
}
