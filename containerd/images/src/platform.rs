//! Platforms: their short form such as `linux/arm64/v8`, their normal form,
//! and which of several suits a machine best. The rules are those of
//! containerd's platforms library, which all its clients use.

use std::{cmp::Ordering, fmt};

use shim_protocol::{Error, Result};

use crate::Platform;

/// Operating systems that a name alone stands for.
const SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
/// Architectures that a name alone stands for.
const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];
/// Longest short form that is read, and that what is read has.
const TEXT_MAX_BYTES: usize = 256;

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", ""),
            "arm" if cfg!(target_feature = "v7") => ("arm", "v7"),
            "arm" => ("arm", "v6"),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            "powerpc64" => ("ppc64", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self::new(std::env::consts::OS, architecture, variant)
    }

    fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        }
    }

    /// Reads the short form: `linux/amd64`, `linux/arm/v7`, `arm64`, `linux`,
    /// `windows(10.0.17763)/amd64`. What is not said is that of this machine.
    ///
    /// # Errors
    /// `InvalidArgument` when it has another form, or stands alone and is
    /// neither a known operating system nor a known architecture.
    pub fn parse(text: &str) -> Result<Self> {
        let platform = Self::parse_parts(text)?;
        // The usual names and variants may be longer than what was written.
        if platform.to_string().len() > TEXT_MAX_BYTES {
            return Err(Error::invalid(format!("platform {text:?}: too long")));
        }
        Ok(platform)
    }

    fn parse_parts(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(TEXT_MAX_BYTES).collect();
            Err(Error::invalid(format!("platform {shown:?}: {why}")))
        };
        if text.len() > TEXT_MAX_BYTES {
            return refuse("too long");
        }
        let mut parts = text.split('/');
        let first = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        let Some(mut platform) = parse_os(first) else { return refuse("bad operating system") };
        let good = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        if !rest.iter().all(|part| good(part)) {
            return refuse("bad architecture or variant");
        }
        match rest[..] {
            [] if SYSTEMS.contains(&platform.os.as_str()) => {
                let host = Self::host();
                platform.architecture = host.architecture;
                if platform.architecture == "arm" && host.variant != "v7" {
                    platform.variant = host.variant;
                }
            }
            [] => {
                let (architecture, variant) = normal_architecture(first, "");
                if !ARCHITECTURES.contains(&architecture.as_str()) {
                    return refuse("unknown operating system or architecture");
                }
                platform = Self::new(std::env::consts::OS, &architecture, &variant);
            }
            [architecture] => {
                (platform.architecture, platform.variant) = normal_architecture(architecture, "");
            }
            [architecture, variant] => {
                (platform.architecture, platform.variant) =
                    normal_architecture(architecture, variant);
                if platform.architecture == "arm64" && platform.variant.is_empty() {
                    "v8".clone_into(&mut platform.variant);
                }
                return Ok(platform);
            }
            _ => return refuse("more than three parts"),
        }
        // The usual one is left away where nobody named it.
        if platform.architecture == "arm" && platform.variant == "v7" {
            platform.variant.clear();
        }
        Ok(platform)
    }

    /// The form in which platforms are compared: lower case, one name for each
    /// architecture, the usual variant either always or never named.
    #[must_use]
    pub fn normalize(&self) -> Self {
        let (architecture, variant) = normal_architecture(&self.architecture, &self.variant);
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        let os_version = self.os_version.clone();
        Self { os: normal_os(&self.os), architecture, variant, os_version, os_features }
    }

    /// Does an image for `other` run here, if exactly this kind is asked for?
    /// Features of the operating system must be among ours.
    fn suits(&self, other: &Self) -> bool {
        let other = other.normalize();
        let windows = self.os == "windows";
        let has_feature = |feature: &String| {
            // It was not part of the comparison once, and still is not.
            (windows && feature == "win32k") || self.os_features.contains(feature)
        };
        self.os == other.os
            && self.architecture == other.architecture
            && self.variant == other.variant
            && (!windows || same_build(&self.os_version, &other.os_version))
            && other.os_features.iter().all(has_feature)
    }
}

impl fmt::Display for Platform {
    /// The short form, without version and features of the operating system.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

/// Which platforms are wanted, and which of them rather than others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher(Wanted);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Any(Vec<Platform>),
    Ordered(Vec<Platform>),
}

impl Matcher {
    /// All platforms alike.
    pub const ALL: Self = Self(Wanted::All);

    /// Any of these, none rather than another.
    pub fn any(platforms: &[Platform]) -> Self {
        Self(Wanted::Any(platforms.iter().map(Platform::normalize).collect()))
    }

    /// Any of these, the first rather than the second.
    pub fn ordered(platforms: &[Platform]) -> Self {
        Self(Wanted::Ordered(platforms.iter().map(Platform::normalize).collect()))
    }

    /// What a machine of this platform can run, the best first: arm v7 can run
    /// v6 and v5, arm64 can run arm, amd64 v3 can run v2, v1 and 386.
    pub fn only(platform: &Platform) -> Self {
        Self::ordered(&able(&platform.normalize()))
    }

    /// Only what is made for exactly this platform.
    pub fn strict(platform: &Platform) -> Self {
        Self::ordered(std::slice::from_ref(platform))
    }

    /// What this machine can run.
    pub fn host() -> Self {
        Self::only(&Platform::host())
    }

    /// Is this platform wanted?
    pub fn matches(&self, platform: &Platform) -> bool {
        match &self.0 {
            Wanted::All => true,
            Wanted::Any(wanted) | Wanted::Ordered(wanted) => {
                wanted.iter().any(|one| one.suits(platform))
            }
        }
    }

    /// Which of two is wanted more: it comes first.
    pub fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
        self.rank(a).cmp(&self.rank(b))
    }

    /// The lower, the better: whether it is wanted at all, at which place of
    /// the list, and how many of the features it makes use of. What is only
    /// wanted without its features comes before what is not wanted.
    fn rank(&self, platform: &Platform) -> (u8, usize, std::cmp::Reverse<usize>) {
        let place = |platform: &Platform| match &self.0 {
            Wanted::All => Some(0),
            Wanted::Any(wanted) => wanted.iter().any(|one| one.suits(platform)).then_some(0),
            Wanted::Ordered(wanted) => wanted.iter().position(|one| one.suits(platform)),
        };
        let features = match &self.0 {
            Wanted::All => 0,
            _ => platform.os_features.len(),
        };
        if let Some(place) = place(platform) {
            return (0, place, std::cmp::Reverse(features));
        }
        let plain = Platform { os_features: Vec::new(), ..platform.clone() };
        match place(&plain) {
            Some(place) if features > 0 => (1, place, std::cmp::Reverse(0)),
            _ => (2, 0, std::cmp::Reverse(0)),
        }
    }
}

/// Reads `name`, `name(version)` or `name(version+feature+…)`.
fn parse_os(text: &str) -> Option<Platform> {
    let (name, options) = match text.strip_suffix(')') {
        Some(rest) => {
            let (name, options) = rest.split_once('(')?;
            (name, Some(options))
        }
        None => (text, None),
    };
    let good_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if name.is_empty() || !name.bytes().all(good_name) {
        return None;
    }
    let mut platform = Platform::new(&normal_os(name), "", "");
    let Some(options) = options else { return Some(platform) };
    let good_option = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !options.split('+').all(|option| option.bytes().all(good_option)) {
        return None;
    }
    let mut options = options.split('+').map(str::to_owned);
    platform.os_version = options.next()?;
    platform.os_features = options.collect();
    if platform.os_features.iter().any(String::is_empty) {
        return None;
    }
    Some(platform)
}

fn normal_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "" => std::env::consts::OS.to_owned(),
        "macos" => "darwin".to_owned(),
        lower => lower.to_owned(),
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Windows runs images of its own build only; what names none goes anywhere.
fn same_build(a: &str, b: &str) -> bool {
    let build = |version: &str| version.split('.').take(3).map(str::to_owned).collect::<Vec<_>>();
    a.is_empty() || b.is_empty() || build(a) == build(b)
}

/// What a platform in normal form can run, the best first.
fn able(platform: &Platform) -> Vec<Platform> {
    let with = |architecture: &str, variant: String| Platform {
        architecture: architecture.to_owned(),
        variant,
        ..platform.clone()
    };
    let mut able = Vec::new();
    match platform.architecture.as_str() {
        "amd64" => {
            able.push(platform.clone());
            able.extend(lower(&platform.variant, 1).map(|v| with("amd64", format!("v{v}"))));
            able.push(with("386", String::new()));
        }
        "arm" => {
            able.push(platform.clone());
            able.extend(lower(&platform.variant, 5).map(|v| with("arm", format!("v{v}"))));
        }
        "arm64" => match arm64_minors(&platform.variant) {
            Some((major, minors)) => {
                for minor in minors {
                    able.push(with("arm64", arm64_variant(major, minor)));
                }
                if major == 9 {
                    // v9.0 is v8.5 with more, and so on; v8.9 is the last.
                    let first = (minor_of(&platform.variant) + 5).min(9);
                    able.extend((0..=first).rev().map(|m| with("arm64", arm64_variant(8, m))));
                }
                able.extend((5..=8).rev().map(|v| with("arm", format!("v{v}"))));
            }
            None => able.push(platform.clone()),
        },
        _ => able.push(platform.clone()),
    }
    able
}

/// The versions below that of `variant`, down to `last`.
fn lower(variant: &str, last: u8) -> impl Iterator<Item = u8> {
    let version = variant.strip_prefix('v').and_then(|v| v.parse().ok()).unwrap_or(last);
    (last..version).rev()
}

fn arm64_variant(major: u8, minor: u8) -> String {
    if minor == 0 { format!("v{major}") } else { format!("v{major}.{minor}") }
}

fn minor_of(variant: &str) -> u8 {
    variant.split_once('.').and_then(|(_, minor)| minor.parse().ok()).unwrap_or(0)
}

/// Major version of a variant of arm64, and the minor ones that it can run.
fn arm64_minors(variant: &str) -> Option<(u8, impl Iterator<Item = u8>)> {
    let version = if variant.is_empty() { "v8" } else { variant };
    let (major, last) = match version.split_once('.').unwrap_or((version, "0")).0 {
        "v8" => (8, 9),
        "v9" => (9, 7),
        _ => return None,
    };
    let minor = minor_of(version);
    let known = minor <= last && arm64_variant(major, minor) == version;
    known.then(|| (major, (0..=minor).rev()))
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn short_forms_are_read() {
        let host = Platform::host();
        for (text, os, architecture, variant) in [
            ("linux/amd64", "linux", "amd64", ""),
            ("linux/x86_64", "linux", "amd64", ""),
            ("linux/amd64/v2", "linux", "amd64", "v2"),
            ("linux/arm64/v8", "linux", "arm64", "v8"),
            ("linux/arm64", "linux", "arm64", ""),
            ("linux/arm", "linux", "arm", ""),
            ("linux/arm/7", "linux", "arm", "v7"),
            ("linux/armhf", "linux", "arm", ""),
            ("linux/armel", "linux", "arm", "v6"),
            ("aarch64", std::env::consts::OS, "arm64", ""),
            ("i386", std::env::consts::OS, "386", ""),
            ("macOS/arm64", "darwin", "arm64", ""),
            ("linux", "linux", &host.architecture, &host.variant),
            ("my-os/my.arch/my_variant", "my-os", "my.arch", "my_variant"),
        ] {
            let read = platform(text);
            let parts = (read.os.as_str(), read.architecture.as_str(), read.variant.as_str());
            assert_eq!(parts, (os, architecture, variant), "{text}");
            assert_eq!(platform(&read.to_string()).normalize(), read.normalize());
        }
        let windows = platform("windows(10.0.17763.1+win32k)/amd64");
        assert_eq!(windows.os_version, "10.0.17763.1");
        assert_eq!(windows.os_features, ["win32k"]);
    }

    #[test]
    fn what_is_read_can_be_read_again() {
        // Its own form would be a byte longer than what is read.
        let text = format!("macos/{}", "a".repeat(TEXT_MAX_BYTES - "macos/".len()));
        assert_eq!(Platform::parse(&text).unwrap_err().kind(), ErrorKind::InvalidArgument);
        let text = format!("linux/{}", "a".repeat(TEXT_MAX_BYTES - "linux/".len()));
        assert_eq!(platform(&text).to_string(), text);
    }

    #[test]
    fn other_forms_are_refused() {
        let long = "a".repeat(TEXT_MAX_BYTES + 1);
        for text in [
            "",
            "/",
            "linux/",
            "/amd64",
            "linux//v8",
            "a/b/c/d",
            "*",
            "linux/*",
            "unheard",
            "linux amd64",
            "linux(",
            "linux(a/amd64",
            "linux(+)/amd64",
            "(1)/amd64",
            "lïnux",
            &long,
        ] {
            let error = Platform::parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn a_machine_runs_what_is_older_than_itself() {
        let able = |text: &str| -> Vec<String> {
            super::able(&platform(text).normalize()).iter().map(Platform::to_string).collect()
        };
        assert_eq!(able("linux/amd64"), ["linux/amd64", "linux/386"]);
        assert_eq!(
            able("linux/amd64/v3"),
            ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64/v1", "linux/386"]
        );
        assert_eq!(able("linux/arm/v7"), ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]);
        assert_eq!(
            able("linux/arm64"),
            ["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
        );
        assert_eq!(
            able("linux/arm64/v8.2")[..3],
            ["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64/v8"]
        );
        assert_eq!(able("linux/arm64/v9.1")[1..3], ["linux/arm64/v9", "linux/arm64/v8.6"]);
        assert_eq!(able("linux/arm64/v77"), ["linux/arm64/v77"]);
        assert_eq!(able("linux/s390x"), ["linux/s390x"]);
    }

    #[test]
    fn the_best_comes_first() {
        let sorted = |matcher: &Matcher, texts: &[&str]| -> Vec<String> {
            let mut all: Vec<Platform> = texts.iter().map(|text| platform(text)).collect();
            all.retain(|one| matcher.matches(one));
            all.sort_by(|a, b| matcher.compare(a, b));
            all.iter().map(Platform::to_string).collect()
        };
        let arm = Matcher::only(&platform("linux/arm/v7"));
        let given = ["linux/arm/v5", "linux/amd64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6"];
        assert_eq!(sorted(&arm, &given), ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]);
        let strict = Matcher::strict(&platform("linux/arm/v7"));
        assert_eq!(sorted(&strict, &given), ["linux/arm/v7"]);
        let any = Matcher::any(&[platform("linux/arm/v5"), platform("amd64")]);
        assert_eq!(sorted(&any, &given), ["linux/arm/v5", "linux/amd64"]);
        assert_eq!(sorted(&Matcher::ALL, &given), given);
        let arm64 = Matcher::only(&platform("linux/arm64"));
        assert!(arm64.matches(&platform("linux/arm64/v8")));
        assert!(!arm64.matches(&platform("windows/arm64")));
        assert!(!arm64.matches(&platform("linux/arm64/v9")));
    }

    #[test]
    fn versions_count_on_windows_only() {
        let with = |text: &str, version: &str| Platform {
            os_version: version.to_owned(),
            ..platform(text)
        };
        let linux = Matcher::only(&with("linux/amd64", "6.1"));
        assert!(linux.matches(&with("linux/amd64", "2.4")));
        let windows = Matcher::only(&with("windows/amd64", "10.0.17763.1"));
        assert!(windows.matches(&with("windows/amd64", "10.0.17763.999")));
        assert!(windows.matches(&with("windows/amd64", "")));
        assert!(!windows.matches(&with("windows/amd64", "10.0.20348.1")));
    }

    #[test]
    fn what_makes_use_of_more_features_is_better() {
        let with = |features: &[&str]| Platform {
            os_features: features.iter().map(|f| (*f).to_owned()).collect(),
            ..platform("linux/amd64")
        };
        let matcher = Matcher::strict(&with(&["b", "a"]));
        assert!(matcher.matches(&with(&[])) && matcher.matches(&with(&["a", "b"])));
        assert!(!matcher.matches(&with(&["c"])));
        assert_eq!(matcher.compare(&with(&["a"]), &with(&[])), Ordering::Less);
        assert_eq!(matcher.compare(&with(&["c"]), &platform("linux/386")), Ordering::Less);
        assert_eq!(matcher.compare(&with(&["c"]), &with(&[])), Ordering::Greater);
    }
}
