//! What filters mean, which texts are none, and that no text is a panic.

use super::*;
use crate::metadata::testing::Random;
use shim_protocol::ErrorKind;

/// An object of `path=value` pairs, where a path may have dots.
struct Object(&'static [(&'static str, &'static str)]);

impl Adaptor for Object {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let path = path.join(".");
        self.0.iter().find(|(name, _)| *name == path).map(|(_, value)| (*value).into())
    }
}

const REDIS: Object = Object(&[
    ("id", "redis"),
    ("image", "docker.io/library/redis:7"),
    ("labels.env", "prod"),
    ("labels.io.example/team", "blue, green"),
    ("labels.empty", ""),
    ("labels.ünï\"x", "ä/b|c"),
]);

fn matches(filters: &[&str]) -> bool {
    Filter::parse(filters).unwrap().matches(&REDIS)
}

#[test]
fn no_filter_and_the_empty_one_match_everything() {
    assert!(matches(&[]));
    assert!(matches(&[""]));
    assert!(matches(&["id==other", ""]));
}

#[test]
fn each_operator() {
    for (filter, expected) in [
        ("id==redis", true),
        ("id==redi", false),
        ("id!=redis", false),
        ("id!=other", true),
        // An absent field differs from every value but the empty one.
        ("absent!=x", true),
        (r#"absent!="""#, false),
        (r#"absent=="""#, false),
        (r#"labels.empty=="""#, true),
        ("id", true),
        ("absent", false),
        ("labels.env", true),
        ("labels.empty", true),
        ("id~=^re", true),
        ("id~=^dis", false),
        ("id~=/^r.*s$/", true),
        ("id~=|^r.*s$|", true),
        (r#"id~="^r.*s$""#, true),
        (r"image~=/docker\\.io\/library/", true),
        (r"image~=/^docker\\.io$/", false),
        (r"absent~=/^$/", true),
        ("image==docker.io/library/redis:7", true),
    ] {
        assert_eq!(matches(&[filter]), expected, "{filter}");
    }
}

#[test]
fn a_comma_is_and_and_several_are_or() {
    assert!(matches(&["id==redis,labels.env==prod"]));
    assert!(!matches(&["id==redis,labels.env==test"]));
    assert!(matches(&["id==redis,labels.env==test", "image"]));
    assert!(!matches(&["id==x", "labels.env==test"]));
}

#[test]
fn quoted_fields_and_values() {
    assert!(matches(&[r#"labels."io.example/team"=="blue, green""#]));
    assert!(matches(&[r#""labels"."env"=="prod""#]));
    assert!(matches(&[r#"labels."ünï\"x"=="ä/b|c""#]));
    assert!(matches(&[r#"labels.env=="\x70\162\u006f\U00000064""#]));
    // Bytes of escapes make characters together.
    assert!(matches(&[r#"labels."\xc3\xbcn\303\257\"x""#]));
}

#[test]
fn blanks_between_parts_do_not_matter() {
    assert!(matches(&[" id == redis , labels . env != test "]));
}

#[test]
fn errors_name_the_place() {
    for (filter, place) in [
        (",", "at byte 0: expected a field"),
        ("-", "at byte 0: expected a field"),
        ("id,", "at byte 3: expected a field"),
        ("labels.", "at byte 7: expected a field"),
        ("labels.a-b", "at byte 8: expected one of"),
        ("id==", "at byte 4: expected a value"),
        ("id== ,x", "at byte 5: expected a value"),
        ("id==.x", "at byte 4: expected a value"),
        ("id=redis", r#"at byte 2: no operator "=""#),
        ("id===redis", r#"at byte 2: no operator "===""#),
        ("id==a b", "at byte 6: unexpected 'b'"),
        ("id==/a/", "at byte 4: '/' quotes regular expressions only"),
        ("id==\"a", "at byte 4: quoted value has no end"),
        ("id==\"a\n\"", "at byte 6: line break in a quoted value"),
        (r#"id=="a\d""#, "at byte 6: no such escape"),
        (r#"id=="a\xg0""#, "at byte 6: too few digits in an escape"),
        (r#"id=="\777""#, "at byte 5: escape stands for no byte"),
        (r#"id=="\ud800""#, "at byte 5: escape stands for no character"),
        (r#"id=="\xff""#, "at byte 4: value is not UTF-8"),
        ("id\0", "at byte 2: expected one of"),
        ("ä", "at byte 0: expected a field"),
    ] {
        let error = Filter::parse(&[filter]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{filter:?}");
        let expected = format!("filter {filter:?} {place}");
        assert!(error.to_string().starts_with(&expected), "{error}, expected {expected}");
    }
}

#[test]
fn a_bad_regular_expression_is_refused() {
    let error = Filter::parse(&["id~=/(/"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.report().to_string().contains("unclosed group"), "{error:?}");
}

/// Texts made of what the language is made of: each parses or is refused, and
/// what parses can be asked.
#[test]
fn no_text_is_a_panic() {
    const PIECES: &[&str] = &[
        "id", "labels", ".", ",", "==", "!=", "~=", "=", "~", "!", "\"", "/", "|", "\\", "\\x",
        "\\u00", "\\7", "a", "0", "_", "-", "(", "*", "[", " ", "\t", "\n", "\0", "ä", "€", "💥",
    ];
    let mut random = Random::new(7);
    let mut parsed = 0;
    for _ in 0..20_000 {
        let text: String =
            (0..random.below(12)).map(|_| PIECES[random.below(PIECES.len())]).collect();
        match Filter::parse(&[&text]) {
            Ok(filter) => {
                parsed += 1;
                filter.matches(&REDIS);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text:?}"),
        }
    }
    assert!(parsed > 500, "only {parsed} texts were filters");
}

/// Any value can be written as a quoted one, and is found again.
#[test]
fn quoting_loses_nothing() {
    let mut random = Random::new(11);
    for _ in 0..2_000 {
        let value: String = (0..random.below(20))
            .filter_map(|_| char::from_u32(random.below(0x11_0000) as u32))
            .collect();
        let escaped: String = value.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
        struct Named(String);
        impl Adaptor for Named {
            fn field(&self, _: &[String]) -> Option<Cow<'_, str>> {
                Some(self.0.as_str().into())
            }
        }
        let filter = Filter::parse(&[format!("name==\"{escaped}\"")]).unwrap();
        assert!(filter.matches(&Named(value.clone())), "{value:?}");
        assert!(!filter.matches(&Named(value + "x")));
    }
}
