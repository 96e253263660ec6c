//! Challenges: what a host writes into `WWW-Authenticate` (RFC 9110, sections
//! 11.2 to 11.6). They come from strangers, so their number is bounded, and
//! what cannot be read ends the reading.

/// Longest header that is read, in bytes.
const HEADER_MAX_BYTES: usize = 16 << 10;
/// Most challenges in all, and most parameters of each.
const CHALLENGES_MAX: usize = 16;
const PARAMETERS_MAX: usize = 32;

/// One way in which a host lets itself be convinced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case: `basic`, `bearer`.
    pub scheme: String,
    /// Names in lower case, and values.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Value of a parameter; the first if it is there twice.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads all challenges of all headers.
pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for header in headers {
        if header.len() <= HEADER_MAX_BYTES {
            Cursor { rest: header }.challenges(&mut challenges);
        }
    }
    challenges
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn challenges(mut self, challenges: &mut Vec<Challenge>) {
        while challenges.len() < CHALLENGES_MAX {
            self.skip(|c| is_space(c) || c == ',');
            let scheme = self.token();
            if scheme.is_empty() {
                return;
            }
            let mut challenge =
                Challenge { scheme: scheme.to_ascii_lowercase(), parameters: Vec::new() };
            let readable = self.parameters(&mut challenge);
            challenges.push(challenge);
            if !readable {
                return;
            }
        }
    }

    /// Reads the parameters of one challenge. Whether what follows, if anything
    /// does, is another one.
    fn parameters(&mut self, challenge: &mut Challenge) -> bool {
        if self.rest.starts_with(is_space) {
            self.skip(is_space);
            self.skip_token68();
        }
        loop {
            self.skip(is_space);
            let before = self.rest;
            let name = self.token();
            if name.is_empty() {
                // A comma, the end, or something else.
                if !self.rest.starts_with(',') {
                    return self.rest.is_empty();
                }
                self.skip(|c| is_space(c) || c == ',');
                continue;
            }
            self.skip(is_space);
            let Some(rest) = self.rest.strip_prefix('=') else {
                // A name without value is the next challenge's scheme.
                self.rest = before;
                return true;
            };
            self.rest = rest;
            self.skip(is_space);
            let value = if self.rest.starts_with('"') {
                match self.quoted() {
                    Some(value) => value,
                    None => return false,
                }
            } else {
                self.token().to_owned()
            };
            if challenge.parameters.len() == PARAMETERS_MAX {
                return false;
            }
            challenge.parameters.push((name.to_ascii_lowercase(), value));
            self.skip(is_space);
            if !self.rest.is_empty() && !self.rest.starts_with(',') {
                return false;
            }
        }
    }

    /// Some schemes have one value of another form in place of parameters.
    fn skip_token68(&mut self) {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "-._~+/".contains(c)))
            .unwrap_or(self.rest.len());
        let behind = self.rest[end..].trim_start_matches('=').trim_start_matches(is_space);
        if end > 0 && (behind.is_empty() || behind.starts_with(',')) {
            self.rest = behind;
        }
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(unwanted);
    }

    fn token(&mut self) -> &'a str {
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    /// Reads a quoted string; none if it does not end.
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                _ => value.push(character),
            }
        }
        None
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Vec<(String, Vec<(String, String)>)> {
        parse([header]).into_iter().map(|c| (c.scheme, c.parameters)).collect()
    }

    fn owned(parameters: &[(&str, &str)]) -> Vec<(String, String)> {
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_registries_send_is_read() {
        let header = r#"Bearer realm="https://auth.io/token",service="h.io",scope="repository:a/b:pull,push""#;
        let [challenge] = &parse([header])[..] else { panic!("{header}") };
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.parameter("realm"), Some("https://auth.io/token"));
        assert_eq!(challenge.parameter("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenge.parameter("error"), None);
    }

    #[test]
    fn several_challenges_in_one_header_are_told_apart() {
        let expected = vec![
            ("negotiate".to_owned(), vec![]),
            ("basic".to_owned(), owned(&[("realm", "a, \"b\"")])),
            ("ntlm".to_owned(), vec![]),
            ("bearer".to_owned(), owned(&[("realm", "r"), ("service", "s")])),
        ];
        let header = r#", Negotiate, BASIC realm="a, \"b\"", NTLM TlRM+/==, Bearer Realm = r ,, service="s" ,"#;
        assert_eq!(read(header), expected);
    }

    #[test]
    fn what_cannot_be_read_ends_the_reading() {
        for (header, expected) in [
            ("", vec![]),
            (",,, ", vec![]),
            ("=", vec![]),
            ("\"", vec![]),
            ("Basic", vec![("basic".to_owned(), vec![])]),
            ("Basic realm=\"open", vec![("basic".to_owned(), vec![])]),
            ("Basic realm=\"open\\", vec![("basic".to_owned(), vec![])]),
            ("Basic a=b c=d", vec![("basic".to_owned(), owned(&[("a", "b")]))]),
            ("Basic a=b, ü=d, e=f", vec![("basic".to_owned(), owned(&[("a", "b")]))]),
            ("Basic a=", vec![("basic".to_owned(), vec![])]),
        ] {
            assert_eq!(read(header), expected, "{header}");
        }
        assert_eq!(parse([", a".repeat(100).as_str()]).len(), CHALLENGES_MAX);
        let many = format!("Basic a=b{}", ",c=d".repeat(100));
        assert_eq!(parse([many.as_str()])[0].parameters.len(), PARAMETERS_MAX);
        assert!(parse([format!("Basic a={}", "b".repeat(HEADER_MAX_BYTES)).as_str()]).is_empty());
    }
}
