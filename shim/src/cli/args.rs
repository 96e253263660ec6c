//! Arguments in the manner of Go's `flag` package, which every daemon that
//! starts shims writes: one dash or two, `-flag value` or `-flag=value`,
//! switches without a value, and flags end at the first other argument
//! (containerd, `pkg/shim/shim.go`, `parseFlags`).

use std::{ffi::OsString, os::unix::ffi::OsStrExt, path::PathBuf};

use shim_protocol::{Error, Result};

/// What the shim is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bind the socket, leave a serving process behind, print its address.
    Start,
    /// Clean up after a shim that died.
    Delete,
    /// Serve in the foreground.
    Serve,
    /// Describe the shim and its OCI runtime.
    Info,
    /// Print the version.
    Version,
}

/// The parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// Containerd namespace of the task, not yet checked.
    pub namespace: String,
    /// Id of the task, not yet checked.
    pub id: String,
    /// Path of the daemon's gRPC socket.
    pub address: String,
    /// Socket to serve on, in the foreground only.
    pub socket: Option<PathBuf>,
    /// The bundle, if it is not the working directory.
    pub bundle: Option<PathBuf>,
    /// Log debug messages too.
    pub debug: bool,
}

impl Args {
    /// Parses the arguments that follow the program's name.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown flag or action, or a missing value.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut parsed = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            socket: None,
            bundle: None,
            debug: false,
        };
        let mut query = None;
        let mut args = args.peekable();
        while let Some((name, inline)) = next_flag(&mut args)? {
            let switch = || is_true(&name, inline.as_ref());
            match name.as_str() {
                "debug" => parsed.debug = switch()?,
                "v" | "version" if switch()? => query = Some(Action::Version),
                "info" if switch()? => query = Some(Action::Info),
                "v" | "version" | "info" => {}
                _ => {
                    let value = match inline.or_else(|| args.next()) {
                        Some(value) => value,
                        None => return Err(Error::invalid(format!("flag -{name} needs a value"))),
                    };
                    parsed.set(&name, value)?;
                }
            }
        }
        parsed.action = match query {
            Some(query) => query,
            None => action(args.next())?,
        };
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: OsString) -> Result<()> {
        match name {
            "namespace" => self.namespace = text(name, value)?,
            "id" => self.id = text(name, value)?,
            "address" => self.address = text(name, value)?,
            "socket" => self.socket = Some(value.into()),
            "bundle" => self.bundle = Some(value.into()),
            // Events go to TTRPC_ADDRESS, and there is no debug server.
            "publish-binary" | "debug-socket" => {}
            _ => return Err(Error::invalid(format!("unknown flag -{name}"))),
        }
        Ok(())
    }
}

/// Takes the next flag with the value that is written into it, if any;
/// `None` at the first argument that is no flag, and after `--`.
fn next_flag<I: Iterator<Item = OsString>>(
    args: &mut std::iter::Peekable<I>,
) -> Result<Option<(String, Option<OsString>)>> {
    let Some(arg) = args.next_if(|arg| arg.len() > 1 && arg.as_bytes()[0] == b'-') else {
        return Ok(None);
    };
    let bytes = arg.as_bytes();
    let body = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
    if body.is_empty() {
        return Ok(None);
    }
    let (name, value) = match body.iter().position(|b| *b == b'=') {
        Some(at) => (&body[..at], Some(std::ffi::OsStr::from_bytes(&body[at + 1..]).to_owned())),
        None => (body, None),
    };
    let name = std::str::from_utf8(name)
        .map_err(|_| Error::invalid(format!("unknown flag {}", arg.display())))?;
    Ok(Some((name.to_owned(), value)))
}

fn action(word: Option<OsString>) -> Result<Action> {
    match word.as_ref().map(|word| word.as_bytes()) {
        None | Some(b"serve") => Ok(Action::Serve),
        Some(b"start") => Ok(Action::Start),
        Some(b"delete") => Ok(Action::Delete),
        Some(_) => {
            Err(Error::invalid(format!("unknown action {:?}", word.unwrap_or_default().display())))
        }
    }
}

/// A switch without a value is on; the spellings are those of Go's
/// `strconv.ParseBool`.
fn is_true(name: &str, value: Option<&OsString>) -> Result<bool> {
    match value.map(|value| value.as_bytes()) {
        None | Some(b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True") => Ok(true),
        Some(b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False") => Ok(false),
        Some(_) => Err(Error::invalid(format!("flag -{name} takes true or false"))),
    }
}

fn text(name: &str, value: OsString) -> Result<String> {
    value
        .into_string()
        .map_err(|value| Error::invalid(format!("flag -{name}: {} is no text", value.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim_protocol::ErrorKind;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_a_daemon_writes() {
        let args = parse(
            "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd \
             -id a -bundle /b -debug start",
        )
        .unwrap();
        assert_eq!(
            args,
            Args {
                action: Action::Start,
                namespace: "default".into(),
                id: "a".into(),
                address: "/run/c.sock".into(),
                socket: None,
                bundle: Some("/b".into()),
                debug: true,
            }
        );
    }

    #[test]
    fn all_spellings_of_a_flag() {
        for line in ["-id a delete", "--id a delete", "-id=a delete", "--id=a -- delete"] {
            let args = parse(line).unwrap();
            assert_eq!((args.id.as_str(), args.action), ("a", Action::Delete), "{line}");
        }
        assert!(!parse("-debug=false").unwrap().debug);
        assert_eq!(parse("-id=a=b").unwrap().id, "a=b");
    }

    #[test]
    fn queries_need_nothing_else() {
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("--version").unwrap().action, Action::Version);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-info=false").unwrap().action, Action::Serve);
    }

    #[test]
    fn mistakes_are_invalid_and_named() {
        for (line, name) in [
            ("-colour red", "-colour"),
            ("-id", "-id"),
            ("-debug=maybe", "-debug"),
            ("stop", "stop"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
