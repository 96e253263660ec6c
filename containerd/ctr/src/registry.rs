//! Flags that say how a registry is reached.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use containerd_client::{Credentials, RegistryOptions};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// How a registry is reached.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Take any host for the one that is meant
    #[arg(short = 'k', long)]
    skip_verify: bool,
    /// Speak without TLS
    #[arg(long)]
    plain_http: bool,
    /// Name and password at the registry; it is asked for if it is not given
    #[arg(short, long, value_name = "USER[:PASSWORD]")]
    user: Option<String>,
    /// Refresh token for the registry's token server
    #[arg(long, value_name = "TOKEN", conflicts_with = "user")]
    refresh: Option<String>,
    /// Folder with one folder for each host, with its hosts.toml
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// File with further authorities, in PEM
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// File with our certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tlskey")]
    tlscert: Option<PathBuf>,
    /// File with the key of our certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tlscert")]
    tlskey: Option<PathBuf>,
}

impl RegistryArgs {
    /// What the library is told.
    pub(crate) fn options(&self) -> Result<RegistryOptions> {
        let credentials = match (&self.user, &self.refresh) {
            (Some(user), _) => basic(user, ask_password)?,
            (None, Some(token)) => Credentials::RefreshToken(token.clone()),
            (None, None) => Credentials::None,
        };
        let absolute = |path: &PathBuf| std::path::absolute(path);
        Ok(RegistryOptions {
            credentials,
            // The daemon has another working folder.
            hosts_dir: self.hosts_dir.as_ref().map(absolute).transpose()?,
            plain_http: self.plain_http,
            skip_verify: self.skip_verify,
            ca: self.tlscacert.clone(),
            client: self.tlscert.clone().zip(self.tlskey.clone()),
        })
    }
}

fn basic(user: &str, ask: impl FnOnce() -> Result<String>) -> Result<Credentials> {
    let (username, password) = match user.split_once(':') {
        Some((username, password)) if !password.is_empty() => (username, password.to_owned()),
        Some((username, _)) => (username, ask()?),
        None => (user, ask()?),
    };
    Ok(Credentials::Basic { username: username.into(), password })
}

/// Asks for a password on the terminal, which does not show it.
fn ask_password() -> Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        bail!("a password is needed: give it as --user NAME:PASSWORD, or use a terminal");
    }
    let before = tcgetattr(&stdin).context("get the mode of the terminal")?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO);
    let mut stdout = io::stdout();
    write!(stdout, "Password: ")?;
    stdout.flush()?;
    tcsetattr(&stdin, SetArg::TCSANOW, &quiet).context("set the mode of the terminal")?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, SetArg::TCSANOW, &before).context("set the mode of the terminal")?;
    writeln!(stdout)?;
    read.context("read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_asked_for_if_there_is_none() {
        let asked = || Ok("asked".to_owned());
        let credentials = |username: &str, password: &str| Credentials::Basic {
            username: username.into(),
            password: password.into(),
        };
        for (user, expected) in [
            ("me", credentials("me", "asked")),
            ("me:", credentials("me", "asked")),
            ("me:a:b", credentials("me", "a:b")),
        ] {
            assert!(basic(user, asked).unwrap() == expected, "{user}");
        }
    }
}
